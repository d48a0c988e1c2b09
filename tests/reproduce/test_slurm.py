"""The sbatch script with stand-ins for Slurm's commands: what is asked for, and what becomes of the exit code."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "reproduce" / "launch" / "slurm.sbatch"


@pytest.mark.parametrize(("code", "again"), [(0, False), (1, False), (75, True)])
def test_the_job_runs_the_suite_and_is_queued_again_when_stopped(tmp_path, code, again):
    for name, ends in (("srun", code), ("scontrol", 0)):
        tool = tmp_path / name
        tool.write_text(f'#!/bin/bash\nprintf "%s " "$@" > "{tmp_path}/{name}.txt"\nexit {ends}\n')
        tool.chmod(0o755)
    slurm = dict(SLURM_CPUS_PER_TASK="96", SLURM_GPUS_ON_NODE="8", SLURM_JOB_ID="7")
    env = {k: v for k, v in os.environ.items() if k not in ("GPUS", "VENV")} | slurm
    env["PATH"] = f"{tmp_path}:{env['PATH']}"
    done = subprocess.run(["bash", str(SCRIPT), "kinetics", "--entries", "x3d"], env=env, cwd=ROOT, check=False)
    assert done.returncode == code
    asked = (tmp_path / "srun.txt").read_text()
    assert asked.startswith("--cpus-per-task=96 ")
    assert asked.endswith(".venv/bin/python -m reproduce run kinetics --entries x3d --gpus 8 ")
    requeued = tmp_path / "scontrol.txt"
    assert requeued.exists() == again
    assert not again or requeued.read_text() == "requeue 7 "


def test_what_the_job_asks_slurm_for():
    asked = {line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH ")}
    assert {"--ntasks-per-node=1", "--gpus-per-node=8", "--cpus-per-task=96", "--signal=TERM@120"} <= asked
