"""A user's model: the file that defines it becomes a family, and an entry of a suite.

The file is Python that registers one family (``configs/examples/my_model.py``), or an mmaction2 config
(``configs/examples/mmaction2_r2plus1d.py``). Its text, with those of the modules in its folder that it imports, is
part of a run's identity and of its record: a run folder does not need the files, and a changed file is another run.
Modules that it imports from elsewhere, and other files that it reads, are not part of it.
"""

from __future__ import annotations

import ast
import atexit
import importlib.util
import inspect
import itertools
import re
import shutil
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from operator import getitem
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from torch import nn
from torch.nn.parameter import is_lazy

from autotsnet.meta import on_meta
from autotsnet.registry import FAMILIES, Family, Knob, register_family
from baselines import mmaction2
from reproduce.budget import BudgetError, middle
from reproduce.measure.macs import UncountedOperatorError
from reproduce.suites import Entry, Suite

MODULE = "own_model"  # the name under which a user's file is imported
README = "'Your own model'"
OURS = {"autotsnet", "baselines", "reproduce"}  # not copied, wherever the file is
BESIDE = "# ──── beside it: {} ────\n"  # before each module's text, in a source


class OwnModelError(ValueError):
    """A user's model cannot take part; the message names the file and the way out."""


def own_entry(path: Path, suite: Suite) -> Entry:
    """The user's model as an entry of a suite, after checks: it is registered, gives logits and meets the budget.

    Raises:
        OwnModelError: a check fails.
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
    entry = Entry(name, suite.entries[0].config, f"own, {path.name}", source=source)
    if values := _recipe(path, entry):
        entry = replace(entry, note=f"{entry.note}, own recipe", values=values)
    _check_outputs(path, found, suite)
    try:
        solution = suite.solution(entry)
    except (BudgetError, UncountedOperatorError):
        raise
    except Exception as error:  # a user's model may raise anything at some widths
        raise OwnModelError(f"{path}: {name} cannot be built at all values of its knobs: {_line(error)}") from error
    if not found.knobs and not solution.matched:
        raise OwnModelError(
            f"{path}: {name} costs {solution.gmacs:.4g} GMACs, {100 * solution.residual:+.1f} % of the budget of "
            f"{suite.gmacs:g}, and has no width knob; give it one, or compare at its own cost: "
            f"--budget {solution.gmacs:.4g}"
        )
    if not solution.matched and get_rank() == 0:
        print(
            f"{path}: the nearest that the knobs of {name} come to the budget of {suite.gmacs:g} GMACs is "
            f"{solution.gmacs:.4g} ({100 * solution.residual:+.1f} %): its line will say that it misses the budget, "
            "and claim nothing; finer steps, or another knob, would mend it",
            file=sys.stderr,
        )
    return entry


def _recipe(path: Path, entry: Entry) -> dict[str, Any]:
    """What ``recipe`` in a user's file puts in place of the suite's: ``{"optim_wrapper.optimizer.lr": 0.01}``.

    Raises:
        OwnModelError: it is no such dictionary, or of something that the suite's recipe does not have.
    """
    for node in ast.parse(_text(path)).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "recipe" for t in node.targets):
            try:
                values = dict(ast.literal_eval(node.value))
                for place in values:
                    reduce(getitem, place.split("."), {**entry.recipe(), "net": None})
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise OwnModelError(
                    f"{path}: `recipe` is no dictionary from places in the suite's recipe to values, such as "
                    f'{{"optim_wrapper.optimizer.lr": 0.01, "warmup": 0.2}}: {_line(error)}'
                ) from error
            return values
    return {}


def read(path: Path) -> tuple[str, str]:
    """Name and source of the model in a file.

    Raises:
        OwnModelError: no such file, no Python, or not exactly one model in it.
    """
    try:
        text = _text(path)
        config = _is_config(text, path.name)
    except (OSError, UnicodeDecodeError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OwnModelError(f"{path} cannot be read: {reason}; name a Python file, see README, {README}") from error
    if config:
        return path.stem, _flattened(path)
    source = "".join([text, *(f"\n{BESIDE.format(name)}{module}" for name, module in _beside(path, text).items())])
    return _registered(path, source), source


def define(source: str, name: str) -> Family:
    """Register the family of a source; ``read`` has returned source and name."""
    if _is_config(_files(source)[0]):
        config = Config.fromstring(source, ".py")

        def build(**arguments) -> nn.Module:
            return mmaction2.recognizer(config.model.to_dict(), **arguments)

        build.__name__, build.__module__ = name, MODULE
        register_family(*(Knob(knob, *grid) for knob, grid in config.knobs.items()))(build)
    elif name not in FAMILIES or getattr(sys.modules.get(MODULE), "source", None) != source:
        try:
            _run(source, _written(source))
        except Exception as error:  # a user's file may raise anything
            raise OwnModelError(
                f"{name} cannot be rebuilt from the text that its run keeps: {_line(error)}; of the files beside a "
                "model only the modules that it imports are kept"
            ) from error
    return FAMILIES[name]


def _text(path: Path) -> str:
    """A Python file as Python reads it: in its encoding, without a byte-order mark."""
    with tokenize.open(path) as file:
        return file.read()


def _beside(path: Path, text: str) -> dict[str, str]:
    """Texts of the modules in a file's folder that it imports, and that these import, by name (``blocks/conv.py``)."""
    folder, found, queue = path.parent, {}, [(Path(path.name), text)]
    while queue:
        place, code = queue.pop()
        for dotted in _imports(ast.parse(code, str(place)), place):
            for i in range(1, len(dotted) + 1):
                stem = Path(*dotted[:i])
                for name in (stem.with_suffix(".py"), stem / "__init__.py"):
                    if str(name) not in (*found, path.name) and (folder / name).is_file():
                        found[str(name)] = _text(folder / name)
                        queue.append((name, found[str(name)]))
    return dict(sorted(found.items()))


