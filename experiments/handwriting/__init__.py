"""The demo's parts: images, network, training."""
