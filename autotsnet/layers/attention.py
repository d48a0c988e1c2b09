"""Attention blocks: one of five at the end of each block group of each stream.

The list is ours; the paper says that the type is searched, not which types there are. All but squeeze-excite are
residual branches whose last norm starts at zero, so that a fresh block is the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from keyword import iskeyword
from typing import Any

from torch import Tensor, nn

from autotsnet.architecture import ATTENTIONS, one_of
from autotsnet.layers.elastic import Channels, Conv3d, conv_norm_act
from autotsnet.layers.glore import GraphReasoning
from autotsnet.registry import MODELS


def reduced(channels: int, by: int) -> int:
    """Channels divided by ``by``, rounded up: at least one."""
    return -(-channels // by)


class SqueezeExcite(nn.Module):
    """Squeeze-excite over space and time (arXiv 1709.01507); reduction 4 as MobileNetV3 and MoViNet."""

    def __init__(self, channels: Channels, name: str) -> None:
        super().__init__()
        mid = Channels(f"{name}.mid", reduced(channels.size, 4))
        self.reduce = Conv3d(channels, mid)
        self.expand = Conv3d(mid, channels)

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W -> the same shape."""
        gate = x.mean((2, 3, 4), keepdim=True)
        return x * self.expand(self.reduce(gate).relu()).sigmoid()


class NonLocal(nn.Module):
    """Dot-product non-local block (arXiv 1711.07971 §3.2): keys and values max-pooled 1×2×2, C/2 channels inside."""

    def __init__(self, channels: Channels, name: str) -> None:
        super().__init__()
        key = Channels(f"{name}.key", reduced(channels.size, 2))
        value = Channels(f"{name}.value", key.size)
        self.query = Conv3d(channels, key)
        self.key = Conv3d(channels, key)
        self.value = Conv3d(channels, value)
        self.out = conv_norm_act(value, channels, act=None, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W -> the same shape."""
        pooled = nn.functional.max_pool3d(x, (1, 2, 2), (1, 2, 2), ceil_mode=True)
        query = self.query(x).flatten(2)  # B C/2 THW
        key = self.key(pooled).flatten(2)  # B C/2 THW/4
        value = self.value(pooled).flatten(2)
        # (value keyᵀ) query instead of value (keyᵀ query): the same product without the THW × THW/4 matrix
        context = value @ key.transpose(1, 2) / key.shape[2]  # B C/2 C/2
        y = (context @ query).unflatten(2, x.shape[2:])
        return x + self.out(y)


class GloRe(GraphReasoning):
    """Graph-based global reasoning by the paper's formula: C/8 nodes of C/4 states, no biases."""

    as_code, normalize = False, True

    def __init__(self, channels: Channels, name: str) -> None:
        super().__init__()
        state = Channels(f"{name}.state", reduced(channels.size, 4))
        mixed = Channels(f"{name}.mixed", state.size)
        node = Channels(f"{name}.node", reduced(channels.size, 8))
        self.reduce = Conv3d(channels, state)
        self.assign = Conv3d(channels, node)
        self.nodes = Conv3d(node, node)
        self.states = Conv3d(state, mixed)
        self.out = conv_norm_act(mixed, channels, act=None, zero=True)


class TemporalAttention(nn.Module):
    """Softmax attention between frames: weights from spatial means, values at full resolution, C/4 channels inside."""

    def __init__(self, channels: Channels, name: str) -> None:
        super().__init__()
        key = Channels(f"{name}.key", reduced(channels.size, 4))
        value = Channels(f"{name}.value", key.size)
        self.query = Conv3d(channels, key)
        self.key = Conv3d(channels, key)
        self.value = Conv3d(channels, value)
        self.out = conv_norm_act(value, channels, act=None, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W -> the same shape."""
        frames = x.mean((3, 4), keepdim=True)
        query = self.query(frames).flatten(2).transpose(1, 2)  # B T D
        key = self.key(frames).flatten(2)  # B D T
        weights = (query @ key / key.shape[1] ** 0.5).softmax(-1)  # B T T
        value = self.value(x)  # B D T H W
        y = weights @ value.transpose(1, 2).flatten(2)  # B T DHW
        y = y.unflatten(2, (value.shape[1], *value.shape[3:])).transpose(1, 2)
        return x + self.out(y)


BLOCKS = {"se": SqueezeExcite, "nonlocal": NonLocal, "glore": GloRe, "temporal": TemporalAttention}


class Attention(nn.Module):
    """One attention position.

    Args:
        kinds: which types this module holds weights for: one in a static model, all of them in a supernet.
        channels: channels of the group.
        name: unique in the net; names the inner channel spaces.
    """

    def __init__(self, kinds: Sequence[str], channels: Channels, name: str) -> None:
        super().__init__()
        self.kind = kinds[0]
        self.ops = nn.ModuleDict({_attribute(k): BLOCKS[k](channels, f"{name}.{k}") for k in kinds if k != "none"})

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W -> the same shape."""
        return x if self.kind == "none" else self.ops[_attribute(self.kind)](x)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Load old weights too, in which the name of a part is its kind."""
        for kind in filter(iskeyword, BLOCKS):
            old = f"{prefix}ops.{kind}."
            for key in [key for key in state_dict if key.startswith(old)]:
                state_dict[f"{prefix}ops.{_attribute(kind)}.{key.removeprefix(old)}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def _attribute(kind: str) -> str:
    """Name of a kind's part: torch.export writes Python, in which ``nonlocal`` is no attribute."""
    return f"{kind}_" if iskeyword(kind) else kind


@MODELS.register_module(name="Attention")
def attention(kind: str, channels: int) -> Attention:
    """The attention as a config states it: one type, a plain number of channels."""
    one_of(kind, ATTENTIONS, "Attention: kind")
    return Attention((kind,), Channels("group", channels), "attention")
