"""Closed-form GMACs and parameters of encoded architectures, by table look-up.

The cost of a two-stream architecture is a sum of terms. Each term depends on a few variables: a block's term on its t,
k, e and the widths around it, a fusion's term on its type and the two widths, and so on. A table holds each term for
every combination of its candidates; the cost of an architecture then takes one look-up and one addition per term.

Convention: multiply-accumulates of convolutions, linear layers and attention products, as ``reproduce.measure.macs``
counts them on the static model; norms, activations, pooling and additions are free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod

import numpy as np
import torch
from torch import Tensor

from autotsnet.architecture import STREAMS, BlockChoice
from autotsnet.layers.attention import reduced
from autotsnet.layers.mbconv3d import expanded
from autotsnet.models.two_stream import STEM_TEMPORAL_KERNELS
from autotsnet.space import ProductSpace


@dataclass(frozen=True)
class _Term:
    positions: Tensor  # of its variables in the code
    strides: Tensor  # code @ strides = row of the table
    table: Tensor  # rows × (MACs, parameters)


class Costs:
    """GMACs and parameters of a space's architectures: a constant and terms, which a subclass adds.

    Args:
        space: a product of candidates.
    """

    def __init__(self, space: ProductSpace) -> None:
        self.space = space
        self._terms: list[_Term] = []
        self._constant = torch.zeros(2, dtype=torch.float64)

    def __call__(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """GMACs per view and parameters of codes ``K M``: two tensors ``K``."""
        total = self._constant.repeat(len(codes), 1)
        for term in self._terms:
            total += term.table[(codes[:, term.positions] * term.strides).sum(-1)]
        return total[:, 0] / 1e9, total[:, 1]

    def gmacs(self, codes: Tensor) -> Tensor:
        """GMACs per view of codes ``K M``, ``K``."""
        return self(codes)[0]

    def range(self, samples: int = 4096, seed: int = 0) -> tuple[float, float]:
        """The lowest and the highest GMACs that coordinate descent from many random starts reaches."""
        rng = np.random.default_rng(seed)
        ends = []
        for sign in (1, -1):
            codes = self.space.sample(samples, rng)
            code = codes[(sign * self.gmacs(codes)).argmin()]
            while True:
                around = self.space.neighbours(code)
                costs = sign * self.gmacs(around)
                if costs.min() >= sign * self.gmacs(code[None])[0]:
                    break
                code = around[costs.argmin()]
            ends.append(float(self.gmacs(code[None])[0]))
        return ends[0], ends[1]

    def _add(self, names: Sequence[str], cost: Callable[..., tuple[float, float]]) -> None:
        positions = [self.space.index[n] for n in names]
        candidates = [self.space.variables[i].candidates for i in positions]
        table = torch.tensor([cost(*values) for values in product(*candidates)], dtype=torch.float64)
        counts = [len(c) for c in candidates]
        strides = torch.tensor([prod(counts[i + 1 :]) for i in range(len(counts))])
        self._terms.append(_Term(torch.tensor(positions), strides, table))


class CostModel(Costs):
    """GMACs and parameters of a two-stream space's architectures.

    Args:
        space: a two-stream space.
        num_classes: N of the classifier.
        stream: ``slow`` or ``fast``: cost of that stream alone with its own head, as stage 1 of the search trains it.
    """

    def __init__(self, space: ProductSpace, num_classes: int, stream: str | None = None) -> None:
        super().__init__(space)
        self._streams = (stream,) if stream else STREAMS
        self._build(num_classes)

    def _build(self, num_classes: int) -> None:
        macro = self.space.macro
        frames = {"slow": macro.frames // macro.alpha, "fast": macro.frames}
        side = ceil(macro.crop / 2)
        for stream in self._streams:
            i = STREAMS.index(stream)
            self._constant += torch.tensor(stem_cost(macro.stems[i], STEM_TEMPORAL_KERNELS[i], frames[stream], side))
        # a width is either a constant of the macro-architecture (after the stem) or the C of the group before
        width = {s: None for s in self._streams}

        def reads(stream: str) -> list[str]:
            return [] if width[stream] is None else [width[stream]]

        def with_stem(stream: str, values: tuple) -> tuple[int, tuple]:
            if width[stream] is None:
                return macro.stems[STREAMS.index(stream)], values
            return values[0], values[1:]

        for g, stride in enumerate(macro.strides):
            after = ceil(side / stride)
            if len(self._streams) == 2:
                self._add_fusion(g, side, frames, width, reads, with_stem)
            for stream in self._streams:
                name, n = f"{stream}.{g}", frames[stream]
                for b in range(getattr(self.space, stream)[g].depth):
                    first = b == 0
                    before = side if first else after

                    def block(*values, first=first, before=before, n=n, stream=stream, after=after):
                        c_in, values = with_stem(stream, values) if first else (values[0], values)
                        c, *choice = values
                        return block_cost(c_in, c, BlockChoice(*choice), n, before, after)

                    self._add(
                        [*(reads(stream) if first else []), f"{name}.c", *(f"{name}.{b}.{v}" for v in "tke")],
                        block,
                    )
                width[stream] = f"{name}.c"
                self._add(
                    [f"{name}.c", f"{stream}.attention.{g}"],
                    lambda c, kind, n=n, after=after: attention_cost(kind, c, n, after),
                )
            side = after
        if len(self._streams) == 2:
            self._add([width["slow"], width["fast"]], lambda s, f: ((s + f) * macro.head,) * 2)
        else:
            self._add([width[self._streams[0]]], lambda c: (c * macro.head,) * 2)
        head = macro.head * num_classes
        self._constant += torch.tensor((head, macro.head + head + num_classes))

    def _add_fusion(self, g, side, frames, width, reads, with_stem) -> None:
        macro = self.space.macro
        positions = frames["slow"] * side**2

        def fusion(*values):
            c_s, values = with_stem("slow", values)
            c_f, values = with_stem("fast", values)
            kind, c, e = values
            down, up = macro.fusion_kernel * c_f, c_s * c_f
            if kind == "concat":
                mid = expanded(BlockChoice(1, 1, e), c)
                weights = down * 2 * c_f + 2 * c_f * mid  # the convolution, and the wider input of the next block
                return weights * positions, weights + 2 * 2 * c_f
            macs = parameters = 0
            if kind in ("fast_to_slow", "both"):
                macs, parameters = down * c_s * positions, down * c_s + 2 * c_s
            if kind in ("slow_to_fast", "both"):
                macs, parameters = macs + up * positions, parameters + up + 2 * c_f
            return macs, parameters

        self._add([*reads("slow"), *reads("fast"), f"fusion.{g}", f"slow.{g}.c", f"slow.{g}.0.e"], fusion)


def stem_cost(c: int, t: int, frames: int, side: int) -> tuple[int, int]:
    """MACs and parameters of a stem with a temporal kernel t, whose output is c × frames × side × side."""
    taps = 3 * 9 + (t if t > 1 else 0)
    return taps * c * frames * side**2, taps * c + 2 * c


def block_cost(c_in: int, c: int, choice: BlockChoice, frames: int, before: int, after: int) -> tuple[int, int]:
    """MACs and parameters of an MBConv3D block from c_in × frames × before² to c × frames × after²."""
    mid, taps = expanded(choice, c), choice.t * choice.k**2
    macs = c_in * mid * frames * before**2 + (taps + c) * mid * frames * after**2
    return macs, mid * (c_in + taps + c) + 2 * (2 * mid + c)


def attention_cost(kind: str, c: int, frames: int, side: int) -> tuple[int, int]:
    """MACs and parameters of an attention block on C × frames × side × side (see ``autotsnet.layers.attention``)."""
    length, plane = frames * side**2, side**2
    if kind == "none":
        return 0, 0
    if kind == "se":
        mid = reduced(c, 4)
        return 2 * c * mid, 2 * c * mid
    if kind == "nonlocal":
        d = reduced(c, 2)
        pooled = frames * ceil(side / 2) ** 2
        return 2 * c * d * (length + pooled) + d * d * (length + pooled), 4 * c * d + 2 * c
    if kind == "glore":
        s, n = reduced(c, 4), reduced(c, 8)
        macs = (2 * c * s + c * n + 2 * s * n) * length + n * n * s + s * s * n
        return macs, 2 * c * s + c * n + n * n + s * s + 2 * c
    if kind == "temporal":
        d = reduced(c, 4)
        macs = 2 * c * d * (frames + length) + frames * frames * d * (1 + plane)
        return macs, 4 * c * d + 2 * c
    raise ValueError(f"unknown attention {kind!r}")
