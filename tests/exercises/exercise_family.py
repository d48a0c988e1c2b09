"""A family: one convolution, pooled."""

from torch import nn

from autotsnet.registry import Knob, register_family


@register_family(Knob("width", 1, 256, 1))
def one_layer(*, num_classes, frames=8, crop=32, width=8):
    conv = nn.Conv3d(3, width, 3, (1, 2, 2), 1, bias=False)
    return nn.Sequential(
        conv, nn.BatchNorm3d(width), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(width, num_classes)
    )
