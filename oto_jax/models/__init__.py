"""Reference networks in Flax Linen, every width a field."""
