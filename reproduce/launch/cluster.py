"""The runs of a suite on a Ray cluster: a task each, on as many GPUs of one machine as a run wants.

Ray only deals out work. The state of a run is its folder, on a file system that all machines share under one path; a
worker, a machine or the whole cluster may be lost, and whoever does the run next goes on from there.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from pathlib import Path

from reproduce.launch.local import Job, check_searches
from reproduce.launch.torchrun import launch
from reproduce.suites import suite

PAUSE = 15.0  # seconds before a run that another process holds, or that was preempted, is tried again
LOSSES = 5  # lost workers per run: more are the run's own doing, such as too much memory
PASSED = ("ALLOW_PARTIAL", "DECODER", "OMP_WAIT_POLICY", "TRACEBACK")
PASSED += ("WANDB_PROJECT", "WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI")


class ClusterError(RuntimeError):
    """Some runs of a cluster's failed; the message names them."""


def work(job: Job, gpus: int, cache: Path, runs: Path, results: Path) -> None:
    """A task: one run, in this process or on ranks of its own."""
    if gpus > 1:
        launch(gpus, job.arguments(cache, runs, results), runs / "ranks", machines=1)
    else:
        job.run(cache, runs, results)


def run_jobs(todo: list[Job], cache: Path, runs: Path, results: Path, gpus: int = 0) -> None:
    """As many runs at a time as the cluster of RAY_ADDRESS has room for; without an address, as this machine has.

    Args:
        todo: the runs, of one suite.
        cache: folder of the embedded videos; like the next two, seen by all machines under this path.
        runs: folder of run folders.
        results: folder of records.
        gpus: per run; 0: one, or none where the cluster has none.

    Raises:
        ValueError: Ray is not installed, or no machine has so many GPUs.
        ClusterError: some runs failed; all others are done.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError("ENGINE=ray needs Ray: pip install 'ray>=2.30' (the extra `cluster`)") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # for a cluster that is started here
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    mine = suite(todo[0].suite)
    mine.data_root(cache)  # embedded videos are generated once, here
    check_searches(todo, cache, runs, gpus)
    variables = {k: os.environ[k] for k in (*PASSED, mine.root or "") if k in os.environ}
    here = Path(__file__).resolve().parent.parent.parent  # this code, not one that a machine has installed
    path = os.pathsep.join(filter(None, (str(here), os.environ.get("PYTHONPATH"))))
    ray.init(logging_level="ERROR", runtime_env=dict(env_vars=variables | dict(PYTHONPATH=path)))
    try:
        most = int(max(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]))
        if gpus > most:
            raise ValueError(f"GPUS={gpus}, but no machine of the cluster has more than {most}; set GPUS= to that")
        gpus = gpus or min(1, most)
        # max_calls: a fresh process per run, so that none inherits the memory or the process group of another
        task = ray.remote(num_gpus=gpus, num_cpus=max(1, gpus), max_calls=1, max_retries=0)(work)
        where = [Path(p).absolute() for p in (cache, runs, results)]
        _deal(ray, lambda job: task.remote(job, gpus, *where), todo)
    finally:
        ray.shutdown()


def _deal(ray, submit, todo: list[Job]) -> None:
    """Submit all, and again what was lost or cannot be done yet, until each is done or has failed."""
    pending, later = {submit(job): job for job in todo}, []
    failed: dict[Job, str] = {}
    lost: Counter[Job] = Counter()
    done = 0
    while pending or later:
        if pending:
            ready, _ = ray.wait(list(pending), timeout=1.0)
        else:
            ready = []
            time.sleep(1.0)
        for ref in ready:
            job = pending.pop(ref)
            try:
                ray.get(ref)
                done += 1
                _say(f"[{done}/{len(todo)}] {job}")
            except ray.exceptions.RayTaskError as error:
                if getattr(error.cause, "exit_code", 1) == os.EX_TEMPFAIL:
                    _say(f"{job}: {error.cause}; tried again in {PAUSE:.0f} s")
                    later.append((time.monotonic() + PAUSE, job))
                else:
                    failed[job] = str(error.cause)
                    _say(f"{job} failed: {error.cause}")
            except ray.exceptions.RayError as error:
                lost[job] += 1
                if lost[job] < LOSSES:
                    _say(f"{job}: its worker was lost; another goes on")
                    pending[submit(job)] = job
                else:
                    failed[job] = f"lost {LOSSES} workers, the last one so: {str(error).splitlines()[0]}"
        now = time.monotonic()
        pending |= {submit(job): job for due, job in later if due <= now}
        later = [(due, job) for due, job in later if due > now]
    if failed:
        text = "; ".join(f"{job}: {reason}" for job, reason in failed.items())
        raise ClusterError(f"{len(failed)} of {len(todo)} runs failed, the others are done. {text}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
