"""Several ranks: the same run as on one, every video scored once, one clear line when something is wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reproduce.data.manifest import Manifest, Video
from reproduce.engine.local import execute
from reproduce.engine.runner import RunHook
from reproduce.suites import RunSpec

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
VIDEOS = 101  # prime: no number of ranks divides it
# 4 clips per step in passes of 2: on one rank two passes, on two ranks one. A gentle SGD, so that rounding stays small.
RECIPE = (
    ("epochs = 1", "epochs = 4"),
    ("lr=0.005", "lr=0.005, momentum=0.9"),
    ("torch.optim.AdamW", "torch.optim.SGD"),
    ("precise_bn = 0", "precise_bn = 1\nsub_batch = 2"),
)


def many(manifest: Manifest, n: int = VIDEOS) -> Manifest:
    """The videos of a manifest over and over, under other names."""
    videos = manifest.videos
    return manifest.subset(tuple(replace(videos[i % len(videos)], id=f"v{i:03d}") for i in range(n)))


def spec_of(suite, train: Manifest, test: Manifest, **changes) -> RunSpec:
    """The run of these tests: X3D, whose batch norms are many, without dropout."""
    spec = RunSpec.of(suite, suite.entry("x3d"), 0, train, test)
    recipe = spec.recipe
    for old, new in RECIPE:
        assert old in recipe, recipe
        recipe = recipe.replace(old, new)
    return replace(spec, recipe=recipe, net=spec.net.replace("head_width=", "dropout=0.0, head_width="), **changes)


def run_noting_losses(suite, folder: Path, train: Manifest, test: Manifest) -> list[float]:
    """Execute the run and return the loss of every step that was made."""
    losses, original = [], RunHook.after_train_iter

    def after(self, runner, batch_idx, data_batch=None, outputs=None):
        original(self, runner, batch_idx, data_batch, outputs)
        losses.append(self.loss)

    RunHook.after_train_iter = after
    try:
        execute(suite, suite.entry("x3d"), spec_of(suite, train, test), train, test, folder, folder / "results")
    finally:
        RunHook.after_train_iter = original
    return losses


RANK = """
import json, sys
from pathlib import Path
sys.path.insert(0, "tests/reproduce")
import test_engine_ranks as t
from mmengine.dist import get_rank
from reproduce.engine.distributed import start
from reproduce.suites import SUITES
start()
suite, root = SUITES["kinetics-tiny"], Path(sys.argv[1])
train, test = suite.manifest("train", root), t.many(suite.manifest("val", root))
for name in sys.argv[2:]:
    losses = t.run_noting_losses(suite, Path(name), train, test)
    if get_rank() == 0:
        Path(name, "losses.json").write_text(json.dumps(losses))
"""


def torchrun(ranks: int, script: Path, *arguments: str) -> subprocess.CompletedProcess:
    """A script on several ranks of this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", str(script)]
    return subprocess.run([*command, *arguments], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)


def predictions(folder: Path) -> pd.DataFrame:
    """Of the only run in a folder."""
    (path,) = folder.glob("kinetics-tiny/*/predictions.parquet")
    return pd.read_parquet(path)


def test_two_ranks_are_one_rank_and_score_every_video_once(tiny, kinetics_root, tmp_path):
    """Batch norm included: its statistics are over the clips of a pass, on one rank and on two."""
    suite, train, test = tiny
    test = many(test)
    losses = run_noting_losses(suite, tmp_path / "one", train, test)
    assert len(losses) >= 20
    shutil.copytree(tmp_path / "one", tmp_path / "tested")
    (untested,) = (tmp_path / "tested").glob("kinetics-tiny/*")
    for name in ("predictions.parquet", "record.json"):
        (untested / name).unlink()
    (tmp_path / "rank.py").write_text(RANK)
    done = torchrun(
        2, tmp_path / "rank.py", str(kinetics_root), str(tmp_path / "two"), str(tmp_path / "tested")
    )
    assert done.returncode == 0, done.stderr
    assert "batch 4 = ranks 2 × passes 1 × clips 2" in done.stderr
    np.testing.assert_allclose(json.loads((tmp_path / "two" / "losses.json").read_text()), losses, atol=1e-4, rtol=0)
    one, two, tested = (predictions(tmp_path / name) for name in ("one", "two", "tested"))
    assert sorted(tested.id) == sorted(v.id for v in test.videos), "none dropped, none twice"
    pd.testing.assert_frame_equal(tested, one, check_exact=True)
    np.testing.assert_allclose(np.stack(two.scores), np.stack(one.scores), atol=1e-4, rtol=0)
