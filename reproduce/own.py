"""A user's model: the file that defines it becomes a family, and an entry of a suite.

The file is Python that registers one family (``configs/examples/my_model.py``), or an mmaction2 config
(``configs/examples/mmaction2_r2plus1d.py``). Its text is part of a run's identity and of its record, so a run folder
needs the file no more, and a changed file is another run. What the file imports is not part of it.
"""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path
from types import ModuleType

import torch
from mmengine.config import Config
from torch import nn

from autotsnet.meta import on_meta
from autotsnet.registry import FAMILIES, Family, Knob, register_family
from baselines import mmaction2
from reproduce.budget import BudgetError, middle
from reproduce.measure.macs import UncountedOperatorError
from reproduce.suites import Entry, Suite

MODULE = "own_model"  # the name under which a user's file is imported
README = "'Your own model'"


class OwnModelError(ValueError):
    """A user's model cannot take part; the message names the file and the way out."""


def own_entry(path: Path, suite: Suite) -> Entry:
    """The user's model as an entry of a suite, found to be in order: registered, of the right outputs, at the budget.

    Raises:
        OwnModelError: it is not.
        BudgetError: its knobs do not reach the budget.
    """
    name, source = read(path)
    if name in {e.name for e in suite.entries}:
        raise OwnModelError(f"{path}: {name} is the name of an entry of {suite.name}; choose another")
    try:
        found = define(source, name)
    except OwnModelError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise OwnModelError(f"{path}: {name} cannot be registered: {_line(error)}; rename it, or mend it") from error
    recipe = Path(suite.entries[0].config).parent.name
    entry = Entry(name, f"_base_/{recipe}.py", f"own, {path.name}", source=source)
    _check_outputs(path, found, suite)
    try:
        solution = suite.solution(entry)
    except (BudgetError, UncountedOperatorError):
        raise
    except Exception as error:  # whatever a user's model raises at some widths
        raise OwnModelError(f"{path}: {name} cannot be built at all values of its knobs: {_line(error)}") from error
    if not found.knobs and not solution.matched:
        raise OwnModelError(
            f"{path}: {name} costs {solution.gmacs:.4g} GMACs, {100 * solution.residual:+.1f} % of the budget of "
            f"{suite.gmacs:g}, and has no width knob; give it one, or compare at its own cost: "
            f"--budget {solution.gmacs:.4g}"
        )
    return entry


