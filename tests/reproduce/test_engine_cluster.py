"""Runs on a real Ray cluster of several nodes of processes: workers, nodes and the head are lost in the middle."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from reproduce.engine.runner import DivergedError
from reproduce.launch import cluster, local
from reproduce.lease import HeldError
from reproduce.run import execute
from reproduce.suites import RunSpec

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray>=2.30' (the extra `cluster`)")

from ray.cluster_utils import Cluster  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
ENTRIES = ("tsm", "x3d", "auto_tsnet_uniform")


@contextlib.contextmanager
def nodes(n: int):
    """A cluster of a head without CPUs and n nodes of one CPU each: (cluster, nodes)."""
    c = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, include_dashboard=False))
    try:
        yield c, [c.add_node(num_cpus=1) for _ in range(n)]
    finally:
        c.shutdown()


def begin(c: Cluster, folder: Path, cache: Path) -> subprocess.Popen:
    """The command of the README, on the tiny suite."""
    where = ["--runs", str(folder / "runs"), "--results", str(folder / "results"), "--cache", str(cache)]
    command = [sys.executable, "-m", "reproduce", "run", "kinetics-tiny", "--entries", ",".join(ENTRIES), *where]
    env = {**os.environ, "ENGINE": "ray", "RAY_ADDRESS": c.address, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    env["RAY_gcs_rpc_server_reconnect_timeout_s"] = "5"  # a driver waits a minute for a lost head
    with open(folder / "said.txt", "w") as said:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=said, stderr=subprocess.STDOUT)


def training(folder: Path, process: subprocess.Popen, but: int = 0) -> tuple[str, int]:
    """Wait until a run trains, on another process than ``but``: its id and the process that its lease names."""
    while True:
        assert process.poll() is None, (folder / "said.txt").read_text()
        for clock in folder.glob("runs/kinetics-tiny/*/train/last.pth"):
            for lease in clock.parent.parent.glob(".lease-*"):
                if (found := re.search(r"process (\d+)", lease.read_text())) and int(found[1]) != but:
                    return clock.parent.parent.name, int(found[1])
        time.sleep(0.02)


def check(tiny, folder: Path, process: subprocess.Popen) -> None:
    """The command succeeds; every run has the predictions of an undisturbed one on this machine."""
    suite, train, test = tiny
    assert process.wait() == 0, (folder / "said.txt").read_text()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as Ray gives a task of one CPU
    try:
        for name in ENTRIES:
            entry = suite.entry(name)
            spec = RunSpec.of(suite, entry, 0, train, test)
            execute(suite, entry, spec, train, test, folder / "alone", folder / "alone-results")
            tables = [pd.read_parquet(spec.folder(folder / r) / "predictions.parquet") for r in ("alone", "runs")]
            pd.testing.assert_frame_equal(*tables, check_exact=True)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_runs_of_a_lost_worker_and_of_a_lost_node_are_taken_up_by_others(tiny, cache, tmp_path):
    with nodes(2) as (c, (first, _)):
        process = begin(c, tmp_path, cache)
        run, worker = training(tmp_path, process)
        os.kill(worker, signal.SIGKILL)
        training(tmp_path, process, but=worker)
        c.remove_node(first, allow_graceful=False)
        check(tiny, tmp_path, process)
        said = (tmp_path / "said.txt").read_text()
        assert re.search(rf"{run.rsplit('-s0', 1)[0]}, seed 0: its worker was lost; another goes on", said), said
        assert "[3/3]" in said


@pytest.mark.slow
def test_after_a_lost_head_the_same_command_on_another_cluster_ends(tiny, cache, tmp_path):
    with nodes(1) as (c, _):
        process = begin(c, tmp_path, cache)
        training(tmp_path, process)
        c.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
        assert process.wait(timeout=300) != 0
    with nodes(1) as (c, _):
        check(tiny, tmp_path, begin(c, tmp_path, cache))


class Tasks:
    """What ``_deal`` uses of Ray: tasks that are done at once, each with an outcome from a list."""

    exceptions = ray.exceptions

    def __init__(self, outcomes: dict[local.Job, list]) -> None:
        self.outcomes, self.submitted = outcomes, []

    def submit(self, job: local.Job) -> tuple[int, local.Job]:
        """A reference."""
        self.submitted.append(job)
        return len(self.submitted), job

    def wait(self, refs: list, timeout: float) -> tuple[list, list]:
        """The first is ready."""
        return refs[:1], refs[1:]

    def get(self, ref: tuple[int, local.Job]) -> None:
        """The next outcome of the job."""
        outcome = self.outcomes[ref[1]].pop(0)
        if outcome is not None:
            raise outcome


def failure(cause: Exception) -> ray.exceptions.RayTaskError:
    """As a task's own exception arrives."""
    return ray.exceptions.RayTaskError("work", "", cause)


def test_held_and_lost_runs_are_submitted_again_and_failed_ones_named(monkeypatch, capsys):
    monkeypatch.setattr(cluster, "PAUSE", 0.0)
    lost = ray.exceptions.WorkerCrashedError
    a, b, c, d = jobs = [local.Job("kinetics-tiny", e, 0, 0) for e in ("tsm", "x3d", "slowfast", "auto_tsnet_uniform")]
    tasks = Tasks(
        {
            a: [None],
            b: [failure(HeldError("another process is at work on runs/x3d")), lost(), None],
            c: [failure(DivergedError("the loss is nan at step 7"))],
            d: [lost() for _ in range(cluster.LOSSES)],
        }
    )
    with pytest.raises(cluster.ClusterError) as caught:
        cluster._deal(tasks, tasks.submit, jobs)
    text = str(caught.value)
    assert text.startswith("2 of 4 runs failed, the others are done. kinetics-tiny: slowfast, seed 0: the loss is nan")
    assert "auto_tsnet_uniform, seed 0: lost 5 workers" in text
    assert [tasks.submitted.count(j) for j in jobs] == [1, 3, 1, cluster.LOSSES]
    assert "x3d, seed 0: another process is at work on runs/x3d; tried again in 0 s" in capsys.readouterr().err


def test_without_ray_the_engine_names_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"ENGINE=ray needs Ray: pip install 'ray>=2.30'"):
        cluster.run_jobs([], *[Path()] * 3)
