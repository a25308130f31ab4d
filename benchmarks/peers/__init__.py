"""Other pruning libraries, run beside this one in an environment of their own."""
