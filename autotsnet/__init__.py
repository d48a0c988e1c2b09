"""Auto-TSNet: architecture search for two-stream video models. Importing the package registers its members."""

from autotsnet import models, spaces  # noqa: F401
