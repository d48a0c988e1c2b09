"""The embedded videos of Kinetics' layout, tiny: seconds: for tests."""

from mmengine.config import read_base

with read_base():
    from .._base_.entries import *
    from ..recipes.tiny import *

suite = dict(
    dataset="synthetic-kinetics tiny",
    layout="kinetics",
    size="tiny",
    classes=4,
    gmacs=0.006,
    protocol=dict(
        sampling=dict(kind="segment", frames=8, clips=2),
        # The jitter is what 256-320 would be to a crop of 248. No flip: several motions change their class with it.
        crops=dict(size=32, short_side=36, jitter=(33, 42), flip=0.0),
    ),
)
