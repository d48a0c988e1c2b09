"""Auto-TSNet: architecture search for two-stream video models."""
