"""A model of one's own for `python -m reproduce compare`: a small (2+1)D residual net, in plain torch.

`register_family` names the arguments that scale the cost, with range and step: the width, and one for the last
percents, which a width of few channels cannot reach. The class (or function) below it is built with these arguments and
the keywords `num_classes`, `frames` and `crop`, and maps clips B 3 T H W to logits B N.
"""

from torch import Tensor, nn

from autotsnet.registry import Knob, register_family


class Block(nn.Module):
    """3x3 in space, 3 in time, and a shortcut."""

    def __init__(self, in_chs: int, middle_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        self.space = nn.Conv3d(in_chs, middle_chs, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
        self.time = nn.Conv3d(middle_chs, out_chs, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.shortcut = nn.Conv3d(in_chs, out_chs, 1, (1, stride, stride), bias=False)
        self.norm1, self.norm2, self.relu = nn.BatchNorm3d(middle_chs), nn.BatchNorm3d(out_chs), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Features B C T H W to B C' T H/stride W/stride."""
        y = self.norm2(self.time(self.relu(self.norm1(self.space(x)))))
        return self.relu(y + self.shortcut(x))


@register_family(Knob("width", 4, 256, 0.125), Knob("middle", 0.75, 1.5, 0.01))
class MyModel(nn.Module):
    """Stem, four blocks whose width doubles, global pooling, classifier."""

    def __init__(self, num_classes: int, frames: int, crop: int, width: float = 16, middle: float = 1.0) -> None:
        super().__init__()
        chs = [round(width * 2**i) for i in range(4)]
        self.stem = nn.Sequential(
            nn.Conv3d(3, chs[0], (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False), nn.BatchNorm3d(chs[0]), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            *(Block(chs[max(0, i - 1)], round(middle * c), c, 1 if i == 0 else 2) for i, c in enumerate(chs))
        )
        self.head = nn.Linear(chs[-1], num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips B 3 T H W to logits B N."""
        return self.head(self.blocks(self.stem(clips)).mean((2, 3, 4)))
