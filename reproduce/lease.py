"""At most one process at work in a folder: by a file lock on one machine, by a lease with a heartbeat between machines.

A lease is a file ``.lease-<n>`` that names its holder. The holder touches it every ``BEAT`` seconds. If it is not
touched for ``EXPIRY`` seconds, by the clock of the file system, its holder counts as dead, and the process that creates
``.lease-<n + 1>`` takes over. A number is created only once (``O_EXCL``) and the highest one counts, so that one of
several processes wins. A holder that was not dead, but cut off, finds the higher number and ends itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from reproduce.whole_files import OutputError

BEAT = 10.0
EXPIRY = 90.0  # a file system may take a minute to answer: the holder keeps its run
RELEASED = "released"


class HeldError(OutputError):
    """Another process is at work in a folder."""

    exit_code = os.EX_TEMPFAIL  # a later try may succeed


def machine() -> str:
    """Names the running kernel, the reach of a file lock: containers share it, a reboot changes it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _let_go() -> None:
    for file in _locks:
        file.close()


_locks: set[IO] = set()  # a forked child, such as a worker that decodes, must not hold them when the holder is dead
os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder against all processes that see it; a dead holder loses it at once here, elsewhere after ``EXPIRY``.

    Raises:
        HeldError: another process holds it.
        OutputError: it cannot be made or written.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(folder / ".lock", "a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise HeldError(f"another process is at work on {folder}; wait for it, or stop it") from error
            _locks.add(file)
            stack.callback(_locks.discard, file)
            stack.enter_context(leased(folder, machine()))
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(
                f"cannot write {error.filename or folder}: {error.strerror}; choose another folder (--runs)"
            ) from error
        yield


@contextlib.contextmanager
def leased(
    folder: Path, here: str, beat: float = BEAT, expiry: float = EXPIRY, lost: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold a folder against other machines. The caller has the file lock: a holder of this machine is dead.

    Args:
        folder: shared with the other machines.
        here: this machine.
        beat: seconds between two signs of life.
        expiry: seconds without one after which a holder counts as dead.
        lost: called, with the reason, when another machine has taken over; by default the process ends.

    Raises:
        HeldError: a process of another machine holds it.
    """
    number, holder, age = _highest(folder)
    who = holder.splitlines()[1:]
    if holder != RELEASED and holder.splitlines()[:1] != [here] and age < expiry:
        raise HeldError(
            f"{' '.join(who) or 'another machine'} is at work on {folder} (last sign {age:.0f} s ago); "
            f"wait for it, or stop it: {expiry:.0f} s after its last sign the folder is free"
        )
    mine = folder / f".lease-{number + 1:06d}"
    try:
        with open(mine, "x") as file:
            file.write(f"{here}\n{socket.gethostname()} process {os.getpid()}")
    except FileExistsError as error:
        raise HeldError(f"another machine has just taken {folder}; wait for it, or stop it") from error
    if _highest(folder)[0] != number + 1:
        mine.unlink()
        raise HeldError(f"another machine has just taken {folder}; wait for it, or stop it")
    for old in folder.glob(".lease-*"):
        if old < mine:
            old.unlink(missing_ok=True)
    done = threading.Event()
    thread = threading.Thread(target=_beat, args=(mine, done, beat, expiry, lost or _end), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(OSError):  # gone or out of reach: it expires
            mine.write_text(RELEASED)


def _highest(folder: Path) -> tuple[int, str, float]:
    """Number, text and age in seconds of the lease that counts; (0, RELEASED, 0) without one."""
    probe = folder / f".clock-{socket.gethostname()}-{os.getpid()}"
    probe.write_text("")
    now = probe.stat().st_mtime  # the file system's clock, which machines need not share
    probe.unlink()
    leases = sorted(folder.glob(".lease-*"))
    if not leases:
        return 0, RELEASED, 0.0
    try:
        return int(leases[-1].name.removeprefix(".lease-")), leases[-1].read_text(), now - leases[-1].stat().st_mtime
    except FileNotFoundError:  # replaced by a higher one between two calls
        return _highest(folder)


def _beat(mine: Path, done: threading.Event, beat: float, expiry: float, lost: Callable[[str], None]) -> None:
    last = time.monotonic()
    while not done.wait(beat):
        try:
            os.utime(mine)
            if max(mine.parent.glob(".lease-*")) == mine:
                last = time.monotonic()
                continue
        except FileNotFoundError:
            pass
        except OSError:  # the file system may come back, until others may have taken over
            if time.monotonic() - last < expiry - 2 * beat:
                continue
        lost(f"{mine.parent} was taken over by another machine, which saw no sign of this one for {expiry:.0f} s")
        return


def _end(reason: str) -> None:
    print(f"error: {reason}; this process ends", file=sys.stderr, flush=True)
    os._exit(1)
