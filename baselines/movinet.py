"""MoViNet (Kondratyuk et al., 2021): searched mobile 3D networks, and causal ones that see a stream frame by frame.

https://arxiv.org/abs/2103.11511. Structures and layers follow the authors (``tensorflow/models``:
``official/projects/movinet/modeling``); the gate of the streams is the one that the published weights agree with, see
``hard_sigmoid``.

A stream does not depend on how its frames come: one by one, in chunks or as a whole clip, the last logits are the same.
Between the chunks it keeps the last frames of each temporal convolution and sums over the frames before, so that its
memory does not grow:

    >>> net = movinet(num_classes=400, causal=True).eval()
    >>> state = None
    >>> for frame in frames:  # B 3 1 H W
    ...     logits, state = net.stream(frame, state)

B clips, C channels, T frames, H W pixels, N classes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotsnet.registry import Knob, register_family
from baselines import upstream

# Channels of the stem; of each of five blocks the output channels, the inner channels of its layers and their kernels,
# 53 for 5x3x3; channels before the pooling and after it. ``33*4``: four times.
_TABLES = {
    "a0": "8 | 8: 24; 15 | 32: 80*3; 33*3 | 56: 184 112 184; 53 33*2 | 56: 184*4; 53 33*3 "
    "| 104: 384 280*2 344; 53 15*3 | 480 2048",
    "a1": "16 | 16: 40*2; 15 33 | 40: 96 120 96*2; 33*4 | 64: 216 128 216 168 216; 53 33*4 "
    "| 64: 216*3 128*2 216; 53 33*3 15 33 | 136: 456 360*3 456*2 544; 53 15*4 33 13 | 600 2048",
    "a2": "16 | 16: 40*2 64; 15 33*2 | 40: 96 120 96*2 120; 33*5 | 72: 240 160 240 192 240; 53 33*4 "
    "| 72: 240*4 144 240; 53 33*3 15 33 | 144: 480 384*2 480*3 576; 53 15*4 33 13 | 640 2048",
    "a3": "16 | 16: 40*2 64 40; 15 33*3 | 48: 112 144 112*2 144*2; 33*3 15 33*2 | 80: 240 152 240 192 240; 53 33*4 "
    "| 88: 264*4 160 264*3; 53 33*3 15 33*3 | 168: 560 448*2 560*3 448*2 560 672; 53 15*4 33 15*2 33 13 | 744 2048",
    "a4": "24 | 24: 64*2 96 64 96 64; 15 33*5 | 56: 168*2 136*2 168*3 136*2; 33*7 15 33 "
    "| 96: 320 160 320 192 320 160 320 256 320; 53 33*8 | 96: 320*4 192 320*2 192 320*2; 53 33*3 15 33*5 "
    "| 192: 640 512*2 640*3 512*2 640 768 640*2 768; 53 15*4 33 15*5 33*2 | 856 2048",
    "a5": "24 | 24: 64*2 96 64 96 64; 15*2 33*4 | 64: 192 152*3 192*3 152*2 192*2; 53 33*10 "
    "| 112: 376 224 376*2 296 376 224 376*2 296 376*3; 53 33*12 | 120: 376*4 224 376*2 224 376*3; 53 33*3 15 33*6 "
    "| 224: 744*2 600*2 744*3 896 600*2 896 744*2 896 600*2 744*2; 53 33 15*4 33 15*5 33 15*4 33 | 992 2048",
    "t0": "8 | 8: 16; 15 | 32: 72*2; 33 15 | 56: 112*3; 53 15 33 | 56: 184*4; 53 15 33*2 "
    "| 104: 344*4; 53 15*2 33 | 240 1024",
}
STRIDES = (2, 2, 2, 1, 2)  # in space, of each block's first layer; the stem has another 2, nothing strides in time
POSITIONS = ("a3", "a4", "a5")  # whose streams know how many frames they have seen


@dataclass(frozen=True)
class Structure:
    """One of the published networks.

    Attributes:
        stem: channels of the stem.
        blocks: of each block the output channels, and of its layers inner channels, kernel in time and in space.
        project: channels before the pooling.
        hidden: channels after the pooling.
    """

    stem: int
    blocks: tuple[tuple[int, tuple[tuple[int, int, int], ...]], ...]
    project: int
    hidden: int


def structure(size: str) -> Structure:
    """The published network of a size.

    Raises:
        ValueError: there is none.
    """
    if size not in _TABLES:
        raise ValueError(f"movinet: unknown size {size!r}; known: {', '.join(_TABLES)}")
    stem, *blocks, head = _TABLES[size].split("|")

    def block(text: str) -> tuple[int, tuple[tuple[int, int, int], ...]]:
        width, _, layers = text.partition(":")
        inner, kernels = map(_listed, layers.split(";"))
        return int(width), tuple((chs, *divmod(kernel, 10)) for chs, kernel in zip(inner, kernels, strict=True))

    return Structure(int(stem), tuple(map(block, blocks)), *map(int, head.split()))


def _listed(text: str) -> list[int]:
    """``53 33*2`` as 53, 33, 33."""
    parts = (part.partition("*") for part in text.split())
    return [int(value) for value, _, times in parts for _ in range(int(times or 1))]


def divisible(value: float, by: int = 8) -> int:
    """The nearest multiple of ``by``, at least one and not below nine tenths of the value."""
    nearest = max(by, int(value + by / 2) // by * by)
    return nearest + by if nearest < 0.9 * value else nearest


def hard_sigmoid(x: Tensor) -> Tensor:
    """Keras' older hard sigmoid, which the published streams agree with; today's TensorFlow has relu6(x + 3) / 6."""
    return (0.2 * x + 0.5).clamp(0, 1)


def padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around B C T H W as TensorFlow has them: with a stride of 2 on an even side, one fewer left and above."""
    pads = []
    for side in (x.shape[-1], x.shape[-2]):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class Padded(nn.Module):
    """See ``padded``."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W -> B C T H' W'."""
        return padded(x, self.kernel, self.stride)


