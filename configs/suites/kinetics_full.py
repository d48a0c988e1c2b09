"""The embedded videos of Kinetics' layout, full: hours on a GPU."""

from mmengine.config import read_base

with read_base():
    from .._base_.entries import *
    from ..recipes.full import *

suite = dict(
    dataset="synthetic-kinetics full",
    layout="kinetics",
    size="full",
    classes=24,
    gmacs=0.5,
    protocol=dict(
        sampling=dict(kind="segment", frames=16, clips=2),
        # The jitter is what 256-320 would be to a crop of 248. No flip: several motions change their class with it.
        crops=dict(size=112, short_side=126, jitter=(115, 147), flip=0.0),
    ),
)
