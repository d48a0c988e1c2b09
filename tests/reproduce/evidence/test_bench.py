"""Timing: warm-up, sweep and rates as described; a bench that goes on where it stopped; what the tables show."""

import itertools
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from reproduce.evidence import bench, natives, tables
from reproduce.evidence.bench import Subject
from reproduce.evidence.verify import VerifyError, verify
from reproduce.measure import throughput
from reproduce.measure.throughput import MODES, Mode, Timing, matmul_rate, peak_memory, state_under, sweep, time_passes
from reproduce.suites import SUITES

RESULTS = Path(__file__).parents[3] / "results"
CPU = torch.device("cpu")


class Tiny(nn.Module):
    """Clips to eight logits."""

    def __init__(self, num_classes=8, frames=2, crop=8):
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, clips):
        """B 3 T H W -> B N."""
        return self.fc(self.conv(clips).mean((2, 3, 4)))


def subject(name="tiny", source="ours", build=Tiny):
    return Subject(name, source, build, dict(num_classes=8, frames=2, crop=8))


def test_the_warm_up_ends_when_times_are_stable(monkeypatch):
    durations = iter([9.0, 5.0, 5.0, 5.0, 2.0, 2.0, 2.0, *[1.0] * 6, *[1.0] * 20, 99.0])
    clock = [0.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock[0])

    def step():
        clock[0] += next(durations)

    assert time_passes(step, CPU) == Timing(1.0, 0.0, 20)
    assert next(durations) == 99.0
    durations = (1.1**n for n in itertools.count())
    assert not time_passes(step, CPU).stable


@pytest.mark.alone
def test_clocks_are_read_while_passes_run(monkeypatch, tmp_path):
    device, passes = SimpleNamespace(type="cuda"), []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1-2"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\nsleep 0.2\necho 1980 MHz $3\n")
    driver.chmod(0o755)

    def step():
        passes.append(time.sleep(0.01))

    assert state_under(step, device).endswith("throttle reasons: 1980 MHz --id=GPU-1-2")
    assert len(passes) > 5
    driver.write_text("#!/bin/sh\necho no driver\nexit 9\n")
    assert state_under(step, device) == ""
    driver.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert state_under(step, device) == ""
    assert state_under(step, CPU) == ""


@pytest.mark.parametrize(
    ("seconds", "largest", "batches"),
    [
        (lambda b: 1.0, 16, [1, 2, 4, 8, 16]),  # a larger batch is free
        (lambda b: 1.0 * b, 16, [1, 2]),  # it brings nothing
        (lambda b: 1.0 if b < 4 else 1.0 * b, 16, [1, 2, 4]),
        (lambda b: 1.9 + b / 10, 16, [1]),  # the next might take longer than the limit
    ],
)
def test_the_sweep_ends_where_more_clips_bring_nothing(monkeypatch, seconds, largest, batches):
    net = Tiny()
    seen = []
    net.register_forward_pre_hook(lambda net, inputs: seen.append(len(inputs[0])))
    monkeypatch.setattr(
        throughput, "time_passes", lambda step, device: step() is None or Timing(seconds(seen[-1]), 0, 20)
    )
    assert [batch for batch, _ in sweep(net, 2, 8, Mode(), largest, limit=3.0)] == batches


def test_the_sweep_ends_where_memory_does(monkeypatch):
    def full(step, device):
        if step().shape[0] >= limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Timing(1.0, 0, 20)

    monkeypatch.setattr(throughput, "time_passes", full)
    limit = 4
    assert [batch for batch, _ in sweep(Tiny(), 2, 8, Mode(), 16, 3.0)] == [1, 2]
    limit = 1
    with pytest.raises(torch.OutOfMemoryError):
        list(sweep(Tiny(), 2, 8, Mode(), 16, 3.0))


