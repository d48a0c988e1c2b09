"""Something-Something-V2 at the budget of X3D-M and Auto-TSNet-M."""

from mmengine.config import read_base

with read_base():
    from .._base_.entries import *
    from ..recipes.ssv2 import *

suite = dict(
    dataset="Something-Something-V2",
    layout="ssv2",
    root="SSV2_ROOT",
    classes=174,
    gmacs=4.7,
    protocol=dict(
        sampling=dict(kind="segment", frames=16, clips=1),
        crops=dict(size=224, short_side=256, jitter=(256, 320), flip=0.5, crops=3),
    ),
    published="Something-Something-V2",
)

# Rows of published.csv: the nearest native variant of each entry.
literature = dict(
    slowfast=("SlowFast", "R50 16x8 standard schedule"),
    x3d=("X3D (VoV3D re-train)", "X3D-M 100e"),
    tsm=("TSM (mmaction2 re-train)", "TSM ResNet50"),
    pvnas=("PV-NAS", "PV-NAS-L"),
)
