"""Scale a model family to a compute budget: matched means solved, and the residual is reported.

The first knob of a family is turned until its grid brackets the budget. Costs grow roughly with its square, so a
power law through the points seen so far guesses the next one, and bisection takes over where it stalls. If neither
neighbour is good enough, the other knobs trim what is left, one after the other.

Counting takes seconds per model, so solutions are stored on disk, under a key of everything that they depend on.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from autotsnet.registry import Knob
from autotsnet.transforms import MODEL_TRANSFORMS
from reproduce.measure.macs import MacCount, count
from reproduce.whole_files import OutputError, write_json

ROOT = Path(__file__).resolve().parent.parent
OURS = "autotsnet", "baselines"  # packages of the models with stored solutions: their source is in the key
PARTS = "torch", "mmengine", "mmaction2", "mmcv-lite", "pytorchvideo"  # what they are built from

GOOD_ENOUGH = 0.003  # relative residual at which the search stops; well below what any table prints
FIRST_EXPONENT = 2.0  # of the cost in a width, until two points are known
LEAST_EXPONENT = 0.1  # of a knob that hardly matters; keeps the extrapolation finite


class BudgetError(ValueError):
    """No setting of the knobs meets the budget."""


@dataclass(frozen=True)
class Solution:
    """The member of a family that is nearest to a budget.

    Attributes:
        kwargs: arguments of the build function beside ``num_classes``, ``frames`` and ``crop``: the fixed ones and the
            knobs that were turned.
        gmacs: its GMACs per view.
        params: its parameters.
        residual: ``gmacs / budget - 1``, signed.
        matched: the residual is within the tolerance.
        evaluations: models that were counted on the way.
    """

    kwargs: dict[str, Any] = field(hash=False)
    gmacs: float
    params: int
    residual: float
    matched: bool
    evaluations: int


def solve(
    build: Callable[..., nn.Module],
    knobs: Sequence[Knob],
    gmacs: float,
    *,
    frames: int,
    crop: int,
    num_classes: int,
    fixed: Mapping[str, Any] | None = None,
    tolerance: float = 0.02,
    memory: Path | None = None,
) -> Solution:
    """Find the knobs that bring a family nearest to a budget.

    Args:
        build: the family's build function.
        knobs: what may be turned, coarsest first; GMACs must not fall when a knob rises.
        gmacs: the budget per view.
        frames: T of the view.
        crop: H and W of the view.
        num_classes: N.
        fixed: other arguments of ``build``; a knob named here is not turned.
        tolerance: relative residual up to which the solution counts as matched.
        memory: folder of stored solutions; not for users' models.

    Returns:
        The best of all models counted. It may be unmatched if the grids are too coarse around the budget.

    Raises:
        BudgetError: the budget is outside the range of the knobs, or is not positive.
    """
    if gmacs <= 0:
        raise BudgetError(f"{build.__name__}: a budget of {gmacs:g} GMACs is not positive; state GMACs per view")
    fixed = dict(fixed or {})
    key = [build.__module__, build.__qualname__, [vars(k) for k in knobs], gmacs, frames, crop, num_classes, fixed]

    def found() -> dict[str, Any]:
        return _solve(build, knobs, gmacs, frames, crop, num_classes, fixed, tolerance)

    solved = remembered(memory if _ours(build, fixed) else None, [*key, tolerance], found)
    residual = solved["gmacs"] / gmacs - 1
    return Solution(
        kwargs={**fixed, **{k.name: solved["knobs"][k.name] for k in knobs if k.name in solved["knobs"]}},
        gmacs=solved["gmacs"],
        params=solved["params"],
        residual=residual,
        matched=abs(residual) <= tolerance,
        evaluations=solved["evaluations"],
    )


def _solve(
    build: Callable[..., nn.Module],
    knobs: Sequence[Knob],
    gmacs: float,
    frames: int,
    crop: int,
    num_classes: int,
    fixed: dict[str, Any],
    tolerance: float,
) -> dict[str, Any]:
    """The settings of the knobs, what they cost, and how many models were counted."""
    turned = [knob for knob in knobs if knob.name not in fixed]
    counts: dict[tuple[tuple[str, float], ...], MacCount] = {}

    def cost(setting: dict[str, float]) -> float:
        key = tuple(setting.items())
        if key not in counts:
            arguments = {"num_classes": num_classes, "frames": frames, "crop": crop, **fixed, **setting}
            counts[key] = count(lambda: build(**arguments), frames, crop)
        return counts[key].gmacs

    def miss(setting: dict[str, float]) -> float:
        return abs(cost(setting) / gmacs - 1)

    nearest: list[dict[str, float]] = [{}]  # settings next to the budget, from below and above
    # The first knob comes again: where another knob jumps, the first one can close the gap while that knob is fixed.
    for knob in [*turned, *turned[:1]]:
        starts, nearest = nearest, []
        for start in starts:
            values = _bracket(_grid(knob), gmacs, lambda value, s=start, k=knob: cost({**s, k.name: value}))
            nearest += [{**start, knob.name: value} for value in values]
            if min(map(miss, nearest)) <= GOOD_ENOUGH:
                break
        nearest = sorted(nearest, key=miss)[:2]
        if miss(nearest[0]) <= GOOD_ENOUGH:
            break
    best = min((dict(key) for key in counts), key=miss, default={})
    cost(best)  # without a knob nothing was counted yet

    if turned and miss(best) > tolerance:
        reach = [cost({knob.name: _grid(knob)[end] for knob in turned}) for end in (0, -1)]
        if not reach[0] <= gmacs <= reach[1]:
            raise BudgetError(
                f"{build.__name__}: {gmacs:g} GMACs at {frames}x{crop}x{crop} is out of reach, "
                f"{' and '.join(knob.name for knob in turned)} span {reach[0]:.3g} to {reach[1]:.3g}; "
                "change the budget, frames and crop, or the fixed arguments"
            )
    counted = counts[tuple(best.items())]
    return dict(knobs=best, gmacs=counted.gmacs, params=counted.params, evaluations=len(counts))


def cost(
    build: Callable[..., nn.Module], made: Mapping[str, Any], frames: int, side: int, memory: Path | None = None
) -> tuple[float, int]:
    """GMACs per view and parameters of ``build(**made)``; of our families read from ``memory`` if counted before."""

    def counted() -> dict[str, Any]:
        found = count(lambda: build(**made), frames, side)
        return dict(gmacs=found.gmacs, params=found.params)

    key = ["cost", build.__module__, build.__qualname__, made, frames, side]
    found = remembered(memory if _ours(build, made) else None, key, counted)
    return found["gmacs"], found["params"]


def memory_folder() -> Path:
    """Where solved budgets are stored."""
    return Path(os.environ.get("CACHE") or ".cache") / "budgets"


def _ours(build: Callable[..., nn.Module], made: Mapping[str, Any]) -> bool:
    """Whether ``code()`` knows all that the network is made of: a user's text may change from run to run."""
    parts = [build, *(MODEL_TRANSFORMS.get(transform["type"]) for transform in made.get("transforms", ()))]
    return all(part is not None and part.__module__.partition(".")[0] in OURS for part in parts)


