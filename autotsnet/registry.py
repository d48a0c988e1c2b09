"""Registries of this project: children of mmengine's, under the scope ``autotsnet``, open to other packages.

A *family* is a function ``build(*, num_classes, frames, crop, **knobs) -> nn.Module`` whose module maps clips
``B C T H W`` to logits ``B N``. Its knobs are what the budget solver may turn, coarsest first.

Another package adds its own by an entry point of one of the groups ``autotsnet.families``, ``.spaces``, ``.judges``,
``.transforms`` and ``.layouts``: the name of a module, whose import registers them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points

from mmengine import registry as mmengine_registry
from mmengine.registry import DefaultScope, Registry
from torch import nn

SCOPE = "autotsnet"
_asked: set[str] = set()  # groups of entry points that were loaded


def plug_ins(group: str) -> None:
    """Import what installed packages name in a group of entry points, once; importing registers.

    A module that does not load is named in a warning; the others are there.

    Args:
        group: after ``autotsnet.``: ``families``, ``spaces``, ``judges``, ``transforms`` or ``layouts``.
    """
    if group in _asked:
        return
    _asked.add(group)
    for point in entry_points(group=f"{SCOPE}.{group}"):
        try:
            point.load()
        except Exception as error:
            package = point.dist.name if point.dist else "an unknown package"
            warnings.warn(
                f"{package}: {point.group} {point.name!r} is left out, {point.value} does not load "
                f"({type(error).__name__}: {error})",
                stacklevel=2,
            )


class OpenRegistry(Registry):
    """mmengine's, open to other packages.

    Args:
        name: what its members are.
        group: of entry points, see ``plug_ins``.
        locations: modules of this package that register members.
        parent: registry of mmengine.
    """

    def __init__(self, name: str, group: str, locations: Sequence[str], parent: Registry | None = None) -> None:
        super().__init__(name, parent=parent, scope=SCOPE, locations=list(locations))
        self.group = group

    def build(self, cfg: dict, *args, **kwargs) -> object:
        """As mmengine's, but names without a scope are of this package first, whoever asks."""
        with DefaultScope.overwrite_default_scope(SCOPE):
            return super().build(cfg, *args, **kwargs)

    def import_from_location(self) -> None:
        """Import all members, before the first look-up."""
        super().import_from_location()
        plug_ins(self.group)


def _child(name: str) -> Registry:
    parent = getattr(mmengine_registry, name)
    return Registry(parent.name, parent=parent, scope=SCOPE)


MODELS = OpenRegistry("model", "families", ["autotsnet.models"], mmengine_registry.MODELS)
DATASETS = _child("DATASETS")
DATA_SAMPLERS = _child("DATA_SAMPLERS")
HOOKS = _child("HOOKS")
LOOPS = _child("LOOPS")
METRICS = _child("METRICS")


@dataclass(frozen=True)
class Knob:
    """One argument of a family that changes its cost.

    Attributes:
        name: keyword argument of the build function.
        low: smallest value that makes sense.
        high: largest value that makes sense.
        step: grid of the values (``low + i * step``); GMACs must not fall when the value grows.
    """

    name: str
    low: float
    high: float
    step: float


@dataclass(frozen=True)
class Family:
    """A model family that the budget solver can scale.

    Attributes:
        name: the name in suites and tables, ``x3d``.
        build: keyword-only constructor, see the module's docstring.
        knobs: what the solver may turn, coarsest first; the others only trim what the first leaves over.
    """

    name: str
    build: Callable[..., nn.Module]
    knobs: tuple[Knob, ...]


FAMILIES: dict[str, Family] = {}


def register_family(*knobs: Knob) -> Callable:
    """Decorate a build function or a module's class: a family and a registered mmengine model of the same name.

    Without knobs the model has one size.

    Example:
        >>> @register_family(Knob("width", 8, 512, 1))
        ... def tsm(*, num_classes: int, frames: int = 8, crop: int = 224, width: int = 64): ...
    """

    def wrap(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        known = FAMILIES.get(build.__name__)
        again = known is not None and known.build.__module__ == build.__module__  # a file that is read anew
        MODELS.register_module(name=build.__name__, module=build, force=again)
        FAMILIES[build.__name__] = Family(build.__name__, build, knobs)
        return build

    return wrap


def family(name: str) -> Family:
    """The family of that name.

    Raises:
        ValueError: no such family; the message lists the known ones.
    """
    MODELS.import_from_location()
    if name not in FAMILIES:
        raise ValueError(f"unknown model family {name!r}; known: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]
