"""Several ranks: the same run as on one, every video scored once, one clear line when something is wrong."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from safetensors.torch import load_file
from torch.optim import SGD

from reproduce.data.manifest import Manifest
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.recipe import optimiser, passes
from reproduce.engine.runner import RunHook
from reproduce.run import execute
from reproduce.suites import RunSpec

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
VIDEOS = 101  # prime: no number of ranks divides it
# 4 clips per step in passes of 2: on one rank two passes, on two ranks one. A gentle SGD, so that rounding stays small.
RECIPE = dict(
    epochs=4,
    precise_bn=1,
    ema=0.3,
    sub_batch=2,
    optim_wrapper=dict(
        type="mmengine.optim.OptimWrapper",
        optimizer=dict(type="torch.optim.SGD", lr=0.005, momentum=0.9, weight_decay=0.05),
        paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
        clip_grad=dict(max_norm=5.0),
    ),
)


def many(manifest: Manifest, n: int = VIDEOS) -> Manifest:
    """The videos of a manifest over and over, under other names."""
    videos = manifest.videos
    return manifest.subset(tuple(replace(videos[i % len(videos)], id=f"v{i:03d}") for i in range(n)))


def spec_of(suite, train: Manifest, test: Manifest, **changes) -> RunSpec:
    """The run of these tests: X3D, whose batch norms are many, with dropout."""
    spec = RunSpec.of(suite, suite.entry("x3d"), 0, train, test)
    changes = dict(recipe=spec.recipe | RECIPE, net=spec.net | dict(dropout=0.5), ranks=1) | changes
    return spec.model_copy(update=changes)


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
from reproduce.engine.distributed import leave, start
from reproduce.suites import SUITES
start()
suite, root = SUITES["kinetics-tiny"], Path(sys.argv[1])
train, test = suite.manifest("train", root), t.many(suite.manifest("val", root))
for name in sys.argv[2:]:
    losses = t.run_noting_losses(suite, Path(name), train, test)
    if get_rank() == 0:
        Path(name, "losses.json").write_text(json.dumps(losses))
leave()
threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
assert "pt_gloo_runloop" not in threads, threads
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
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in each rank: other kernels round otherwise
    try:
        losses = run_noting_losses(suite, tmp_path / "one", train, test)
    finally:
        torch.set_num_threads(threads)
    assert len(losses) >= 20
    shutil.copytree(tmp_path / "one", tmp_path / "tested")
    (untested,) = (tmp_path / "tested").glob("kinetics-tiny/*")
    for name in ("predictions.parquet", "record.json"):
        (untested / name).unlink()
    (tmp_path / "rank.py").write_text(RANK)
    done = torchrun(2, tmp_path / "rank.py", str(kinetics_root), str(tmp_path / "two"), str(tmp_path / "tested"))
    assert done.returncode == 0, done.stderr
    assert "batch 4 = ranks 2 × passes 1 × clips 2" in done.stderr
    np.testing.assert_allclose(json.loads((tmp_path / "two" / "losses.json").read_text()), losses, atol=1e-4, rtol=0)
    one, two, tested = (predictions(tmp_path / name) for name in ("one", "two", "tested"))
    assert sorted(tested.id) == sorted(v.id for v in test.videos), "none dropped, none twice"
    pd.testing.assert_frame_equal(tested, one, check_exact=True)
    np.testing.assert_allclose(np.stack(two.scores), np.stack(one.scores), atol=1e-4, rtol=0)


CPU_RANKS = """
from reproduce import cli
from reproduce.engine import distributed
distributed.check_gpus = lambda wanted: None  # ranks on the CPU
cli.main()
"""


def command(folder: Path, cache: Path, *arguments: str, prefix: tuple[str, ...] = ("-m", "reproduce")) -> list[str]:
    """``reproduce run kinetics-tiny`` with its outputs below a folder."""
    where = ["--runs", str(folder / "runs"), "--results", str(folder / "results"), "--cache", str(cache)]
    return [sys.executable, *prefix, "run", "kinetics-tiny", *where, *arguments]


def wait_for(pattern: str, folder: Path, process: subprocess.Popen) -> None:
    """Until a file is there."""
    while not any(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def rank_one(launcher: int) -> int:
    """Process id of the second rank that a launcher has started."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            mine = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1] == str(launcher)
            if mine and b"\0RANK=1\0" in (entry / "environ").read_bytes():
                return int(entry.name)
    raise AssertionError("no second rank")


