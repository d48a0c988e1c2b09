"""The study of mutants: all of them can be planted, and it tells killed from survived."""

import ast
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from reproduce.studies import mutants
from reproduce.studies.mutants import MUTANTS, Mutant, MutantError, study

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_every_mutant_can_be_planted_and_its_test_is_there(mutant):
    sound, planted = (ROOT / mutant.file).read_text(), mutant.planted(ROOT)
    assert ast.dump(ast.parse(planted)) != ast.dump(ast.parse(sound)), "a fault, not a comment"
    file, _, name = mutant.test.partition("::")
    tests = {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)}
    assert (name or "test").split("[")[0] in tests | {"test"}


def test_there_are_many_over_all_packages():
    assert len(MUTANTS) == len({m.name for m in MUTANTS}) == len({(m.file, m.new) for m in MUTANTS}) >= 40
    places = Counter("/".join(m.file.split("/")[:2]) for m in MUTANTS)
    for package in ("autotsnet/search", "autotsnet/layers", "autotsnet/models", "baselines/pvnas", "baselines/tsm.py"):
        assert package in places
    for package in ("reproduce/data", "reproduce/engine", "reproduce/measure", "reproduce/records.py"):
        assert package in places
    assert max(places.values()) <= len(MUTANTS) / 3


SUM = Mutant("sum", "pkg.py", "a + b", "a - b", "test_pkg.py")


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """A package of two functions, of which one is tested."""
    (tmp_path / "pkg.py").write_text("def add(a, b):\n    return a + b\n\n\ndef twice(a):\n    return 2 * a\n")
    (tmp_path / "test_pkg.py").write_text("from pkg import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n")
    monkeypatch.setattr(mutants, "TREE", ("pkg.py", "test_pkg.py"))
    return tmp_path


def test_killed_survived_and_not_done_twice(tree, monkeypatch):
    out, before = tree / "out" / "mutants.json", (tree / "pkg.py").read_text()
    double = Mutant("double", "pkg.py", "2 * a", "3 * a", "test_pkg.py")
    assert [row["verdict"] for row in study([SUM, double], out, tree)] == ["killed", "survived"]
    assert (tree / "pkg.py").read_text() == before
    record = json.loads(out.read_text())
    assert (record["of"], record["killed"]) == (2, 1)
    assert set(record["mutants"][0]) == {*vars(SUM), "key", "verdict", "seconds", "commit", "dirty"}
    ran, original = [], mutants.judged
    monkeypatch.setattr(mutants, "judged", lambda mutant, *a: ran.append(mutant.name) or original(mutant, *a))
    study([SUM, double], out, tree)
    assert ran == []
    with open(tree / "test_pkg.py", "a") as file:
        file.write("\n\ndef test_twice():\n    import pkg\n\n    assert pkg.twice(2) == 4\n")
    assert [row["verdict"] for row in study([SUM, double], out, tree)] == ["killed", "killed"]
    assert ran == ["sum", "double"], "another test: judged anew"


def test_what_proves_nothing_is_named(tree):
    out = tree / "mutants.json"
    with pytest.raises(MutantError, match=r"mutant 'sum': pkg.py holds 'a \* b' 0 times, not once; bring"):
        study([replace(SUM, old="a * b")], out, tree)
    with pytest.raises(MutantError, match=r"test_pkg.py::test_none cannot be run: "):
        study([replace(SUM, test="test_pkg.py::test_none")], out, tree)
    (tree / "test_pkg.py").write_text("import time\n\n\ndef test_slow():\n    time.sleep(60)\n")
    with pytest.raises(MutantError, match=r"test_pkg.py has not ended after 4 s"):
        study([SUM], out, tree, limit=4.0)
    (tree / "test_pkg.py").write_text("def test_wrong():\n    assert False\n")
    with pytest.raises(MutantError, match=r"test_pkg.py fails without any fault; mend it first"):
        study([SUM], out, tree)
    assert not out.exists()
