"""Runs side by side: the same results as one after the other, timed alone, and stopped together."""

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

from reproduce.launch import local, parallel
from reproduce.records import load_all
from reproduce.suites import suite

ROOT = Path(__file__).parents[2]
ENTRIES = ["tsm", "x3d"]


def test_runs_side_by_side_are_those_one_after_the_other(cache, tmp_path):
    todo = local.jobs(suite("kinetics-tiny"), ENTRIES, [0])
    both, each = tmp_path / "both", tmp_path / "each"
    parallel.run_jobs(todo, cache, both / "runs", both / "results", at_a_time=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, parallel.cores() // 2))  # as each of the two had
    try:
        parallel.run_jobs(todo, cache, each / "runs", each / "results", at_a_time=1)
    finally:
        torch.set_num_threads(threads)
    records = load_all(both / "results" / "records" / "kinetics-tiny")
    assert [r.entry for r in records] == ENTRIES
    for record in records:
        assert record.throughput.threads == threads, "timed with the machine to itself"
        name = Path("results", "records", "kinetics-tiny", record.result.predictions)
        pd.testing.assert_frame_equal(pd.read_parquet(both / name), pd.read_parquet(each / name))


def test_as_many_as_there_is_room_for(monkeypatch):
    monkeypatch.setattr(parallel, "cores", lambda: 6)
    sizes = {"SC_PHYS_PAGES": 2**22, "SC_PAGE_SIZE": 4096}  # 16 GiB
    monkeypatch.setattr(os, "sysconf", sizes.get)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert parallel.fitting() == 4
    monkeypatch.setattr(parallel, "cores", lambda: 1)
    assert parallel.fitting() == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(parallel, "cores", lambda: 96)
    assert parallel.fitting() == 1


def test_what_is_searched_for_comes_first():
    todo = local.jobs(suite("kinetics-quick"), ["x3d", "auto_tsnet_random", "auto_tsnet", "tsm"], [0])
    entries = [job.entry for job in parallel.longest_first(todo)]
    assert entries == ["auto_tsnet", *["auto_tsnet_random"] * 3, "x3d", "tsm"]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, os.EX_TEMPFAIL), (signal.SIGKILL, -signal.SIGKILL)])
def test_workers_save_and_end_with_the_command(tmp_path, how, code):
    runs = tmp_path / "runs"
    where = ["--runs", str(runs), "--results", str(tmp_path / "results"), "--cache", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "reproduce", "run", "kinetics-quick", "--entries", ",".join(ENTRIES), *where]
    with open(tmp_path / "said.txt", "w") as said:
        process = subprocess.Popen([*command, "--jobs", "2"], cwd=ROOT, stderr=said)
    deadline = time.monotonic() + 300
    while len(re.findall(r"train: \d+/", (tmp_path / "said.txt").read_text())) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(how)
    assert process.wait(60) == code
    saved: list[Path] = []
    while len(saved) < 2 and time.monotonic() < deadline:
        saved = list(runs.glob("*/*/train/last.pth"))
        time.sleep(0.2)
    assert len(saved) == 2, (tmp_path / "said.txt").read_text()
