"""What would stop a command late, or be passed over without a word, is said before the first step."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from reproduce.cli import _integers, app, check_environment, check_folders
from reproduce.engine.distributed import launched
from reproduce.engine.runner import SharedMemoryError, check_shared_memory
from reproduce.launch.torchrun import machines_of_step
from reproduce.whole_files import OutputError, save_weights

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (dict(MODEL="x3d"), "MODEL='x3d' is set, which means nothing; MODELS= is meant?"),
        (dict(SEED="1"), "SEEDS= is meant?"),
        (dict(GPU="8"), "GPUS= is meant?"),
        (dict(RESULT="x"), "RESULTS= is meant?"),
        (dict(models="x3d"), "MODELS= is meant?"),
        (dict(KINETICSROOT="/data"), "KINETICS_ROOT= is meant?"),
        (dict(MAKEFLAGS=" -- SEEDS=0 MODLES=x3d", MODLES="x3d"), "MODLES='x3d' is set.*MODELS= is meant?"),
        (dict(WORKER="1"), "WORKERS= is meant?"),
        (dict(MAKEFLAGS=" -- FROMM=x.zip", FROMM="x.zip"), "FROM= is meant?"),
        (dict(ALLOWPARTIAL="1"), "ALLOW_PARTIAL= is meant?"),
        (dict(MODELS="x3d"), "MODELS='x3d' is set, which `search` does not take; --entry names"),
        (dict(DECODER="opencv"), "DECODER='opencv' is unknown; known: .*pyav"),
        (dict(EMBEDDED="huge"), "EMBEDDED='huge' is unknown; known: tiny, quick, full"),
    ],
)
def test_a_variable_that_is_none_of_ours_is_named_with_the_one_that_is_meant(environment, message):
    with pytest.raises(ValueError, match=message):
        check_environment("search", environment)


def test_what_is_in_order_and_other_programs_variables_pass(tmp_path):
    fine = dict(MODELS="x3d", SEEDS="0", MODLES="of another", PYTHONPATH="x", MAKEFLAGS=" -- PYTHONPATH=x VENV=y")
    check_environment("run", fine)
    check_folders(tmp_path / "new" / "runs", None, tmp_path / "cache")
    assert not any((tmp_path / "new" / "runs").iterdir())


@pytest.mark.parametrize("seeds", ["-1", "0,0", "0,x", "", str(2**32)])
def test_seeds_are_different_integers(seeds):
    with pytest.raises(ValueError, match=f"--seeds='{seeds}'"):
        _integers("--seeds", seeds)


@pytest.mark.parametrize("which", ["RUNS", "RESULTS", "CACHE"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, which):
    (tmp_path / "file").write_text("")
    folders = [tmp_path / "file" if name == which else tmp_path / name for name in ("RUNS", "RESULTS", "CACHE")]
    with pytest.raises(OutputError, match=f"cannot write .*file: .*; choose another folder \\({which}= or --"):
        check_folders(*folders)


def test_every_command_checks_before_its_first_step(tmp_path):
    """As ``make MODEL=x3d`` would give it."""
    for command in (["run", "kinetics-tiny"], ["verify"], ["data", "generate", "kinetics"]):
        done = CliRunner().invoke(app, [*command, "--cache", str(tmp_path / "cache")], env=dict(MODEL="x3d"))
        assert str(done.exception) == "MODEL='x3d' is set, which means nothing; MODELS= is meant?"
    assert not (tmp_path / "cache").exists()


RANKS = dict(RANK="1", LOCAL_RANK="1", LOCAL_WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="1")


def test_a_rank_is_what_a_launcher_has_started():
    assert not launched({})
    assert not launched(dict(WORLD_SIZE="1", RANK="0", MASTER_ADDR="localhost", MASTER_PORT="1")), "of a pod"
    assert launched(dict(WORLD_SIZE="1", RANK="0", TORCHELASTIC_RUN_ID="x"))
    assert launched(dict(WORLD_SIZE="2", **RANKS))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (dict(WORLD_SIZE="1", RANK="1"), "RANK=1 and WORLD_SIZE=1 contradict each other"),
        (dict(RANK="3"), "RANK=3 and WORLD_SIZE=unset contradict each other"),
        (dict(WORLD_SIZE="2", RANK="0"), "WORLD_SIZE=2, but LOCAL_RANK, .* not set: a scheduler"),
        (dict(WORLD_SIZE="two"), "WORLD_SIZE='two' is no number"),
    ],
)
def test_ranks_that_contradict_each_other_are_named(environment, message):
    with pytest.raises(ValueError, match=message):
        launched(environment)


def test_a_slurm_step_starts_the_command_once_on_a_machine(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ValueError, match=r"SLURM_STEP_NUM_NODES=2, but SLURM_JOB_ID and SLURM_LAUNCH_NODE_IPADDR not"):
        machines_of_step()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
    assert machines_of_step() == 2
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "16")
    with pytest.raises(ValueError, match="srun starts this command 16 times on 2 machines"):
        machines_of_step()


def test_little_shared_memory_is_said_before_the_training(tmp_path, monkeypatch):
    check_shared_memory(0, 1, 10**18, "test")
    with pytest.raises(
        SharedMemoryError, match=r"MB of shared memory free, 4 decoding workers need .*to test; .*--shm"
    ):
        check_shared_memory(4, 1, 10**18, "test")
    monkeypatch.setattr("reproduce.engine.runner.SHARED_MEMORY", tmp_path / "none")
    check_shared_memory(4, 1, 10**18, "on a system without it")


DEAF = """
import sys
from torch.utils.data import DataLoader
from reproduce.engine.runner import ignore_sigterm
batches = iter(DataLoader(range(1000), num_workers=2, worker_init_fn=ignore_sigterm))
next(batches)
raise KeyError("planted")
"""


def test_a_process_ends_after_an_error_though_workers_are_deaf():
    done = subprocess.run([sys.executable, "-c", DEAF], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "KeyError: 'planted'"


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_weights_have_the_mode_of_the_files_beside_them_and_every_name(tmp_path, umask):
    from safetensors.torch import load_file

    shared = torch.arange(6.0)
    before = os.umask(umask)
    try:
        save_weights(tmp_path / "w.safetensors", dict(a=shared, b=shared, part=shared[2:4], turned=shared.view(2, 3).T))
        (tmp_path / "beside").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "beside").stat().st_mode
    state = load_file(tmp_path / "w.safetensors")
    assert state["part"].tolist() == [2, 3]
    assert state["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert all(state[name].equal(shared) for name in "ab")
