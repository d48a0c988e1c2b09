"""Units that change any network of a family, see ``autotsnet.transforms``; importing this package registers them."""

from baselines.transforms import glore, octconv

__all__ = ["glore", "octconv"]
