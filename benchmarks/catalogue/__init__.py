"""Models of many packages, written by many people, that `benchmarks/architectures.py` runs on."""
