"""A data-parallel training loop that knows neither the model nor the data."""
