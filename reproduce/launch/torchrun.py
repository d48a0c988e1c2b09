"""One command on many GPUs: the same command on every rank, by torch's own launcher, on one machine or under srun."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import uuid
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from reproduce.engine.distributed import number
from reproduce.engine.runner import PreemptedError
from reproduce.whole_files import OutputError

PORT = 29500  # of the rendezvous between machines, torchrun's default


class RankError(RuntimeError):
    """A rank has ended; the message says how. The others were stopped with it.

    Attributes:
        exit_code: the rank's, or 1 if a signal ended it.
        spoken: whether the rank itself has said why, where the user reads it.
    """

    def __init__(self, text: str, exit_code: int, spoken: bool) -> None:
        super().__init__(text, exit_code, spoken)
        self.exit_code, self.spoken = exit_code, spoken

    def __str__(self) -> str:
        """The text only."""
        return self.args[0]


def machines_of_step() -> int:
    """How many machines run this command: those of the Slurm step, else this one.

    Raises:
        ValueError: srun starts the command more than once on a machine, or what Slurm sets is not all there.
    """
    machines, tasks = (number(os.environ, name, 1) for name in ("SLURM_STEP_NUM_NODES", "SLURM_STEP_NUM_TASKS"))
    if tasks > machines:
        raise ValueError(
            f"srun starts this command {tasks} times on {machines} machines, it starts the ranks of a machine itself; "
            "use srun --ntasks-per-node=1 and GPUS="
        )
    missing = {"SLURM_JOB_ID", "SLURM_LAUNCH_NODE_IPADDR"} - set(os.environ)
    if machines > 1 and missing:
        raise ValueError(
            f"SLURM_STEP_NUM_NODES={machines}, but {' and '.join(sorted(missing))} not set; start the command by srun, "
            "or unset it"
        )
    return machines


def launch(ranks: int, arguments: list[str], logs: Path, machines: int) -> None:
    """Run ``python -m reproduce`` with these arguments on so many ranks here, and as many on each other machine.

    Only the first rank of a machine speaks; what the others say is kept in ``logs``. SIGTERM goes on to the ranks,
    which save and stop.

    Args:
        ranks: processes on this machine.
        arguments: of the command line.
        logs: folder for the output of the other ranks.
        machines: that run this command, see ``machines_of_step``.

    Raises:
        PreemptedError: SIGTERM; the same command goes on.
        RankError: a rank failed.
        OutputError: ``logs`` cannot be written.
    """
    several = machines > 1
    name = os.environ["SLURM_JOB_ID"] if several else uuid.uuid4().hex
    try:
        specs = DefaultLogsSpecs(str(logs), redirects={r: Std.ALL for r in range(1, ranks)})
    except OSError as error:
        raise OutputError(f"cannot write {logs}: {error.strerror or error}; choose another folder (--runs)") from error
    config = LaunchConfig(
        min_nodes=machines,
        max_nodes=machines,
        nproc_per_node=ranks,
        run_id=name,
        rdzv_backend="c10d",
        # srun names the machine that it was called on, the first of the job
        rdzv_endpoint=f"{os.environ['SLURM_LAUNCH_NODE_IPADDR']}:{PORT}" if several else "localhost:0",
        max_restarts=0,
        logs_specs=specs,
    )
    logging.disable(logging.ERROR)  # the launcher's pages about a failure; ours is one line
    try:
        elastic_launch(config, sys.executable)("-m", "reproduce", *arguments)
        for folder in logs.glob(f"{name}_*"):
            shutil.rmtree(folder, ignore_errors=True)
    except SignalException as error:
        raise PreemptedError(f"stopped by {error.sigval.name}; issue the command again to go on") from error
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code, local = failure.exitcode, failure.local_rank
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        said = " ".join(path.read_text() for path in logs.glob(f"{name}_*/*/{local}/stderr.log")).strip()
        last = said.splitlines()[-1] if said else ""
        text = f"rank {rank} ended by {how}; issue the command again to go on. {last}".strip()
        raise RankError(text, max(code, 1), spoken=local == 0 and code > 0) from error
    finally:
        logging.disable(logging.NOTSET)
