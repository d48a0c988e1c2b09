"""Kinetics-400 at the budget of X3D-M and Auto-TSNet-M."""

from mmengine.config import read_base

with read_base():
    from .._base_.entries import *
    from ..recipes.kinetics import *

suite = dict(
    dataset="Kinetics-400",
    layout="kinetics",
    root="KINETICS_ROOT",
    classes=400,
    gmacs=4.7,
    protocol=dict(
        sampling=dict(kind="dense", frames=16, stride=5, clips=10),
        crops=dict(size=224, short_side=256, jitter=(256, 320), flip=0.5, crops=3),
    ),
    published="Kinetics-400",
)

# Rows of published.csv: the nearest native variant of each entry.
literature = dict(
    slowfast=("SlowFast", "R50 4x16"),
    x3d=("X3D", "X3D-M"),
    tsm=("TSM", "TSM ResNet50 uniform"),
    auto_tsnet=("Auto-TSNet", "Auto-TSNet-L"),
    pvnas=("PV-NAS", "PV-NAS-L"),
    mvit=("MViTv1", "MViT-B 16x4"),
    movinet=("MoViNet", "A2-Base"),
)