class HalvedAverage(nn.Module):
    """Average of 3x3 at a stride of 2 over the pixels that are there: the zeros around them do not count."""

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W -> B C T H/2 W/2, rounded up."""
        pixels = torch.ones_like(x[:1, :1, :1])
        means, shares = (F.avg_pool3d(padded(of, 3, 2), (1, 3, 3), (1, 2, 2)) for of in (x, pixels))
        return means / shares


def conv_norm(
    ins: int,
    outs: int,
    kernel: tuple[int, int, int] = (1, 1, 1),
    *,
    stride: int = 1,
    depthwise: bool = False,
    ahead: bool = True,
    act: type[nn.Module] | None = None,
) -> nn.Sequential:
    """Convolution, batch norm and activation.

    Args:
        ins: channels.
        outs: channels.
        kernel: in time and space.
        stride: in space.
        depthwise: a filter per channel.
        ahead: T stays, with zeros on both sides; else only whole windows count.
        act: class of the activation.
    """
    t, k, _ = kernel
    layers: dict[str, nn.Module] = {} if stride == 1 else {"pad": Padded(k, stride)}
    space = 0 if stride > 1 else k // 2
    layers["conv"] = nn.Conv3d(
        ins,
        outs,
        kernel,
        stride=(1, stride, stride),
        padding=(t // 2 if ahead else 0, space, space),
        groups=ins if depthwise else 1,
        bias=False,
    )
    layers["norm"] = nn.BatchNorm3d(outs, eps=1e-3, momentum=0.01)
    return nn.Sequential(OrderedDict(layers | ({"act": act()} if act else {})))


def positions(first: int, frames: int, chs: int, device: torch.device) -> Tensor:
    """Sinusoids of the frames ``first``, ``first + 1``, …, T C: the sines first, as the authors have them."""
    at = torch.arange(first, first + frames, device=device)[:, None]
    angles = at / 10_000 ** (torch.arange(0, chs, 2, device=device) / chs)  # T C/2
    return torch.cat((angles.sin(), angles.cos()), 1)


class SqueezeExcite(nn.Module):
    """Gates of the channels, from their means over the clip.

    In a stream each frame has gates of its own, from its means and from those over all frames until then.

    Args:
        chs: C.
        causal: of a stream.
        positions: add sinusoids of the frame's number to the means, times a weight that starts at zero.
    """

    def __init__(self, chs: int, causal: bool, positions: bool) -> None:
        super().__init__()
        means = 2 * chs if causal else chs
        self.reduce = nn.Conv3d(means, divisible(means / 4), 1)
        self.act = nn.Hardswish() if causal else nn.SiLU()
        self.expand = nn.Conv3d(self.reduce.out_channels, chs, 1)
        self.causal = causal
        self.position_scale = nn.Parameter(torch.zeros(())) if positions else None

    def forward(self, x: Tensor, total: Tensor | float = 0.0, seen: int = 0) -> tuple[Tensor, Tensor | None]:
        """B C T H W, sum of the means of the ``seen`` frames before -> the same shape, the sum now: B C 1 1 1."""
        if not self.causal:
            return x * self._gates(x.mean((2, 3, 4), keepdim=True)).sigmoid(), None
        now = x.mean((3, 4), keepdim=True)  # B C T 1 1
        frames = now.shape[2]
        # In single precision at least: a sum over many frames.
        sums = now.to(torch.promote_types(now.dtype, torch.float32)).cumsum(2) + total
        counts = torch.arange(seen + 1, seen + frames + 1, device=x.device).view(-1, 1, 1)
        means = torch.cat(((sums / counts).to(now.dtype), now), 1)  # B 2C T 1 1
        if self.position_scale is not None:
            added = positions(seen, frames, means.shape[1], x.device).t()[..., None, None]
            means = means + self.position_scale * added.to(means.dtype)
        return x * hard_sigmoid(self._gates(means)), sums[:, :, -1:]

    def _gates(self, means: Tensor) -> Tensor:
        return self.expand(self.act(self.reduce(means)))


Memory = tuple[Tensor | None, Tensor | None]
"""What a layer of a stream keeps: the last frames before its temporal convolution, and the sum of ``SqueezeExcite``."""


class Layer(nn.Module):
    """Expand, depthwise convolution, squeeze-excite, project; times a weight that starts at zero (ReZero), plus input.

    In a stream the depthwise convolution is one in space and then one in time, over the frame and those before it.

    Args:
        ins: channels.
        outs: channels.
        inner: channels of the depthwise convolution.
        kernel: of the same, in time and in space.
        stride: in space.
        causal: of a stream.
        positions: see ``SqueezeExcite``.
        drop_path: probability of dropping the branch.
    """

    def __init__(
        self,
        ins: int,
        outs: int,
        inner: int,
        kernel: tuple[int, int],
        stride: int,
        causal: bool,
        positions: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        act, (t, k) = nn.Hardswish if causal else nn.SiLU, kernel
        self.kept = t - 1 if causal else 0
        self.expand = conv_norm(ins, inner, act=act)
        own = 1 if causal else t
        self.depthwise = conv_norm(inner, inner, (own, k, k), stride=stride, depthwise=True, act=act)
        if self.kept:
            self.temporal = conv_norm(inner, inner, (t, 1, 1), depthwise=True, ahead=False, act=act)
        self.se = SqueezeExcite(inner, causal, positions)
        self.project = conv_norm(inner, outs)
        self.scale = nn.Parameter(torch.zeros(()))
        self.drop_path = upstream.DropPath(drop_path)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(HalvedAverage())
        if stride > 1 or ins != outs:
            self.shortcut.append(conv_norm(ins, outs))

    def forward(self, x: Tensor, memory: Memory = (None, None), seen: int = 0) -> tuple[Tensor, Memory]:
        """B C T H W, what is kept of the ``seen`` frames before -> B C' T H/s W/s, what is to be kept."""
        past, total = memory
        y = self.depthwise(self.expand(x))
        if self.kept:
            y = F.pad(y, (0, 0, 0, 0, self.kept, 0)) if past is None else torch.cat((past, y), 2)
            past = y[:, :, -self.kept :]
            y = self.temporal(y)
        y, total = self.se(y, 0.0 if total is None else total, seen)
        return self.shortcut(x) + self.drop_path(self.scale * self.project(y)), (past, total)


