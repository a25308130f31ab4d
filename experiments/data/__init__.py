"""Data sets: found, checked, read, and turned into batches."""