def _imports(tree: ast.Module, place: Path) -> Iterator[tuple[str, ...]]:
    """Modules that a file at ``place`` in its folder may import, as parts of names in that folder."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = place.parent.parts[: len(place.parent.parts) - node.level + 1] if node.level else ()
            base = (*package, *(node.module.split(".") if node.module else ()))
            names = [(*base, alias.name) for alias in node.names]
        else:
            continue
        yield from (name for name in names if name[0] not in OURS)


def _files(source: str) -> list[str]:
    """The file's own text, then names and texts of the modules beside it, in turn."""
    return re.split("\n" + BESIDE.format("(.+)"), source)


def _written(source: str) -> Path:
    """A file of this text, with its modules beside it, which exists until this process ends."""
    text, *beside = _files(source)
    folder = Path(tempfile.mkdtemp(prefix="own-model-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, module in [(f"{MODULE}.py", text), *zip(beside[::2], beside[1::2], strict=True)]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(module, encoding="utf-8")
    return folder / f"{MODULE}.py"


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
    except Exception as error:  # mmengine and mmaction2 may raise anything on a user's file
        raise OwnModelError(f"{path} is no mmaction2 config of use here: {_line(error)}") from error


def _run(source: str, path: Path) -> ModuleType:
    """Import a source, the text of the file at ``path``, as a module, so that it registers what it defines.

    The module knows its file (``__file__``, ``inspect.getsource``, TorchScript) and finds those beside it, by
    ``import blocks`` as a script would, and by ``from .blocks import`` as a package.
    """
    file, folder = path.resolve(), str(path.resolve().parent)
    _forget()
    spec = importlib.util.spec_from_file_location(MODULE, file, submodule_search_locations=[folder])
    module = sys.modules[MODULE] = importlib.util.module_from_spec(spec)
    text, *beside = _files(source)
    module.folder = folder
    module.beside = {str(Path(folder, name)) for name in beside[::2]}
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the folder is the user's
    sys.path.insert(0, folder)
    try:
        exec(compile(text, str(file), "exec"), vars(module))
        module.source = source
    finally:
        sys.dont_write_bytecode = written
        sys.path.remove(folder)
        sys.path.append(folder)  # for imports within functions; last, so that our modules come first
    return module


def _forget() -> None:
    """Forget the last user's file and the modules beside it: those of another file may have the same names."""
    last = sys.modules.pop(MODULE, None)
    if hasattr(last, "beside"):
        if last.folder in sys.path:
            sys.path.remove(last.folder)
        for name in [n for n, m in sys.modules.items() if getattr(m, "__file__", None) in last.beside]:
            del sys.modules[name]
    importlib.invalidate_caches()


def _registered(path: Path, source: str) -> str:
    """Name of the one family that a source registers."""
    before = dict(FAMILIES)
    try:
        module = _run(source, path)
    except Exception as error:  # a user's file may raise anything
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
    """Build the model, with its knobs in the middle of their ranges, and check that clips become logits.

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
    clips = found.example(frames, crop, batch=b)
    shape = " and ".join("×".join(map(str, clip.shape)) for clip in clips)
    try:
        with torch.no_grad():
            net = on_meta(lambda: found.build(**arguments, **setting)).eval()
            _check_weights(net)
            names = set(net.state_dict())
            out = net(*clips)
            if late := sorted(set(net.state_dict()) - names):
                raise OwnModelError(f"{late[0]} is made in the first forward pass, too late for the optimiser")
    except Exception as error:  # a user's model may raise anything
        set_to = ", ".join(f"{k}={v}" for k, v in (arguments | setting).items())
        raise OwnModelError(f"{path}: {found.name}({set_to}) fails on clips of {shape}: {_line(error)}") from error
    came = "×".join(map(str, out.shape)) if isinstance(out, torch.Tensor) else f"a {type(out).__name__}"
    if came != f"{b}×{n}":
        raise OwnModelError(
            f"{path}: {found.name} makes {came} of clips of {shape}; expected are logits B×N, here {b}×{n}"
        )


def _check_weights(net: nn.Module) -> None:
    """Refuse weights that cannot be trained and saved. A layer, weight or buffer that is used twice is allowed.

    Raises:
        OwnModelError: a weight needs a first input to get its size, or a tensor is a part or a view of another one:
            on the way to a GPU, the two would become separate.
    """
    tensors = dict(itertools.chain(net.named_parameters(), net.named_buffers()))
    seen: dict[int, list[tuple[str, set[int]]]] = {}
    for name, tensor in tensors.items():
        if is_lazy(tensor):
            raise OwnModelError(f"the size of {name} waits for the first input; state it, nn.Linear for nn.LazyLinear")
    storages = [tensor.untyped_storage()._cdata for tensor in tensors.values()]
    for (name, tensor), storage in zip(tensors.items(), storages, strict=True):
        if storages.count(storage) == 1:
            continue
        whole = torch.arange(tensor.untyped_storage().nbytes() // tensor.element_size(), device="cpu")
        mine = set(whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).flatten().tolist())
        for other, theirs in seen.get(storage, []):
            if mine & theirs:
                raise OwnModelError(
                    f"{other} and {name} are two tensors in one memory; register one nn.Parameter under both names, or "
                    "take the part that is wanted in forward"
                )
        seen.setdefault(storage, []).append((name, mine))


def _line(error: Exception) -> str:
    """An error in one line."""
    text = str(error).strip().splitlines()
    if isinstance(error, OwnModelError):
        return text[0]
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
