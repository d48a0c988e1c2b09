"""A suite of one's own: python -m reproduce run configs/examples/my_suite.py

The suite is called as its file: my-suite. The videos lie as those of Kinetics (or Something-Something), in the folder
that MY_VIDEOS names. Everything that is left out here is the recipe's: see configs/recipes/quick.py.
"""

from mmengine.config import read_base

from baselines.x3d import x3d

with read_base():
    from configs.recipes.quick import *

suite = dict(
    dataset="My videos",
    layout="kinetics",  # kinetics, ssv2, or one that a package of yours registers
    root="MY_VIDEOS",  # environment variable
    classes=4,
    gmacs=0.006,  # of every entry, per view
    protocol=dict(
        sampling=dict(kind="segment", frames=8, clips=2),
        crops=dict(size=32, short_side=36, jitter=(33, 42), flip=0.5),
    ),
)

epochs = 1
batch = 4

nets["x3d_narrow"] = dict(type=x3d, blocks=(1, 1, 2, 1), head_width=64, dropout=0.0)

entries = [
    dict(name="x3d"),
    dict(name="x3d_narrow", note="a quarter of the head"),
    dict(name="auto_tsnet_random", note="drawn", net="auto_tsnet", search="auto_tsnet", variants=2),
]