@dataclass(frozen=True)
class StreamState:
    """What a stream keeps of the frames so far: equally much after one and after a million.

    Attributes:
        shape: B, H, W of the frames.
        seen: how many they were.
        layers: what each layer keeps.
        total: sum over the frames of their means before the head, B C.
    """

    shape: tuple[int, int, int]
    seen: int
    layers: tuple[Memory, ...]
    total: Tensor

    @property
    def buffered(self) -> int:
        """Numbers that the buffers of the temporal convolutions hold."""
        return sum(past.numel() for past, _ in self.layers if past is not None)

    @property
    def bytes(self) -> int:
        """Size of all that is kept."""
        kept = [tensor for memory in self.layers for tensor in memory if tensor is not None]
        return sum(tensor.untyped_storage().nbytes() for tensor in (*kept, self.total))


class MoViNet(nn.Module):
    """Stem, five blocks of layers, projected pooling, hidden layer, classifier.

    Args:
        num_classes: N.
        plan: channels of all layers.
        causal: a stream: no output depends on later frames.
        positions: see ``SqueezeExcite``.
        drop_path: probability of dropping the branch of the last layer; falls linearly towards the first.
        dropout: probability of a dropout before the classifier.
    """

    head = ("hidden", "dropout", "fc")

    def __init__(
        self, num_classes: int, plan: Structure, causal: bool, positions: bool, drop_path: float, dropout: float
    ) -> None:
        super().__init__()
        act = nn.Hardswish if causal else nn.SiLU
        self.causal = causal
        self.stem = conv_norm(3, plan.stem, (1, 3, 3), stride=2, act=act)
        self.blocks = nn.ModuleList()
        ins, count, layers = plan.stem, 0, sum(len(layers) for _, layers in plan.blocks)
        for (outs, block), stride in zip(plan.blocks, STRIDES, strict=True):
            made = nn.ModuleList()
            for i, (inner, *kernel) in enumerate(block):
                count += 1
                rate = drop_path * count / layers
                made.append(Layer(ins, outs, inner, kernel, 1 if i else stride, causal, positions, rate))
                ins = outs
            self.blocks.append(made)
        self.project = conv_norm(ins, plan.project, act=act)
        self.hidden = nn.Linear(plan.project, plan.hidden)
        self.act = nn.SiLU()  # in streams, too
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(plan.hidden, num_classes)
        self._init_weights()

    def _init_weights(self) -> None:
        # As the authors: He normal, fan in; the classifier N(0, 0.01).
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.fc.weight, std=0.01)

    def features(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to features ``B C T H/32 W/32``."""
        return self._features(clips, None)[0]

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to logits ``B N``.

        Raises:
            ValueError: the clips have no frames.
        """
        if not clips.shape[2]:
            raise ValueError("MoViNet got clips of 0 frames; it takes any number from 1 on")
        return self._logits(self.features(clips).mean((2, 3, 4)))

    @torch.no_grad()
    def stream(self, frames: Tensor, state: StreamState | None = None) -> tuple[Tensor, StreamState]:
        """The next frames of a stream; for evaluation mode, without gradients.

        Args:
            frames: B 3 T H W, T from 1 on.
            state: what was returned with the frames before; None: these are the first.

        Returns:
            Logits ``B N`` of all frames so far, and what to give back with the next ones.

        Raises:
            ValueError: a network that looks ahead, no frames, or frames of another size than those before.
        """
        if not self.causal:
            raise ValueError("this MoViNet looks at later frames and cannot stream; build a stream: causal=True")
        if not frames.shape[2]:
            raise ValueError("a stream goes on with one frame or more, these are 0")
        shape = (frames.shape[0], *frames.shape[3:])
        if state and shape != state.shape:
            (b, h, w), (old_b, old_h, old_w) = shape, state.shape
            raise ValueError(
                f"the stream began with {old_b}×{old_h}×{old_w} pixels (batch, height, width) and now gets "
                f"{b}×{h}×{w}; begin a new one, or resize the frames"
            )
        features, layers = self._features(frames, state)
        total = features.mean((3, 4)).sum(2) + (state.total if state else 0)
        seen = frames.shape[2] + (state.seen if state else 0)
        kept = tuple(tuple(None if t is None else t.clone() for t in memory) for memory in layers)  # not their chunks
        return self._logits(total / seen), StreamState(shape, seen, kept, total)

    def _features(self, x: Tensor, state: StreamState | None) -> tuple[Tensor, list[Memory]]:
        x, kept = self.stem(x), []
        for i, layer in enumerate(layer for block in self.blocks for layer in block):
            x, memory = layer(x, state.layers[i], state.seen) if state else layer(x)
            kept.append(memory)
        return self.project(x), kept

    def _logits(self, pooled: Tensor) -> Tensor:
        return self.fc(self.dropout(self.act(self.hidden(pooled))))


class TemporalEnsemble(nn.Module):
    """K networks that share the frames, each at a K-th of their rate: as many multiply-accumulates as of one network.

    Network i sees the frames i, i + K, …; their logits are averaged before the softmax. They are trained apart.

    Args:
        nets: from clips ``B 3 T H W`` to logits ``B N``; two in the paper.
    """

    def __init__(self, *nets: nn.Module) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to logits ``B N``.

        Raises:
            ValueError: there are fewer frames than networks.
        """
        k = len(self.nets)
        if clips.shape[2] < k:
            raise ValueError(f"an ensemble of {k} networks got clips of {clips.shape[2]} frames; each needs one")
        return torch.stack([net(clips[:, :, i::k]) for i, net in enumerate(self.nets)]).mean(0)

    def stream(self, frames: Tensor, state: tuple[Any, ...] | None = None) -> tuple[Tensor, tuple[Any, ...]]:
        """As ``MoViNet.stream``, of networks that stream; networks that have seen nothing yet do not count."""
        k = len(self.nets)
        seen, states, logits = state or (0, (None,) * k, (None,) * k)
        states, logits = list(states), list(logits)
        for i, net in enumerate(self.nets):
            own = frames[:, :, (i - seen) % k :: k]
            if own.shape[2]:
                logits[i], states[i] = net.stream(own, states[i])
        known = [of for of in logits if of is not None]
        return torch.stack(known).mean(0), (seen + frames.shape[2], tuple(states), tuple(logits))


@register_family(Knob("width", 0.1, 6, 0.01), Knob("expansion", 0.5, 2, 0.01))
def movinet(
    *,
    num_classes: int,
    frames: int = 50,
    crop: int = 172,
    width: float = 1.0,
    expansion: float = 1.0,
    size: str = "a0",
    causal: bool = False,
    head_width: int | None = None,
    drop_path: float = 0.2,
    dropout: float = 0.5,
) -> nn.Module:
    """MoViNet; the defaults are A0's structure.

    ::

        clip B 3 T H W -> 1x3x3 -> 5 x block of layers -> 1x1x1 -> pool -> linear -> linear -> logits B N

    Args:
        num_classes: N.
        frames: T; nothing in the net strides in time, any T from 1 on will do.
        crop: side of the frames in pixels; the net pools globally, any crop will do.
        width: knob; factor on all channels but those of the hidden layer.
        expansion: knob; factor on the inner channels of the layers, beside ``width``.
        size: a0 to a5, or t0.
        causal: a stream, see ``MoViNet.stream``.
        head_width: channels between pooling and classifier; by default those of the size.
        drop_path: of the last layer, see ``MoViNet``.
        dropout: probability of a dropout before the classifier.

    Returns:
        A module from clips ``B 3 T H W`` to logits ``B N``.

    Raises:
        ValueError: unknown size, or no frames.
    """
    if frames < 1:
        raise ValueError(f"movinet: frames={frames}; it takes any number from 1 on")
    published = structure(size)

    def scaled(chs: int, factor: float = width) -> int:
        return max(1, round(chs * factor))

    blocks = (
        (scaled(outs), tuple((scaled(inner, width * expansion), *kernel) for inner, *kernel in layers))
        for outs, layers in published.blocks
    )
    plan = Structure(scaled(published.stem), tuple(blocks), scaled(published.project), head_width or published.hidden)
    return MoViNet(num_classes, plan, causal, causal and size in POSITIONS, drop_path, dropout)


# Frames, crop, stride and short side of the authors' test, which is one clip; A3 to A5 are trained with fewer frames.
INPUTS = {"a0": (50, 172, 5, 192), "a1": (50, 172, 5, 192), "a2": (50, 224, 5, 256)}
INPUTS |= {"a3": (120, 256, 2, 288), "a4": (80, 290, 3, 320), "a5": (120, 320, 2, 368)}
# Weights and accuracy of the streams are published for the 600 classes of Kinetics-600 only.
VARIANTS = {
    f"movinet_{size}{'_stream' if causal else ''}": (
        movinet,
        {"num_classes": 600 if causal else 400, "frames": frames, "crop": crop, "size": size}
        | ({"causal": True} if causal else {})
        | ({"dropout": 0.2} if size == "a0" else {}),
    )
    for causal in (False, True)
    for size, (frames, crop, *_) in INPUTS.items()
}
