"""The README's commands, end to end, on tiny embedded data."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reproduce.cli import VARIABLES
from reproduce.suites import SUITES

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(sys.prefix)


def make(target: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a make target with this environment, its outputs below ``folder``."""
    env = {**os.environ, "RUNS": str(folder / "runs"), "RESULTS": str(folder / "results"), **environment}
    for name in ("KINETICS_ROOT", "SSV2_ROOT"):
        if name not in environment:
            env.pop(name, None)
    return subprocess.run(["make", target, f"VENV={VENV}"], cwd=ROOT, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["kinetics", pytest.param("ssv2", marks=pytest.mark.slow)])
def test_reproduce_then_table(name, cache, tmp_path):
    models = {} if name == "kinetics" else dict(MODELS="tsm,auto_tsnet")  # the others differ in nothing
    done = make(f"reproduce-{name}", tmp_path, EMBEDDED="tiny", CACHE=str(cache), **models)
    assert done.returncode == 0, done.stderr
    assert f"{name.upper()}_ROOT is not set" in done.stderr
    assert f"synthetic-{name} tiny" in done.stdout
    assert "ETA" in done.stderr
    names = re.findall(r"(?m)^ *\d+  (\w+) ", done.stdout)
    asked = (
        models["MODELS"].split(",") if models else [e.name for e in SUITES[f"{name}-tiny"].entries if not e.optional]
    )
    assert sorted(set(names) & set(asked)) == sorted(asked)
    assert models or "not run" not in done.stdout
    assert "missed" not in done.stdout
    lines = [
        line for line in done.stdout.splitlines() if str(tmp_path) not in line and not line.startswith(("make", '"'))
    ]
    assert max(map(len, lines)) <= 100, "but for paths, as long as they are"
    assert re.search(r"\d of \d no reference; .*, 1 thread", done.stdout.replace("\n", " "))
    again = make(f"reproduce-{name}", tmp_path, EMBEDDED="tiny", CACHE=str(cache), **models)
    assert again.stdout == done.stdout
    assert " train:" not in again.stderr


@pytest.mark.parametrize("name", [pytest.param("kinetics", marks=pytest.mark.slow), "ssv2"])
def test_table_without_anything(name, tmp_path):
    done = make(f"table-{name}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not run" in done.stdout
    assert "literature" in done.stdout


def test_wrong_root_is_one_clear_line(tmp_path):
    done = make("reproduce-kinetics", tmp_path, KINETICS_ROOT=str(tmp_path))
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1
    assert re.search(r"error: KINETICS_ROOT=.* has no annotation of its train split .*see README", lines[0])


def test_an_unwritable_folder_is_one_clear_line(cache, tmp_path):
    (tmp_path / "runs").write_text("a file where a folder should be")
    done = make("reproduce-kinetics", tmp_path, EMBEDDED="tiny", CACHE=str(cache))
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert re.search(r"error: cannot write .*runs.*choose another folder", done.stderr)


def test_help_names_every_documented_target_and_every_variable():
    done = make("help", Path("unused"))
    for name in ("reproduce-kinetics", "table-ssv2", "test", "lint", "env", *(f"{name}=" for name in VARIABLES)):
        assert name in done.stdout


STUB = """#!/bin/sh
printf '%s\\n' "$@" "RESULTS=$RESULTS" >> "$LOG"
"""


def test_folders_may_hold_what_a_shell_reads(tmp_path):
    """Every target reaches the environment's Python with each argument in one piece, and nothing in it is executed."""
    folder = tmp_path / 'a & b; touch hacked; it\'s "$HOME"'
    environment = folder / "venv"
    (environment / "bin").mkdir(parents=True)
    for name in ("python", "ruff", "uv"):
        (environment / "bin" / name).write_text(STUB)
        (environment / "bin" / name).chmod(0o755)
    (environment / "requirements.lock").write_bytes((ROOT / "requirements.lock").read_bytes())
    results, log = folder / "results", tmp_path / "log"
    given = dict(VENV=str(environment), RESULTS=str(results), LOG=str(log), CHROMIUM="none", EMBEDDED="tiny")
    text = (ROOT / "Makefile").read_text()
    targets = [t for t in re.findall(r"^([a-z0-9-]+):", text, re.M) if t not in ("help", "clean", "env", "chromium")]
    assert {"verify", "bench-compare", "study-search", "lint", "test"} <= set(targets)
    env = {**os.environ, **given}
    for target in targets:
        done = subprocess.run(["make", target], cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == 0, (target, done.stderr)
    said = log.read_text().splitlines()
    for word in ("verify", "update-reference"):
        assert said[said.index(word) + 1] == str(results)
    assert f"RESULTS={results}" in said
    assert f"--benchmark-storage={results}/benchmarks" in said
    log.unlink()
    for target in ("update-reference", "bench-save", "test"):
        done = subprocess.run(["make", target], cwd=ROOT, env=env | dict(RESULTS="", WORKERS=""), capture_output=True)
        assert done.returncode == 0, (target, done.stderr)
    said = log.read_text().splitlines()
    assert said[said.index("update-reference") + 1] == "my-results", "an empty variable is as none"
    assert {"--benchmark-storage=my-results/benchmarks", "auto"} <= set(said)
    assert not (ROOT / "hacked").exists()


def test_a_variable_that_is_nearly_one_of_ours_stops_make(tmp_path):
    env = {**os.environ, "RUNS": str(tmp_path / "runs"), "CACHE": str(tmp_path / "cache")}
    command = ["make", "reproduce-kinetics", f"VENV={VENV}", "MODLES=x3d", "EMBEDDED=tiny"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode != 0
    assert "error: MODLES='x3d' is set, which means nothing; MODELS= is meant?" in done.stderr.splitlines()
    assert not (tmp_path / "cache").exists()
