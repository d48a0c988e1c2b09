"""EvaNet (Piergiovanni et al., 2019): evolved modules of parallel space-time layers. https://arxiv.org/abs/1811.10636

Structure, layers and both networks follow ``google-research/google-research: evanet/model_dna.py, tgm_layer.py,
run_evanet.py``, the networks as their released strings encode them. Padding is TensorFlow's SAME.

B clips, C channels, T frames, H W pixels, N classes, L taps of a temporal kernel, M components of it.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotsnet.architecture import Architecture
from autotsnet.registry import Knob, register_family

CONVS = ("3d", "tgm", "2+1d")
TIMES = (1, 3, 5, 7, 9, 11)
WIDTHS = (256, 512, 1024, 2048)  # of the four stages
STEM = 64
COMPONENTS = 4  # of an iTGM kernel
SINGLE = "single"


def layers_of(branch: str) -> list[tuple[str, int]]:
    """The layers of a branch after its 1x1x1 convolution: operator and temporal length of each."""
    words = [] if branch == SINGLE else branch.split()
    return [(op, int(time)) for op, _, time in (word.rpartition("-") for word in words)]


@dataclass(frozen=True)
class Module:
    """One stage: a module of parallel branches, repeated.

    Attributes:
        repeats: how often it follows itself.
        branches: ``single``; ``max-7``; ``3d-5``; ``tgm-1 2+1d-9``: one or two convolutions with temporal lengths.
    """

    repeats: int
    branches: tuple[str, ...]


@dataclass(frozen=True)
class Structure:
    """One network.

    Attributes:
        stem: operator and temporal length of the stem, ``2+1d-3``.
        pools: temporal lengths of the max-pools: of the first two, of the third, of the fourth.
        modules: of res2 to res5.
    """

    stem: str
    pools: tuple[int, int, int]
    modules: tuple[Module, ...]

    def __post_init__(self) -> None:
        if len(self.modules) != len(WIDTHS):
            raise ValueError(f"{len(self.modules)} modules, a network has {len(WIDTHS)}")
        for branch in (self.stem, *(b for module in self.modules for b in module.branches)):
            ops = [op for op, _ in layers_of(branch)]
            known = ops in ([], ["max"]) or (len(ops) <= 2 and set(ops) <= set(CONVS))
            if not known or {time for _, time in layers_of(branch)} - set(TIMES):
                raise ValueError(
                    f"branch {branch!r} is none of: single, max-T, OP-T, OP-T OP-T with OP of {', '.join(CONVS)} and T "
                    f"of {', '.join(map(str, TIMES))}"
                )


@dataclass(frozen=True)
class Structures(Architecture):
    """The members of an ensemble; of a single network, one."""

    members: tuple[Structure, ...]

    argument = "structures"

    def to_dict(self) -> dict:
        """See ``Architecture``."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, data: dict) -> Structures:
        """See ``Architecture``."""
        try:
            return cls(
                tuple(
                    Structure(
                        m["stem"],
                        tuple(m["pools"]),
                        tuple(Module(s["repeats"], tuple(s["branches"])) for s in m["modules"]),
                    )
                    for m in data["members"]
                )
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no structures of EvaNet: {type(error).__name__} {error}") from error


# The two networks of the released ensemble; RGB and flow share them. use_nl is 0 and all dilations are 1 in both.
PUBLISHED = {
    "a": Structure(
        "2+1d-3",
        (1, 1, 9),
        (
            Module(2, ("3d-1", "max-7")),
            Module(4, ("max-3", SINGLE, "3d-1", SINGLE, "3d-5")),
            Module(5, ("max-7", SINGLE, "tgm-11", "max-11")),
            Module(3, ("max-11", "3d-1", "tgm-3")),
        ),
    ),
    "b": Structure(
        "2+1d-3",
        (1, 3, 9),
        (
            Module(2, ("max-1", "max-3", "tgm-1 2+1d-9", "max-1", SINGLE)),
            Module(3, ("max-1", "max-7", "2+1d-5 3d-1", "tgm-1 2+1d-11", SINGLE, "2+1d-11 3d-1")),
            Module(5, ("max-5", SINGLE, "max-9")),
            Module(4, ("2+1d-1", "max-5")),
        ),
    ),
}


def same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], value: float = 0.0) -> Tensor:
    """B C T H W padded as TensorFlow's SAME: the end has one more where the sum is odd."""
    sides: list[int] = []
    for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        sides += [total // 2, total - total // 2]
    return F.pad(x, sides, value=value) if any(sides) else x


class SameConv3d(nn.Conv3d):
    """A convolution with a stride and SAME padding."""

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W -> B C' ceil(T/s) ceil(H/s) ceil(W/s)."""
        return super().forward(same(x, self.kernel_size, self.stride))


class MaxPool(nn.Module):
    """Max-pool with SAME padding, which is no candidate for the maximum."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W -> B C ceil(T/s) ceil(H/s) ceil(W/s)."""
        return F.max_pool3d(same(x, self.kernel, self.stride, -math.inf), self.kernel, self.stride)


class TGMConv3d(nn.Conv3d):
    """Inflated temporal Gaussian mixture layer (iTGM): a 2D kernel times a mixture of temporal profiles per filter.

    Profile m has a centre and a width, and each pair of channels its own mixture of the M profiles. They have Cauchy's
    shape, not Gauss's: f(t) = 1 / (1 + pi (t - mu)^2 / gamma), over the sum of its taps.

    Args:
        in_chs: channels read.
        out_chs: channels written.
        time: L.
        size: of the 2D kernel.
        stride: of all three axes.
    """

    def __init__(self, in_chs: int, out_chs: int, time: int, size: int, stride: tuple[int, int, int]) -> None:
        super().__init__(in_chs, out_chs, (1, size, size), stride, bias=False)
        self.time = time
        self.centres = nn.Parameter(0.5 * torch.randn(COMPONENTS))
        self.scales = nn.Parameter(0.1 * torch.randn(COMPONENTS))
        self.mixing = nn.Parameter(nn.init.trunc_normal_(torch.empty(out_chs, in_chs, COMPONENTS)))

    def profiles(self) -> Tensor:
        """M L; each row adds up to 1."""
        t = torch.arange(self.time, device=self.centres.device, dtype=self.centres.dtype)
        mu = (self.time - 1) * (self.centres.tanh() + 1) / 2
        gamma = (1.5 - 2 * self.scales.tanh().abs()).exp()
        f = 1 / (1 + math.pi * (t - mu[:, None]).square() / gamma[:, None])
        return f / (f.sum(1, keepdim=True) + 1e-6)

    def kernel(self) -> Tensor:
        """The 3D kernel, C' C L H W."""
        profile = (self.mixing.softmax(2)[..., None] * self.profiles()).sum(2)  # C' C L; no matrix product is counted
        return self.weight * profile[..., None, None]

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W -> B C' ceil(T/s) ceil(H/s) ceil(W/s)."""
        kernel = self.kernel()
        return self._conv_forward(same(x, kernel.shape[2:], self.stride), kernel, self.bias)


def conv_bn(in_chs: int, out_chs: int, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> nn.Sequential:
    """Convolution and batch norm."""
    if stride == (1, 1, 1):
        conv = nn.Conv3d(in_chs, out_chs, kernel, padding=tuple(k // 2 for k in kernel), bias=False)
    else:
        conv = SameConv3d(in_chs, out_chs, kernel, stride, bias=False)
    return nn.Sequential(conv, norm(out_chs))


def norm(channels: int) -> nn.BatchNorm3d:
    """Batch norm of decay 0.9."""
    return nn.BatchNorm3d(channels, eps=1e-5, momentum=0.1)


def space_time(
    op: str, time: int, in_chs: int, out_chs: int, size: int = 3, stride: tuple[int, int, int] = (1, 1, 1)
) -> nn.Sequential:
    """A layer of one of ``CONVS`` and its norm; without activation at its end.

    The norm in the middle of ``2+1d`` is always in inference mode in the authors' source; here it is as all others.
    """
    if op == "2+1d":  # in time first
        middle = max(1, out_chs // 2)
        return nn.Sequential(
            *conv_bn(in_chs, middle, (time, 1, 1), (stride[0], 1, 1)),
            nn.ReLU(inplace=True),
            *conv_bn(middle, out_chs, (1, size, size), (1, *stride[1:])),
        )
    if op == "tgm" and time > 1:
        return nn.Sequential(TGMConv3d(in_chs, out_chs, time, size, stride), norm(out_chs))
    return conv_bn(in_chs, out_chs, (time, size, size), stride)


def branch(text: str, in_chs: int, out_chs: int, temporal: bool) -> nn.Sequential:
    """One branch of a module; ``temporal`` False: its convolutions have no extent in time."""
    layers, pointwise = layers_of(text), ((1, 1, 1), (1, 1, 1))
    if not layers:
        return conv_bn(in_chs, out_chs, *pointwise)
    if layers[0][0] == "max":
        return nn.Sequential(MaxPool((layers[0][1], 3, 3)), *conv_bn(in_chs, out_chs, *pointwise))
    # 1/2 and 1 of the width, before two convolutions 1/4, 1/2 and 1
    chs = [max(1, out_chs // 2**i) for i in range(len(layers), -1, -1)]
    parts = [*conv_bn(in_chs, chs[0], *pointwise)]
    for (op, time), (ins, out) in zip(layers, pairwise(chs), strict=True):
        parts += [nn.ReLU(inplace=True), *space_time(op, time if temporal else 1, ins, out)]
    return nn.Sequential(*parts)


class Unit(nn.Module):
    """One repeat of a module: branches side by side, concatenated, plus the shortcut.

    Args:
        in_chs: channels read.
        width: of the stage; each branch has an equal whole share, so that fewer may be written.
        branches: see ``Module``.
        number: which repeat; the first projects its shortcut, and odd ones have no convolutions in time.
    """

    def __init__(self, in_chs: int, width: int, branches: tuple[str, ...], number: int) -> None:
        super().__init__()
        share = max(1, width // len(branches))
        self.out_chs = share * len(branches)
        self.branches = nn.ModuleList(branch(b, in_chs, share, number % 2 == 0) for b in branches)
        self.shortcut = nn.Identity() if number else conv_bn(in_chs, self.out_chs, (1, 1, 1), (1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W -> B C' T H W."""
        return F.relu(torch.cat([b(x) for b in self.branches], 1) + self.shortcut(x))


class Member(nn.Module):
    """One network: stem, four stages, pooling, classifier.

    Args:
        structure: what it is made of.
        num_classes: N.
        width: factor on all channels.
        late: another factor on those of res4 and res5.
        repeats: of the four modules, in place of the structure's.
        dropout: probability of a dropout before the classifier.
    """

    def __init__(
        self,
        structure: Structure,
        num_classes: int,
        width: float,
        late: float,
        repeats: tuple[int, ...] | None,
        dropout: float,
    ) -> None:
        super().__init__()
        ((op, time),) = layers_of(structure.stem)
        first, third, fourth = structure.pools
        in_chs = max(2, round(STEM * width))
        self.stem = nn.Sequential(
            *space_time(op, time, 3, in_chs, 7, (2, 2, 2)), nn.ReLU(inplace=True), MaxPool((first, 3, 3), (2, 2, 2))
        )
        pools = [nn.Identity(), *(MaxPool((t, 2, 2), (1, 2, 2)) for t in (first, third, fourth))]
        stages = []
        for i, (module, base) in enumerate(zip(structure.modules, WIDTHS, strict=True)):
            units = []
            for number in range(repeats[i] if repeats else module.repeats):
                units.append(Unit(in_chs, round(base * width * (late if i > 1 else 1)), module.branches, number))
                in_chs = units[-1].out_chs
            stages.append(nn.Sequential(pools[i], *units))
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_chs, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to logits ``B N``."""
        x = self.stages(self.stem(clips)).mean((3, 4)).transpose(1, 2)  # B T/4 C
        if x.shape[1] > 1:  # average pool of two frames, stride 1
            x = (x[:, :-1] + x[:, 1:]) / 2
        return self.fc(self.dropout(x)).mean(1)


class EvaNet(nn.Module):
    """The mean logits of its members.

    Args:
        members: one network or more.
    """

    fixed_frames = True

    def __init__(self, members: list[Member]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.apply(_init)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to logits ``B N``."""
        logits = [member(clips) for member in self.members]
        return sum(logits[1:], logits[0]) / len(logits)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


@register_family(Knob("width", 0.01, 2.0, 0.001), Knob("late", 0.7, 1.4, 0.005), architecture=Structures)
def evanet(
    *,
    num_classes: int,
    frames: int = 32,
    crop: int = 224,
    width: float = 1.0,
    late: float = 1.0,
    structures: str | dict = "a",
    repeats: tuple[int, ...] | None = None,
    dropout: float = 0.5,
) -> nn.Module:
    """EvaNet; the default is network A of the two that its authors found.

    ::

        clip B 3 T H W -> 3x1x1, 1x7x7 -> max-pool -> 4 x module, repeated, max-pools between -> pool -> linear -> B N

    Args:
        num_classes: N.
        frames: T; stem and first pool stride in time, T/4 remain.
        crop: side of the frames in pixels; the net pools globally, any crop will do.
        width: knob; factor on all channels.
        late: knob; another factor on those of res4 and res5, for the last percent.
        structures: ``a``, ``b``, both as an ensemble: ``ab``; or structures as plain data, see ``Structures``.
        repeats: of the four modules, in place of the structure's: for small clips.
        dropout: probability of a dropout before the classifier.

    Returns:
        A module from clips ``B 3 T H W`` to logits ``B N``.

    Raises:
        ValueError: unknown names, or data that are no structures.
    """
    if isinstance(structures, str):
        if not structures or set(structures) - set(PUBLISHED):
            raise ValueError(f"unknown structures {structures!r}; known: {', '.join(PUBLISHED)}, and several of them")
        members = tuple(PUBLISHED[name] for name in structures)
    else:
        members = Structures.from_dict(structures).members
    return EvaNet([Member(m, num_classes, width, late, repeats, dropout) for m in members])


VARIANTS = {f"evanet_{name}": dict(structures=name, num_classes=400, frames=32, crop=224) for name in PUBLISHED}