@pytest.mark.parametrize("mode", [m for m in MODES if not m.compiled], ids=str)
def test_modes_are_what_they_say(mode):
    net, seen = mode.prepared(Tiny()), {}
    order = torch.channels_last_3d if mode.channels_last else torch.contiguous_format
    net.conv.register_forward_hook(lambda conv, inputs, output: seen.update(input=inputs[0], output=output))
    with mode.autocast(CPU), torch.inference_mode():
        net(*mode.clips(net, 2, 8, batch=2))
    assert seen["input"].is_contiguous(memory_format=order)
    assert net.conv.weight.is_contiguous(memory_format=order)
    assert seen["output"].dtype == (torch.bfloat16 if mode.precision == "bf16" else torch.float32)


def test_rates_and_memory(monkeypatch):
    monkeypatch.setattr(throughput, "time_passes", lambda step, device: step() is None or Timing(0.5, 0, 20))
    assert matmul_rate(CPU, "fp32", side=100) == 2e-3  # 100³ products in half a second
    mib = peak_memory(lambda: torch.ones(64, 2**18), CPU)
    assert 60 < mib < 80


def test_a_bench_goes_on_where_it_stopped(monkeypatch, tmp_path):
    class Missing(Tiny):
        def forward(self, clips):
            if clips.device.type == "cpu":
                raise RuntimeError("no kernel for this\nand more")
            return super().forward(clips)

    every = [subject(), subject(source="mmaction2"), subject("missing", build=Missing)]
    monkeypatch.setattr(bench, "subjects", lambda names=(): every[: len(names)] or every)
    monkeypatch.setattr(bench, "matmul_rate", lambda device, precision: {"fp32": 10.0, "bf16": 20.0}[precision])
    monkeypatch.setattr(bench, "PROBED", ())
    monkeypatch.setattr(bench, "device_name", lambda: "Some(R) CPU @ 2 GHz, 2 cores")
    bench.bench(tmp_path, ["tiny"])
    path = tmp_path / "throughput" / "some-cpu-2-ghz-2-cores.json"
    (first,) = json.loads(path.read_text())["rows"]
    assert first["gmacs"] == pytest.approx((2 * 8 * 8 * 3 * 4 * 27 + 4 * 8) / 1e9)
    assert first["share_of_matmul"] == pytest.approx(first["clips_per_s"] * first["gmacs"] / 10.0)
    assert first["clips_per_s"] == max(first["sweep"].values())
    assert first["repeats"] >= 20
    assert first["stable"] in (True, False)

    text = bench.bench(tmp_path, ["tiny"] * 3)
    rows = json.loads(path.read_text())["rows"]
    assert rows[0] == first, "timed once"
    assert [row["source"] for row in rows] == ["ours", "mmaction2", "ours"]
    assert rows[2]["error"] == "RuntimeError: no kernel for this"
    assert text == path.with_suffix(".md").read_text()
    assert "RuntimeError: no kernel for this" in text
    assert "(fp32 10 GMACs/s)" in text

    every[2] = subject("missing")
    bench.bench(tmp_path, ["tiny"] * 3)
    rows = json.loads(path.read_text())["rows"]
    assert rows[0] == first
    assert "error" not in rows[2], "what failed is timed again"
    every[0] = subject(build=lambda **size: nn.Sequential(Tiny(**size), nn.Linear(8, 8)))
    text = bench.bench(tmp_path, ["tiny"] * 3)
    changed, *others = json.loads(path.read_text())["rows"]
    assert changed["params"] > first["params"], "what has other costs now is timed again"
    assert others == rows[1:]

    suite = tmp_path / "records" / "ssv2-quick"
    shutil.copytree(RESULTS / "records" / "ssv2-quick", suite)
    tables.render(SUITES["ssv2-quick"], tmp_path)
    verify(tmp_path)
    path.with_suffix(".md").write_text(text.replace("10 GMACs/s", "11 GMACs/s"))
    with pytest.raises(VerifyError, match=r"cores\.md is not what some-cpu-2-ghz-2-cores\.json says"):
        verify(tmp_path)
    path.with_suffix(".md").write_text(text)
    data = json.loads(path.read_text())
    for change, reason in (
        (dict(gmacs_per_s=2 * data["rows"][0]["gmacs_per_s"]), "tiny of ours, fp32, channels-last: gmacs_per_s is"),
        (dict(latency_ms=1.0), "tiny of ours, fp32, channels-last: latency_ms is 1.0, recomputed it is"),
        (dict(sweep={"2": 1.0}), r"is not whole \(KeyError"),
    ):
        path.write_text(json.dumps(data | dict(rows=[data["rows"][0] | change, *data["rows"][1:]])))
        with pytest.raises(VerifyError, match=reason):
            verify(tmp_path)
    path.write_text(json.dumps(data))
    for suffix in (".csv", ".md"):
        shutil.copy(RESULTS / "tables" / f"natives{suffix}", tmp_path / "tables")
    verify(tmp_path)
    table = tmp_path / "tables" / "natives.md"
    table.write_text(table.read_text().replace("x3d_m", "x3d_n"))
    with pytest.raises(VerifyError, match=r"natives\.md is not what natives\.csv says"):
        verify(tmp_path)
    table.with_suffix(".csv").unlink()
    with pytest.raises(VerifyError, match=r"natives\.md is not what natives\.csv says"):
        verify(tmp_path)