def test_one_rank_complains_where_all_could(cache, tmp_path):
    line = command(tmp_path, cache, "--entries", "tsm", "--gpus", "3", prefix=("-c", CPU_RANKS))
    done = subprocess.run(line, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1
    errors = [said for said in done.stderr.splitlines() if not said.startswith(("[1/1]", "┌", "│", "└", "  "))]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error: batch 4 is no multiple of 3 ranks × 1 clips; choose another number of GPUs")


@pytest.mark.slow
def test_a_killed_rank_and_a_terminated_launcher_leave_a_run_that_the_same_command_ends(cache, tmp_path):
    line = command(tmp_path, cache, "--entries", "tsm,x3d", "--gpus", "2", prefix=("-c", CPU_RANKS))

    def begin() -> subprocess.Popen:
        return subprocess.Popen(
            line, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    first = begin()
    wait_for("runs/kinetics-tiny/tsm-*/train/last.pth", tmp_path, first)
    os.kill(rank_one(first.pid), signal.SIGKILL)
    _, said = first.communicate()
    assert first.returncode == 1
    assert said.splitlines()[-1].startswith("error: rank 1 ended by SIGKILL; issue the command again to go on"), said
    assert "Traceback" not in said
    second = begin()
    wait_for("runs/kinetics-tiny/x3d-*/train/last.pth", tmp_path, second)
    second.terminate()
    _, said = second.communicate()
    assert second.returncode == 75, said
    assert said.splitlines()[-1] == "error: stopped by SIGTERM; issue the command again to go on"
    third = begin()
    table, said = third.communicate()
    assert third.returncode == 0, said
    assert re.search(r"^ [12]  x3d ", table, re.M), table
    records = [json.loads(p.read_text()) for p in (tmp_path / "results" / "records" / "kinetics-tiny").glob("*.json")]
    assert [(r["training"]["devices"], r["result"]["n"]) for r in records] == [(2, 8), (2, 8)]


MACHINES = f"""
import os
from reproduce.launch import torchrun
torchrun.PORT = int(os.environ["FREE_PORT"])
{CPU_RANKS}
"""


@pytest.mark.slow
@pytest.mark.alone
def test_the_machines_of_a_slurm_step_are_one_run(cache, tmp_path):
    """Two launchers, as srun starts one on each machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    step = dict(SLURM_STEP_NUM_NODES="2", SLURM_JOB_ID="7", SLURM_LAUNCH_NODE_IPADDR="127.0.0.1", FREE_PORT=str(port))
    line = command(tmp_path, cache, "--entries", "tsm", prefix=("-c", MACHINES))
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    machines = [subprocess.Popen(line, cwd=ROOT, env=ENVIRONMENT | step, **pipes) for _ in range(2)]
    said = [machine.communicate() for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert sum("\n 1  tsm " in table for table, _ in said) == 1, "rank 0 speaks"
    (record,) = (tmp_path / "results" / "records" / "kinetics-tiny").glob("*.json")
    assert json.loads(record.read_text())["training"]["devices"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpus", "64"), r"error: GPUS=64, but this machine shows \d+; set GPUS= to what nvidia-smi lists"),
        (("--entries", "x3d", "--engine", "kubernetes"), "error: unknown engine 'kubernetes'; known: local, ray"),
    ],
)
def test_what_cannot_start_is_one_clear_line(cache, tmp_path, arguments, message):
    done = subprocess.run(
        command(tmp_path, cache, *arguments), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert re.match(message, done.stderr)


def test_a_batch_that_cannot_be_dealt_out_is_named():
    batch = Config(dict(batch=128, sub_batch=8))
    assert [passes(batch, world) for world in (1, 2, 16)] == [(16, 8), (8, 8), (1, 8)]
    assert passes(Config(dict(batch=128)), 8) == (1, 16)
    with pytest.raises(
        ValueError, match=r"batch 128 is no multiple of 3 ranks × 8 clips; choose another number of GPUs"
    ):
        passes(batch, 3)
    with pytest.raises(ValueError, match="batch 4 is no multiple of 8 ranks × 1 clips"):
        passes(Config(dict(batch=4)), 8)


def test_the_rate_follows_the_batch_from_the_one_it_is_stated_for():
    config = Config(dict(batch=1024, optim_wrapper=dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.1))))
    assert optimiser(config, 1)["optimizer"]["lr"] == 0.1
    config.reference_batch = 128
    scaled = optimiser(config, 4)
    assert scaled["optimizer"]["lr"] == pytest.approx(0.8)
    assert scaled["accumulative_counts"] == 4
    assert config.optim_wrapper.optimizer.lr == 0.1, "the recipe stays as it is"
    config.amp = "fp8"
    with pytest.raises(ValueError, match="amp='fp8' is unknown; known: 'bf16'"):
        optimiser(config, 1)


def test_bf16_trains_in_bf16_and_keeps_weights_and_test_in_fp32(tiny, tmp_path):
    suite, train, test = tiny
    spec = RunSpec.of(suite, suite.entry("x3d"), 0, train, test)
    spec = spec.model_copy(update=dict(recipe=spec.recipe | dict(amp="bf16")))
    kinds, original = [], VideoClassifier.forward

    def forward(self, clips, label=None, mode="tensor", **info):
        hook = self.net.register_forward_hook(lambda *a: kinds.append((mode, a[2].dtype)))
        out = original(self, clips, label, mode, **info)
        hook.remove()
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VideoClassifier, "forward", forward)
        record = execute(suite, suite.entry("x3d"), spec, train, test, tmp_path / "runs", tmp_path / "results")
    assert set(kinds) == {("loss", torch.bfloat16), ("predict", torch.float32)}
    assert np.isfinite(record.training.final_loss)
    state = load_file(spec.folder(tmp_path / "runs") / "model.safetensors")
    assert {v.dtype for v in state.values()} == {torch.float32, torch.int64}
