"""Leases between machines, which here are processes and threads with names of their own."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reproduce.lease import HeldError, held, leased
from reproduce.whole_files import OutputError


def leave(folder: Path, machine: str, silent: float) -> None:
    """A lease whose holder was last heard of some seconds ago."""
    lease, then = folder / ".lease-000001", time.time() - silent
    lease.write_text(f"{machine}\nhost process 1")
    os.utime(lease, (then, then))


def test_a_living_holder_of_another_machine_is_named_and_respected(tmp_path):
    who = rf"process {os.getpid()} is at work on .*last sign \d+ s ago\); wait"
    with leased(tmp_path, "a"), pytest.raises(HeldError, match=who):
        leased(tmp_path, "b").__enter__()
    with leased(tmp_path, "b"):
        pass


@pytest.mark.alone
def test_a_dead_holder_is_followed_by_one_of_many(tmp_path):
    """Eight machines at once find a holder that has been silent for too long."""
    leave(tmp_path, "dead", silent=60)
    with pytest.raises(HeldError):
        leased(tmp_path, "early", expiry=90).__enter__()
    context = multiprocessing.get_context("fork")
    gate, finish, won = context.Barrier(8), context.Event(), context.Value("i", 0)

    def machine(name: str) -> None:
        gate.wait()
        try:
            with leased(tmp_path, name, expiry=30):
                with won.get_lock():
                    won.value += 1
                finish.wait(20)
        except HeldError:
            with won.get_lock():
                won.value += 100

    machines = [context.Process(target=machine, args=(str(i),)) for i in range(8)]
    for m in machines:
        m.start()
    while won.value < 700:
        time.sleep(0.01)
    finish.set()
    for m in machines:
        m.join()
    assert won.value == 701


def test_a_dead_holder_of_this_machine_is_followed_at_once(tmp_path):
    leave(tmp_path, "a", silent=0)
    with pytest.raises(HeldError, match="host process 1 is at work on"):
        leased(tmp_path, "b").__enter__()
    with leased(tmp_path, "a"):
        pass


@pytest.mark.alone
def test_a_heartbeat_keeps_a_lease_and_one_that_was_cut_off_learns_of_it(tmp_path):
    reasons = []
    holder = leased(tmp_path, "a", beat=0.05, expiry=3, lost=reasons.append)
    holder.__enter__()
    (lease,) = tmp_path.glob(".lease-*")
    before = lease.stat().st_mtime
    while lease.stat().st_mtime == before:
        time.sleep(0.01)
    assert not reasons
    (tmp_path / ".lease-000002").write_text("b\nhost b")
    while not reasons:
        time.sleep(0.01)
    assert "was taken over by another machine" in reasons[0]


def test_a_folder_is_held_once_here_and_free_afterwards(tmp_path):
    with held(tmp_path), pytest.raises(HeldError, match="another process is at work on"):
        held(tmp_path).__enter__()
    with held(tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        held(tmp_path / "file").__enter__()
    with pytest.raises(PermissionError), held(tmp_path):
        raise PermissionError(13, "Permission denied", "frames/")  # of the work, not of the folder


def test_a_worker_does_not_hold_what_its_dead_parent_held(tmp_path):
    code = """if True:
        import os, sys, time
        from pathlib import Path
        from reproduce.lease import held
        held(Path(sys.argv[1])).__enter__()
        child = os.fork()
        if child == 0:
            time.sleep(60)
        else:
            Path(sys.argv[1], "child").write_text(str(child))
        os._exit(9)"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60)
    try:
        with held(tmp_path):
            pass
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