def read(path: Path) -> tuple[str, str]:
    """Name and source of the model in a file.

    Raises:
        OwnModelError: no such file, no Python, or not exactly one model in it.
    """
    try:
        text = path.read_text()
        config = _is_config(text, path.name)
    except (OSError, UnicodeDecodeError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OwnModelError(f"{path} cannot be read: {reason}; name a Python file, see README, {README}") from error
    return (path.stem, _flattened(path)) if config else (_registered(path, text), text)


def define(source: str, name: str) -> Family:
    """Make the family of a source known, as ``read`` has returned both."""
    if _is_config(source):
        config = Config.fromstring(source, ".py")

        def build(**arguments) -> nn.Module:
            return mmaction2.recognizer(config.model.to_dict(), **arguments)

        build.__name__, build.__module__ = name, MODULE
        register_family(*(Knob(knob, *grid) for knob, grid in config.knobs.items()))(build)
    else:
        _run(source)
    return FAMILIES[name]


def _is_config(text: str, name: str = MODULE) -> bool:
    """Whether it is an mmaction2 config: it assigns ``model``, or inherits."""
    targets = [t for node in ast.parse(text, name).body if isinstance(node, ast.Assign) for t in node.targets]
    return not {"model", "_base_"}.isdisjoint(t.id for t in targets if isinstance(t, ast.Name))


def _flattened(path: Path) -> str:
    """The model of an mmaction2 config and its knobs, without what the config inherits from."""
    try:
        config = Config.fromfile(str(path))
        model = {part: config.model[part] for part in mmaction2.PARTS if config.get("model", {}).get(part)}
        if str(model.get("type")).rpartition(".")[2] not in mmaction2.KINDS or not model.get("cls_head"):
            raise OwnModelError(f"it needs a model of type {' or '.join(mmaction2.KINDS)} with backbone and cls_head")
        knobs = config.get("knobs")
        if knobs is None:
            knobs = {knob.name: (knob.low, knob.high, knob.step) for knob in mmaction2.width_knobs(model)}
            if not knobs:
                raise OwnModelError(
                    f"its backbone {model['backbone']['type']} has no width knob, it takes neither "
                    f"{' nor '.join(knob.name for knob in mmaction2.WIDTHS)}; name the arguments to turn, "
                    "knobs = dict(name=(low, high, step)), or state that its size is fixed, knobs = dict()"
                )
        if not isinstance(knobs, dict) or any(len(grid) != 3 for grid in knobs.values()):
            raise OwnModelError(f"knobs = dict(name=(low, high, step)) is meant, not {knobs}")
        return Config(dict(model=model, knobs=knobs)).pretty_text
    except Exception as error:  # whatever mmengine or mmaction2 stumbles over in a user's file
        raise OwnModelError(f"{path} is no mmaction2 config of use here: {_line(error)}") from error


def _run(text: str) -> ModuleType:
    """Import a source as a module, so that it registers what it defines."""
    module = sys.modules[MODULE] = ModuleType(MODULE)
    exec(compile(text, MODULE, "exec"), vars(module))
    return module


def _registered(path: Path, text: str) -> str:
    """Name of the one family that a source registers."""
    before = dict(FAMILIES)
    try:
        module = _run(text)
    except Exception as error:  # whatever a user's file raises
        raise OwnModelError(f"{path} cannot be imported: {_line(error)}") from error
    new = {name: found for name, found in FAMILIES.items() if before.get(name) is not found}
    names = [name for name, found in new.items() if found.build.__module__ == MODULE]  # not what it imports
    if len(names) == 1:
        return names[0]
    if names:
        raise OwnModelError(
            f"{path} registers {len(names)} models, {', '.join(names)}; leave one @register_family in it"
        )
    defined = [n for n, c in vars(module).items() if inspect.isclass(c) and c.__module__ == MODULE]
    raise OwnModelError(
        f"{path} registers no model" + (f", it only defines {', '.join(defined)}" if defined else "") + "; put "
        f'@register_family(Knob("width", low, high, step)) above the one meant, see README, {README}'
    )


def _check_outputs(path: Path, found: Family, suite: Suite) -> None:
    """Build the model, with its knobs in the middle of their ranges, and see that clips become logits.

    Raises:
        OwnModelError: it cannot be built or run, or what comes out is not ``B N``.
    """
    frames, crop, b, n = suite.protocol.sampling.frames, suite.protocol.crops.test_size, 2, suite.classes
    arguments = dict(num_classes=n, frames=frames, crop=crop)
    parameters = inspect.signature(found.build).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    missing = [name for name in (*arguments, *(knob.name for knob in found.knobs)) if name not in parameters]
    if missing and not free:
        raise OwnModelError(
            f"{path}: {found.name} takes no {', '.join(missing)}; models are built with the keywords "
            f"{', '.join(arguments)} and their knobs"
        )
    setting = {knob.name: middle(knob) for knob in found.knobs}
    shape = f"{b}×3×{frames}×{crop}×{crop}"
    try:
        with torch.no_grad():
            net = on_meta(lambda: found.build(**arguments, **setting)).eval()
            out = net(torch.empty(b, 3, frames, crop, crop, device="meta"))
    except Exception as error:  # whatever a user's model raises
        set_to = ", ".join(f"{k}={v}" for k, v in (arguments | setting).items())
        raise OwnModelError(f"{path}: {found.name}({set_to}) fails on clips of {shape}: {_line(error)}") from error
    came = "×".join(map(str, out.shape)) if isinstance(out, torch.Tensor) else f"a {type(out).__name__}"
    if came != f"{b}×{n}":
        raise OwnModelError(
            f"{path}: {found.name} makes {came} of clips of {shape}; expected are logits B×N, here {b}×{n}"
        )


def _line(error: Exception) -> str:
    """An error in one line."""
    text = str(error).strip().splitlines()
    if isinstance(error, OwnModelError):
        return text[0]
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
