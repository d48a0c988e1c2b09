"""A package elsewhere adds a family, a transform, a layout, a space, a judge: one file and one config each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GROUPS = dict(families="exercise_family", transforms="exercise_transform", layouts="exercise_layout")
GROUPS |= dict(spaces="exercise_space", judges="exercise_judge")


@pytest.fixture
def use(kinetics_root, tmp_path):
    """Runs a command on a suite of the exercises, the package installed; returns the folder of runs and results."""
    info = tmp_path / "site" / "exercises-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: exercises\nVersion: 1.0\n")
    points = [f"[autotsnet.{group}]\nx = {module}\n" for group, module in GROUPS.items()]
    (info / "entry_points.txt").write_text("\n".join(points))
    path = os.pathsep.join(map(str, (ROOT, HERE, tmp_path / "site")))
    given = dict(PYTHONPATH=path, MY_VIDEOS=str(kinetics_root), ALLOW_PARTIAL="1", OMP_NUM_THREADS="1")

    def command(name: str, suite: str, *more: str, **environment: str) -> Path:
        arguments = [name, str(HERE / suite), *more, f"--runs={tmp_path / 'runs'}", f"--cache={tmp_path / 'cache'}"]
        arguments += [f"--results={tmp_path / 'results'}"] if name == "run" else []
        env = os.environ | given | environment
        done = subprocess.run([sys.executable, "-m", "reproduce", *arguments], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        return tmp_path

    return command


def records(folder: Path) -> dict[str, dict]:
    found = [json.loads(path.read_text()) for path in (folder / "results").glob("records/*/*.json")]
    return {record["entry"]: record for record in found}


def test_a_family(use):
    record = records(use("run", "suite_family.py"))["one_layer"]
    assert record["model"]["family"] == "one_layer"
    assert record["model"]["matched"]


def test_a_transform_beside_the_network_without_it(use):
    found = records(use("run", "suite_transform.py"))
    assert found["x3d_blurred"]["model"]["net"]["transforms"] == [dict(type="blur", size=3)]
    assert found["x3d"]["model"]["params"] == found["x3d_blurred"]["model"]["params"]
    assert found["x3d"]["result"]["predictions_sha256"] != found["x3d_blurred"]["result"]["predictions_sha256"]


def test_a_layout(use, kinetics_root, tmp_path):
    from reproduce.data import kinetics

    flat = tmp_path / "flat"
    flat.mkdir()
    for split in ("train", "val"):
        videos = kinetics.load(kinetics_root, split, "Exercise").videos
        (flat / f"{split}.txt").write_text("".join(f"c{v.label} {kinetics_root / v.path}\n" for v in videos))
    assert records(use("run", "suite_layout.py", MY_VIDEOS=str(flat)))["x3d"]["result"]["n"] == len(videos)


def test_a_space_is_searched_and_what_is_found_is_trained(use):
    record = records(use("run", "suite_space.py"))["kernel_net"]
    assert record["search"]["space"] == "kernels"
    assert record["model"]["net"]["kernels"]["kernels"] in [[a, b] for a in (1, 3) for b in (1, 3)]
    assert record["model"]["matched"]


def test_a_judge(use):
    folder = use("search", "suite_judge.py", "--entry", "auto_tsnet")
    journal = pd.read_parquet(next(folder.glob("runs/*/search-*/journal.parquet")))
    assert (journal.log_likelihood == -np.stack(journal.code).astype(int).sum(1)).all()
