"""Units that change any network of a family, see ``autotsnet.transforms``; importing this package registers them."""

from baselines.transforms import glore

__all__ = ["glore"]
