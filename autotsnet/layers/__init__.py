"""Building blocks of the two-stream models."""
