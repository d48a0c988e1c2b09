"""The video models that Auto-TSNet is compared with."""
