"""The MBConv3D block: expand, depthwise t×k×k, project."""

from __future__ import annotations

from torch import Tensor, nn

from autotsnet.architecture import BlockChoice
from autotsnet.layers.elastic import Channels, conv_norm_act
from autotsnet.registry import MODELS


def expanded(choice: BlockChoice, channels: int) -> int:
    """Width inside the block: e times the *output* channels, as in X3D, so that it does not depend on the input."""
    return max(1, round(choice.e * channels))


class MBConv3D(nn.Module):
    """Inverted bottleneck in space and time.

    1×1×1 expand → BN → act → t×k×k depthwise (spatial stride only) → BN → act → 1×1×1 project → BN, plus the input
    where shapes agree. The internals are ours: Auto-TSNet's paper names t, k, C and e, not the rest.

    Args:
        ins: channels of the (concatenated) input.
        out: channels of the output.
        choice: t, k, e.
        stride: spatial stride.
        name: unique in the net; names the space of the expanded channels.
        act: activation (X3D: ReLU before, Swish after the depthwise layer; here one for both).
    """

    def __init__(
        self,
        ins: tuple[Channels, ...],
        out: Channels,
        choice: BlockChoice,
        *,
        stride: int,
        name: str,
        act: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        mid = Channels(f"{name}.mid", expanded(choice, out.size))
        kernel = (choice.t, choice.k, choice.k)
        self.residual = stride == 1 and ins == (out,)
        self.expand = conv_norm_act(ins, mid, act=act)
        self.depthwise = conv_norm_act(mid, mid, kernel, (1, stride, stride), depthwise=True, act=act)
        self.project = conv_norm_act(mid, out, act=None, zero=self.residual)

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W -> B C' T H/s W/s."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


@MODELS.register_module(name="MBConv3D")
def mbconv3d(in_channels: int, out_channels: int, t: int = 3, k: int = 3, e: float = 2.25, stride: int = 1) -> MBConv3D:
    """The block as a config states it; residual where the shapes agree."""
    ins = Channels("in", in_channels)
    out = ins if in_channels == out_channels else Channels("out", out_channels)
    return MBConv3D((ins,), out, BlockChoice(t, k, e), stride=stride, name="block")
