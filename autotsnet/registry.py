"""Registries of this project: children of mmengine's, under the scope ``autotsnet``, open to other packages.

A *family* is a function ``build(*, num_classes, frames, crop, **knobs) -> nn.Module`` whose module maps clips
``B C T H W``, one per input (see ``autotsnet.inputs``), to logits ``B N``. Its knobs are what the budget solver may
turn, coarsest first. Every family also takes ``transforms``, see ``autotsnet.transforms``.

Another package adds its own by an entry point of one of the groups ``autotsnet.families``, ``.spaces``, ``.judges``,
``.constraints``, ``.transforms``, ``.layouts`` and ``.searches``: the name of a module, whose import registers them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry
from torch import Tensor, nn

from autotsnet.architecture import Architecture
from autotsnet.inputs import channels, example, inputs_of
from autotsnet.plugins import SCOPE, OpenRegistry
from autotsnet.transforms import transformable


def _child(name: str) -> Registry:
    parent = getattr(mmengine_registry, name)
    return Registry(parent.name, parent=parent, scope=SCOPE)


MODELS = OpenRegistry("model", "families", mmengine_registry.MODELS)
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
        inputs: names of what its networks are called with.
        architecture: what its networks are made from, where it can be searched for.
    """

    name: str
    build: Callable[..., nn.Module]
    knobs: tuple[Knob, ...]
    inputs: tuple[str, ...]
    architecture: type[Architecture] | None = None

    def example(self, frames: int, crop: int, batch: int = 1, device: str = "meta") -> tuple[Tensor, ...]:
        """Clips to call its networks with, see ``autotsnet.inputs.example``."""
        return example(self.inputs, frames, crop, batch, device)


FAMILIES: dict[str, Family] = {}


def register_family(
    *knobs: Knob, inputs: Sequence[str] = (), architecture: type[Architecture] | None = None
) -> Callable:
    """Decorate a build function or a module's class: a family and a registered mmengine model of the same name.

    Without knobs the model has one size. What it builds says by ``inputs`` what it is called with.

    Args:
        knobs: what the solver may turn, coarsest first.
        inputs: names of registered inputs; by default the attribute ``inputs`` of a class, else RGB.
        architecture: what the networks are made from, where it can be searched for.

    Raises:
        ValueError: an unknown input.

    Example:
        >>> @register_family(Knob("width", 8, 512, 1))
        ... def tsm(*, num_classes: int, frames: int = 8, crop: int = 224, width: int = 64): ...
    """

    def wrap(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        known = FAMILIES.get(build.__name__)
        again = known is not None and known.build.__module__ == build.__module__  # a file that is read anew
        names = tuple(inputs) or inputs_of(build)
        channels(names)  # known ones
        made = transformable(build, names)
        MODELS.register_module(name=build.__name__, module=made, force=again)
        FAMILIES[build.__name__] = Family(build.__name__, made, knobs, names, architecture)
        return build if isinstance(build, type) else made

    return wrap


def family(kind: str | Callable) -> Family:
    """The family of a name, or of a network's ``type``: its name with those of modules before it, or what builds it.

    Raises:
        ValueError: no such family; the message lists the known ones.
    """
    MODELS.import_from_location()
    name = (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]
    if name not in FAMILIES:
        raise ValueError(f"unknown model family {name!r}; known: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]
