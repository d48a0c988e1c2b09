"""TS-Fusion: the exchange of features between the two streams, after the stem and between block groups.

The five candidates are ours; the paper says that the type is searched, not which types there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autotsnet.architecture import FUSIONS, one_of
from autotsnet.layers.elastic import Channels, conv_norm_act
from autotsnet.registry import MODELS


class TSFusion(nn.Module):
    """One TS-Fusion position.

    ======================  =====================================================================================
    kind                    effect
    ======================  =====================================================================================
    ``none``                no exchange
    ``concat``              k×1×1 convolution of stride α on fast, to 2 C_fast, BN, ReLU; concatenated to slow
                            (the lateral connection of SlowFast, arXiv 1812.03982 §3.3)
    ``fast_to_slow``        k×1×1 convolution of stride α on fast, to C_slow, BN; added to slow
    ``slow_to_fast``        1×1×1 convolution on slow, to C_fast, BN; repeated α times in time; added to fast
    ``both``                both sums at once, each from the unfused features of the other stream
    ======================  =====================================================================================

    Args:
        kinds: which of them this module holds weights for: one in a static model, all of them in a supernet.
        slow: channels of the slow stream here.
        fast: channels of the fast stream here.
        alpha: ratio of the frame counts.
        kernel: temporal kernel of the convolutions on the fast stream.
        name: unique in the net; names the space of the concatenated channels.
    """

    def __init__(
        self, kinds: Sequence[str], slow: Channels, fast: Channels, *, alpha: int, kernel: int, name: str
    ) -> None:
        super().__init__()
        self.kind = kinds[0]
        self.alpha = alpha
        k, s = (kernel, 1, 1), (alpha, 1, 1)
        self.lateral = Channels(f"{name}.lateral", 2 * fast.size)
        self.ops = nn.ModuleDict()
        if "concat" in kinds:
            self.ops["concat"] = conv_norm_act(fast, self.lateral, k, s)
        if {"fast_to_slow", "both"} & set(kinds):
            self.ops["fast_to_slow"] = conv_norm_act(fast, slow, k, s, act=None)
        if {"slow_to_fast", "both"} & set(kinds):
            self.ops["slow_to_fast"] = conv_norm_act(slow, fast, act=None)

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        """B C_s T/α H W and B C_f T H W -> the same, slow with C_s + 2 C_f channels after ``concat``."""
        if self.kind == "none":
            return slow, fast
        if self.kind == "concat":
            return torch.cat([slow, self.ops["concat"](fast)], dim=1), fast
        new_slow = slow + self.ops["fast_to_slow"](fast) if "fast_to_slow" in self.ops else slow
        if "slow_to_fast" in self.ops:
            fast = fast + self.ops["slow_to_fast"](slow).repeat_interleave(self.alpha, dim=2)
        return new_slow, fast


@MODELS.register_module(name="TSFusion")
def ts_fusion(kind: str, slow_channels: int, fast_channels: int, alpha: int, kernel: int = 5) -> TSFusion:
    """The fusion as a config states it: one type, plain numbers of channels."""
    one_of(kind, FUSIONS, "TSFusion: kind")
    slow, fast = Channels("slow", slow_channels), Channels("fast", fast_channels)
    return TSFusion((kind,), slow, fast, alpha=alpha, kernel=kernel, name="fusion")
