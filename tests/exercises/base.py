"""What the exercises have in common: tiny clips, seconds of training."""

from mmengine.config import read_base

with read_base():
    from configs.recipes.tiny import *

suite = dict(
    dataset="Exercise",
    layout="kinetics",
    root="MY_VIDEOS",
    classes=4,
    gmacs=0.0005,
    protocol=dict(
        sampling=dict(kind="segment", frames=4, clips=1),
        crops=dict(size=16, short_side=18, jitter=(17, 21), flip=0.0),
    ),
)
epochs = 0.2