def test_the_three_levels(cache, tmp_path):
    suite = SUITES["kinetics-tiny"]
    plain, searched = suite.entry("tsm"), suite.entry("auto_tsnet")
    (row,) = bench.levels(replace(suite, entries=(plain, searched)), cache, CPU, videos=6)
    assert (row["entry"], row["batch"]) == ("tsm", 4)
    assert min(row[f"{level}_views_per_s"] for level in ("model", "decode", "end_to_end")) > 0


def test_peers_stand_beside_ours():
    chosen = bench.subjects(["slow_8x8_r50", "x3d_xs"])
    assert [(s.name, s.source) for s in chosen] == [
        ("x3d_xs", "ours"),
        ("x3d_xs", "pytorchvideo"),
        ("slow_8x8_r50", "ours"),
        ("slow_8x8_r50", "pytorchvideo"),
        ("slow_8x8_r50", "mmaction2"),
    ]
    assert chosen[0].size == (4, 160), "at the size of its authors"
    assert chosen[2].size == (8, 256)
    ours, theirs = bench.subjects(["mvit_b_16x4"])
    assert theirs.cost().gmacs == pytest.approx(ours.cost().gmacs, rel=1e-3), "cannot be built on the meta device"
    with pytest.raises(ValueError, match="no variant 'x3d_xxl'; known: x3d_xs, "):
        bench.subjects(["x3d_xxl"])


def test_the_overview_needs_no_videos(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "natives.csv").write_bytes((RESULTS / "tables" / "natives.csv").read_bytes())
    assert "clips/s, " not in natives.overview(tmp_path, 400)
    row = dict(variant="x3d_m", source="ours", mode=str(Mode()), frames=16, crop=224, clips_per_s=12.345)
    (tmp_path / "throughput").mkdir()
    (tmp_path / "throughput" / "gpu.json").write_text(json.dumps(dict(device="A GPU", rows=[row])))
    lines = natives.overview(tmp_path, 400).splitlines()
    assert "clips/s, A GPU" in lines[2]
    (x3d_m,) = (line for line in lines if line.startswith("| x3d_m ") and "16×224²" in line)
    assert [cell.strip() for cell in x3d_m.split("|")[2:7]] == [
        "16×224²",
        "3.794",
        "4.732",
        "12.3",
        "75.1 (1x10 views)",
    ]
    assert "auto_tsnet_uniform_m_ssv2" in natives.overview(tmp_path, 174)
