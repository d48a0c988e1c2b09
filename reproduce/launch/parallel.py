"""Runs of a suite side by side on a CPU, a process each, on a thread or two.

A second thread hardly speeds up a network of embedded clips (a step of X3D at the quick size took 0.34 s on one thread
and 0.33 s on two, of AssembleNet 0.69 s and 0.92 s; two cores, Intel Xeon), a second run beside it nearly doubles what
gets done. No scheduler is needed: each worker goes through all runs and passes over those that another holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing.connection
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from reproduce.engine.runner import PreemptedError
from reproduce.launch import local
from reproduce.launch.local import Job
from reproduce.lease import HeldError
from reproduce.suites import suite

if TYPE_CHECKING:
    from reproduce.tuning import Trial

MEMORY = 4 * 2**30  # bytes a run may take: 1.9 GB were seen, with the process that decodes
PR_SET_PDEATHSIG, M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = 1, -1, -3, -4  # of Linux and glibc


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fitting() -> int:
    """How many runs this machine has room for: cores and memory; with a GPU, one."""
    if torch.cuda.is_available():
        return 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(cores(), memory // MEMORY))


def keep_memory() -> None:
    """Let the allocator keep what is freed: activations of every step are as large as those of the last.

    By default glibc gives it back and takes it again, cleared, page by page: 8,000 to 15,000 page faults a step, a
    tenth to a sixth of its time.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_MMAP_MAX, 0)


def run_jobs(todo: list[Job], cache: Path, runs: Path, results: Path, at_a_time: int) -> None:
    """Search, train and test, several at a time; then, with the machine to itself, time each and write its record.

    Args:
        todo: the runs, of one suite.
        cache: folder of the embedded videos.
        runs: folder of run folders.
        results: folder of records.
        at_a_time: processes; 1: one run after the other, in this one.

    Raises:
        PreemptedError: SIGTERM; the same command goes on.
    """
    keep_memory()
    if at_a_time > 1:
        # Embedded videos are generated once, here; what is wrong with the data is said once.
        unfinished = [job for job in todo if not job.whole(cache, runs)]
        if len(unfinished) > 1:
            at_a_time = min(at_a_time, len(unfinished))
            print(f"{len(unfinished)} runs, {at_a_time} at a time; timed afterwards", file=sys.stderr)
            side_by_side(longest_first(unfinished), cache, runs, results, at_a_time)
    # What failed in a worker fails again here, and says why; what is done is only timed.
    local.run_jobs(todo, cache, runs, results)


def side_by_side(
    todo: Sequence[Job | Trial],
    cache: Path,
    runs: Path,
    results: Path,
    processes: int,
    seen: Callable[[], object] = lambda: None,
) -> None:
    """Go through runs or trials in several processes, each with its part of the cores; what fails is left undone.

    Args:
        todo: each has ``run``; in this order.
        cache: folder of the embedded videos.
        runs: folder of run folders.
        results: folder of records.
        processes: at a time.
        seen: called every second.

    Raises:
        PreemptedError: SIGTERM; the same command goes on.
    """
    threads = max(1, cores() // processes)
    spawn = multiprocessing.get_context("spawn")
    arguments = (todo, cache, runs, results, threads, os.getpid())
    workers = [spawn.Process(target=_work, args=arguments) for _ in range(processes)]
    stopped = []

    def stop(*_) -> None:
        stopped.append(True)
        for worker in workers:
            if worker.pid:
                worker.terminate()

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            multiprocessing.connection.wait([worker.sentinel for worker in workers if worker.is_alive()], timeout=1)
            seen()
    finally:
        signal.signal(signal.SIGTERM, previous)
    if stopped:
        raise PreemptedError("stopped by SIGTERM; issue the command again to go on")


def longest_first(todo: list[Job]) -> list[Job]:
    """Runs with a search first, then networks drawn from a space, then the others.

    The longest runs come first, so that all processes end at about the same time.
    """

    def place(job: Job) -> int:
        entry = suite(job.suite).entry(job.entry)
        return 0 if entry.search and entry.variants == 1 else 1 if entry.search else 2

    return sorted(todo, key=place)


def _work(todo: Sequence[Job | Trial], cache: Path, runs: Path, results: Path, threads: int, parent: int) -> None:
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # when the parent is killed: save, and end
    torch.set_num_threads(threads)
    keep_memory()
    for job in todo:
        if os.getppid() != parent:
            return
        try:
            job.run(cache, runs, results, timed=False)
        except HeldError:  # by another worker
            continue
        except (Exception, KeyboardInterrupt):  # the parent will say it
            return