def remembered(memory: Path | None, key: Sequence[Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of ``make``, read from disk if the same code, versions and key have made it before.

    Args:
        memory: folder of files named by their key's hash; None: nothing is read or written.
        key: everything else that the result depends on.
        make: its result must be JSON data. Its errors are not stored.
    """
    if memory is None:
        return make()
    key = json.dumps([code(), *key], sort_keys=True, default=repr)
    path = memory / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    try:
        file = json.loads(path.read_text())
        if file["key"] == key and file["sha256"] == _digest(file["value"]):
            return file["value"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # absent or damaged: made again
    value = make()
    with contextlib.suppress(OutputError):  # a folder that cannot be written costs time only
        write_json(path, dict(key=key, sha256=_digest(value), value=value))
    return value


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@functools.cache
def code() -> str:
    """Hash of the source of the models and of the counter, and of the versions of their libraries."""
    files = [p for name in OURS for p in sorted((ROOT / name).rglob("*.py"))]
    files += [ROOT / "reproduce" / "budget.py", ROOT / "reproduce" / "measure" / "macs.py"]
    text = [f"{name} {version(name)}".encode() for name in PARTS]
    text += [part for p in files for part in (str(p.relative_to(ROOT)).encode(), p.read_bytes())]
    return hashlib.sha256(b"\0".join(text)).hexdigest()


def middle(knob: Knob) -> float:
    """The value in the middle of a knob's range, by ratio."""
    grid = _grid(knob)
    return grid[_index(grid, math.sqrt(grid[0] * grid[-1]))]


def _grid(knob: Knob) -> list[float]:
    steps = math.floor((knob.high - knob.low) / knob.step + 1e-9)
    values = (round(knob.low + i * knob.step, 6) for i in range(steps + 1))  # 0.1 + 2 * 0.1 is not 0.3
    return [int(value) if float(knob.step).is_integer() else value for value in values]


def _bracket(grid: list[float], budget: float, cost: Callable[[float], float]) -> list[float]:
    """The one or two neighbours in ``grid`` whose costs enclose the budget, or one that is good enough."""
    costs: dict[int, float] = {}
    low, high = -1, len(grid)  # cost(low) <= budget < cost(high); outside of the grid until seen
    index = _index(grid, math.sqrt(grid[0] * grid[-1]))
    while high - low > 1:
        costs[index] = cost(grid[index])
        if abs(costs[index] / budget - 1) <= GOOD_ENOUGH:
            return [grid[index]]
        if costs[index] <= budget:
            low = index
        else:
            high = index
        if len(costs) % 3:
            guess = _index(grid, _power_law({grid[i]: costs[i] for i in costs}, budget))
        else:
            guess = (low + high) // 2  # on a plateau or a jump of the costs, the power law is slow
        index = min(max(guess, low + 1), high - 1)
    return [grid[i] for i in (low, high) if 0 <= i < len(grid)]


def _index(grid: list[float], value: float) -> int:
    return min(range(len(grid)), key=lambda i: abs(grid[i] - value))


def _power_law(costs: dict[float, float], budget: float) -> float:
    """The value at which a power law through the two points nearest to the budget meets the budget."""
    (value, cost), *others = sorted(costs.items(), key=lambda point: abs(math.log(point[1] / budget)))
    exponent = FIRST_EXPONENT
    if others and others[0][1] != cost:
        exponent = math.log(others[0][1] / cost) / math.log(others[0][0] / value)
    return value * (budget / cost) ** (1 / max(exponent, LEAST_EXPONENT))
