"""The embedded videos of Kinetics' layout, quick, with a long tail of training videos: a few minutes per model.

Classes have 250, 142, 81, 46, 26, 15, 8 and 5 of 300 training videos; the test videos are balanced. Four times the
epochs of `kinetics-quick`, of a quarter of its videos: as many steps.
"""

from mmengine.config import read_base

with read_base():
    from .kinetics_quick import *

suite.update(
    dataset="synthetic-kinetics quick, long tail",
    tail=dict(kind="exponential", factor=50, largest=250, validation=25),
)

epochs = 12
stages = ["train", "retune", "test", "measure", "record"]
retune = dict(batch=64)

# Does it pay to draw rare classes more often in the training itself?
entries += [
    dict(
        name=f"{name}_{sampler}",
        net=name,
        note=f"classes drawn: {sampler}",
        changes=dict(sampler=sampler),
        optional=True,
    )
    for name in ("x3d", "tsm")
    for sampler in ("square_root", "class", "progressive")
]
