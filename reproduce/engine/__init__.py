"""Training and testing by mmengine's Runner."""

from reproduce.engine import classifier, runner  # noqa: F401  (registers models, hooks, loops)
