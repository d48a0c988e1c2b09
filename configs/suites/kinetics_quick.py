"""The embedded videos of Kinetics' layout, quick: minutes on a CPU."""

from mmengine.config import read_base

with read_base():
    from .._base_.entries import *
    from ..recipes.quick import *

entries += [  # does a unit help at equal GMACs, where width could grow instead?
    dict(name="x3d_oct", note="OctConv", optional=True),
    dict(name="slowfast_oct", note="OctConv", optional=True),
    dict(name="tsm_oct", note="OctConv", optional=True),
    dict(name="auto_tsnet_oct", note="searched, then OctConv", search="auto_tsnet", optional=True),
    dict(name="x3d_glore", note="GloRe", optional=True),
    dict(name="slowfast_glore", note="GloRe", optional=True),
    dict(name="tsm_glore", note="GloRe", optional=True),
]

suite = dict(
    dataset="synthetic-kinetics quick",
    layout="kinetics",
    size="quick",
    classes=8,
    gmacs=0.016,
    protocol=dict(
        sampling=dict(kind="segment", frames=8, clips=2),
        # The jitter is what 256-320 would be to a crop of 248. No flip: several motions change their class with it.
        crops=dict(size=48, short_side=54, jitter=(49, 63), flip=0.0),
    ),
)
