"""The numerics version: known by the gate's losses, the same however their file is written."""

import json
import shutil
import subprocess
import sys

import pytest

from reproduce import numerics
from reproduce.evidence import quantities
from reproduce.suites import SUITES


def test_every_entry_of_the_suites_has_one_and_others_have_none():
    suite = SUITES["kinetics-tiny"]
    found = {e.name: numerics.numerics(e.name) for e in suite.entries}
    assert all(len(version) == 8 for version in found.values())
    searched = {e.name for e in suite.entries if e.search and e.variants == 1}
    known = {"auto_tsnet", "auto_x3d", "assemblenet_searched", "evanet_searched", "pvnas"}
    assert searched == known | {"tiny_video_net_searched", "e3d_searched"}
    for entry in suite.entries:
        if entry.name in searched:
            assert found[entry.name] == found[suite.control(entry).name]
    assert len(set(found.values())) == len(found) - len(searched)
    assert numerics.numerics("my_model") == numerics.numerics("x3d_m") == ""
    assert numerics.numerics("auto_tsnet", "pvnas_random") == found["pvnas"]
    assert f"losses of {quantities.STEPS} steps" == numerics.QUANTITY


def test_it_depends_on_the_losses_and_on_nothing_else(tmp_path, monkeypatch):
    shutil.copy(numerics.EXPECTED / "x3d.json", tmp_path)
    before = numerics.numerics("x3d")
    monkeypatch.setattr(numerics, "EXPECTED", tmp_path)
    path = tmp_path / "x3d.json"
    file = json.loads(path.read_text())
    file["gate"]["GMACs"]["expected"] = 1.0
    path.write_text(json.dumps(file, indent=7))
    assert numerics.numerics("x3d") == before
    file["gate"]["losses of 20 steps"]["expected"][-1] += 1e-9
    path.write_text(json.dumps(file))
    assert numerics.numerics("x3d") not in (before, "")


@pytest.mark.parametrize("text", ["{", "{}", '{"gate": {"losses of 20 steps": {"expected": 3}}}', "[]"])
def test_a_damaged_file_is_one_clear_line(tmp_path, monkeypatch, text):
    (tmp_path / "x3d.json").write_text(text)
    monkeypatch.setattr(numerics, "EXPECTED", tmp_path)
    with pytest.raises(ValueError, match=r"^.*x3d\.json has no gate losses .*restore it"):
        numerics.numerics("x3d")


def test_it_imports_nothing_heavy():
    code = "import sys, reproduce.numerics; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'mmengine')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
