"""Pretrained checkpoints: finding them, and reading and writing their files without torch."""
