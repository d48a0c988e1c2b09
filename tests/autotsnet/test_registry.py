"""Registries are open: a package elsewhere adds its own by entry points, and one that fails is named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autotsnet.plugins import OpenRegistry

ROOT = Path(__file__).resolve().parent.parent.parent
PLUG_IN = '''
"""A package elsewhere: a family."""
from torch import nn

from autotsnet.registry import Knob, register_family


@register_family(Knob("width", 1, 64, 1))
class MeanNet(nn.Module):
    def __init__(self, num_classes, frames=8, crop=32, width=4):
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, clips):
        return self.fc(clips.mean((2, 3, 4)))
'''
ENTRY_POINTS = """
[autotsnet.families]
mean_net = mean_net
broken = mean_net_broken
"""
USE = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from autotsnet.registry import MODELS, family
    built = MODELS.build(dict(type="MeanNet", num_classes=4))
    assert type(built) is family("MeanNet").build.__wrapped__
    assert family("auto_tsnet")
for one in caught:
    if "left out" in str(one.message):
        print(one.message)
"""


@pytest.fixture
def installed(tmp_path) -> Path:
    """A folder as site-packages, with a tiny package in it and an entry point of a module that does not load."""
    (tmp_path / "mean_net.py").write_text(PLUG_IN)
    (tmp_path / "mean_net_broken.py").write_text("import a_package_that_is_not_there\n")
    info = tmp_path / "mean_net-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mean-net\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return tmp_path


def test_a_package_elsewhere_adds_a_family_and_a_broken_one_is_named(installed):
    environment = os.environ | dict(PYTHONPATH=f"{ROOT}{os.pathsep}{installed}")
    done = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, cwd=installed, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "mean-net: autotsnet.families 'broken' is left out, mean_net_broken does not load (ModuleNotFoundError: No "
        "module named 'a_package_that_is_not_there')"
    ]


@pytest.mark.parametrize("group", ["spaces", "judges", "transforms", "layouts"])
def test_an_open_registry_has_the_members_of_a_package_elsewhere(group, installed, monkeypatch):
    (installed / "mean_net-1.0.dist-info" / "entry_points.txt").write_text(
        f"[autotsnet.{group}]\nx = {group}_of_mine\n"
    )
    (installed / f"{group}_of_mine.py").write_text(
        "import sys\nsys.things.register_module(name='mine', module=object)\n"
    )
    monkeypatch.setattr("autotsnet.plugins._asked", set())
    monkeypatch.syspath_prepend(installed)
    things = OpenRegistry("thing", group)
    monkeypatch.setattr(sys, "things", things, raising=False)
    assert things.get("mine") is object
    sys.modules.pop(f"{group}_of_mine")
    assert things.get("mine") is object  # asked once: a second registration would be an error
