"""autotsnet imports neither baselines nor reproduce; baselines never imports reproduce; imports are quiet."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("autotsnet", "baselines", "reproduce")
FORBIDDEN = [("autotsnet", {"baselines", "reproduce"}), ("baselines", {"reproduce"})]


def imported(code: str) -> set[str]:
    """Top-level packages that a file imports, or names in a string as one imports them: ``"package.module"``."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"\w+(\.\w+)*", node.value)
        ):
            names.add(node.value.split(".")[0])
    return names


@pytest.mark.parametrize(("package", "forbidden"), FORBIDDEN)
def test_packages_import_downwards_only(package, forbidden):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    found = {str(f.relative_to(ROOT)): sorted(imported(f.read_text()) & forbidden) for f in files}
    assert not {file: names for file, names in found.items() if names}


@pytest.mark.parametrize("code", ["import {}.x", "from {} import x", "__import__('{}')", "LOCATIONS = ['{}.x']"])
def test_every_kind_of_import_is_seen(code):
    assert "baselines" in imported(code.format("baselines"))
    assert "baselines" not in imported('"""Compared with baselines."""\nnote = "baselines are others"')


def graph() -> dict[str, set[str]]:
    """Modules of ours, and which others each imports, also in a function or by a string; not for types only."""
    files = {f: f.relative_to(ROOT).with_suffix("").parts for p in PACKAGES for f in (ROOT / p).rglob("*.py")}
    modules = {".".join(parts).removesuffix(".__init__"): file for file, parts in files.items()}
    found = {}
    for module, file in modules.items():
        tree, names = ast.parse(file.read_text()), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {a.name for a in node.names}
            elif isinstance(node, ast.ImportFrom):
                parts = module.split(".")
                parent = parts[: len(parts) - node.level + (file.stem == "__init__")] if node.level else []
                node.module = ".".join([*parent, *([node.module] if node.module else [])])
                names |= {
                    f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in modules else node.module
                    for a in node.names
                }
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
                names.add(node.value)
        found[module] = names & modules.keys() - {module}
    return found


def test_no_imports_run_in_a_circle():
    TopologicalSorter(graph()).prepare()  # or a CycleError that names them


def test_rooms_are_on_floors():
    """A room is a package inside of one, or a module beside it; imports run from room to room, never back."""
    rooms, known = defaultdict(set), graph()
    for module, others in known.items():
        for other in others:
            a, b = (".".join(m.split(".")[:2]) for m in (module, other))
            if a != b:
                rooms[a].add(b)
    TopologicalSorter(rooms).prepare()


def test_the_first_look_up_takes_nothing_in_from_above_and_replaces_nothing():
    code = """
import sys
from mmengine.runner import CheckpointLoader
loaders = dict(CheckpointLoader._schemes)
from autotsnet import plugins, registry
plugins.entry_points = lambda group: []  # the baselines are known by one
registry.MODELS.get("SuperNet"), registry.HOOKS.get("EMAHook"), registry.family("auto_tsnet")
assert not {"baselines", "reproduce"} & {name.partition(".")[0] for name in sys.modules}
import reproduce.engine
assert CheckpointLoader._schemes == loaders
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_imports_are_quiet():
    code = "import autotsnet.models, baselines, reproduce.run, reproduce.evidence.tables"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""


RGB_SHAPE = re.compile(r"\(\s*\w+,\s*3,\s*[\w.]*frames\b")


@pytest.mark.parametrize("package", ["autotsnet", "baselines", "reproduce", "configs"])
def test_clips_are_built_in_one_place(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    assert not [str(f.relative_to(ROOT)) for f in files if RGB_SHAPE.search(f.read_text())], (
        "call autotsnet.inputs.example: not every network takes RGB clips"
    )


@pytest.mark.parametrize("code", ["empty(1, 3, frames, crop, crop)", "randn(b, 3, p.sampling.frames, side, side)"])
def test_clips_built_elsewhere_are_seen(code):
    assert RGB_SHAPE.search(code)
