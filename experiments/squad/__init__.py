"""SQuAD v1.1: questions, features, answers from logits, and the official metric."""
