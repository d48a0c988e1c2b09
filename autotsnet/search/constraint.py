"""What a found network may cost: GMACs from a table, or milliseconds measured on this device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import median
from typing import Any, Protocol

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from autotsnet.plugins import OpenRegistry
from autotsnet.registry import MODELS
from autotsnet.space import Space

CONSTRAINTS = OpenRegistry("constraint", "constraints")


class Constraint(Protocol):
    """A limit, and what architectures cost in its unit.

    The loop builds it from ``dict(type=name, …)`` and adds ``space`` and ``num_classes``.

    Attributes:
        unit: of the limit and of costs.
        limit: what a found network may cost.
    """

    unit: str
    limit: float

    def cost(self, codes: Tensor, alone: str | None = None) -> Tensor:
        """Costs of complete architectures ``K M``, or of one part of each (see ``Stage``): ``K``, float64."""
        ...

    def range(self, alone: str | None = None) -> tuple[float, float]:
        """Lowest and highest cost of the architectures of the space."""
        ...


@CONSTRAINTS.register_module(name="gmacs")
class GMACs:
    """GMACs per view, from the closed form of the space.

    Args:
        limit: in GMACs.
        space: its cost model counts.
        num_classes: N.
    """

    unit = "GMACs"

    def __init__(self, limit: float, *, space: Space, num_classes: int) -> None:
        self.limit, self._space, self._num_classes = limit, space, num_classes
        self._models: dict[str | None, Any] = {}

    def _model(self, alone: str | None) -> Any:
        if alone not in self._models:
            self._models[alone] = self._space.cost(self._num_classes, alone)
        return self._models[alone]

    def cost(self, codes: Tensor, alone: str | None = None) -> Tensor:
        """See ``Constraint``."""
        return self._model(alone).gmacs(codes)

    def range(self, alone: str | None = None) -> tuple[float, float]:
        """See ``Constraint``."""
        return self._model(alone).range()


@CONSTRAINTS.register_module(name="runtime")
class Runtime:
    """Milliseconds of a forward pass on this device: the median of repeats after a warm-up, once per architecture.

    A search measures every architecture that it considers: keep ``draws`` of its options small.

    Args:
        milliseconds: the limit; or
        ratio: the limit as a multiple of what ``reference`` takes on this device.
        reference: a network, or the config of one, that takes the space's clips.
        space: builds static models.
        num_classes: N.
        batch: clips per pass.
        warmup: passes before the measured ones.
        repeats: measured passes.
        hopeless: a measured pass of more than so many limits is the last one; None: all are measured.
        channels_last: the order of activations and weights, as networks are trained and tested here.
        device: where; by default a GPU where there is one.
        clock: returns the time in seconds.

    Raises:
        ValueError: not exactly one of ``milliseconds`` and ``ratio``, or a ratio without a reference.
    """

    unit = "ms"

    def __init__(
        self,
        milliseconds: float | None = None,
        *,
        ratio: float | None = None,
        reference: nn.Module | dict | None = None,
        space: Space,
        num_classes: int,
        batch: int = 1,
        warmup: int = 3,
        repeats: int = 10,
        hopeless: float | None = None,
        channels_last: bool = False,
        device: str | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if (milliseconds is None) == (ratio is None) or (ratio is None) != (reference is None):
            raise ValueError(
                f"milliseconds={milliseconds}, ratio={ratio}, reference={'given' if reference else None}: "
                "give a runtime either milliseconds, or a ratio and its reference"
            )
        self._space, self._num_classes, self._clock = space, num_classes, clock
        self._warmup, self._repeats = warmup, repeats
        self._hopeless, self.limit = hopeless or math.inf, math.inf
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        order = torch.channels_last_3d if channels_last else torch.contiguous_format
        self._clip = space.example(batch).to(self._device, memory_format=order)
        self._known: dict[str, float] = {}  # hash of an architecture: milliseconds
        if ratio is None:
            self.limit = milliseconds
        else:
            self.limit = ratio * self._measure(MODELS.build(reference) if isinstance(reference, dict) else reference)

    def cost(self, codes: Tensor, alone: str | None = None) -> Tensor:
        """See ``Constraint``."""
        found = [self._of(self._space.decode(code, alone)) for code in codes]
        return torch.tensor(found, dtype=torch.float64)

    def range(self, alone: str | None = None) -> tuple[float, float]:
        """Costs of the architecture of all first candidates and of the architecture of all last candidates."""
        least, most = self.cost(torch.stack([0 * self._space.counts, self._space.counts - 1]), alone).tolist()
        return least, most

    def _of(self, architecture: Any) -> float:
        if architecture.hash not in self._known:
            model = self._space.static_model(architecture, self._num_classes)
            self._known[architecture.hash] = self._measure(model)
        return self._known[architecture.hash]

    def _measure(self, model: nn.Module) -> float:
        options = dict(warmup=self._warmup, repeats=self._repeats, clock=self._clock)
        taken = forward_ms(model, self._clip, **options, most=self._hopeless * self.limit)
        agreed = torch.tensor(taken, dtype=torch.float64)
        all_reduce(agreed, "mean")  # ranks with different costs would search differently
        return agreed.item()


@torch.inference_mode()
def forward_ms(
    model: nn.Module,
    *clips: Tensor,
    warmup: int = 3,
    repeats: int = 10,
    most: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Milliseconds of a forward pass: the median of repeats after a warm-up, in the memory format of the clips.

    Args:
        model: is put on the clips' device.
        clips: one per input, ``B C T H W``.
        warmup: passes before the measured ones.
        repeats: measured passes.
        most: a measured pass of more milliseconds is the last one, and the answer.
        clock: returns the time in seconds.
    """
    device = clips[0].device
    model.eval().to(device)
    if clips[0].is_contiguous(memory_format=torch.channels_last_3d):
        for p in model.parameters():
            order = {5: torch.channels_last_3d, 4: torch.channels_last}.get(p.dim(), torch.contiguous_format)
            p.data = p.data.contiguous(memory_format=order)

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock()

    def once() -> float:
        began = now()
        model(*clips)
        return 1000 * (now() - began)

    for _ in range(warmup):
        once()
    taken: list[float] = []
    for _ in range(repeats):
        taken.append(once())
        if taken[-1] > most:
            return taken[-1]
    return median(taken)
