"""A video through a stream, as the command shows it."""

import re
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from baselines import VARIANTS
from baselines.movinet import movinet
from reproduce.cli import main
from reproduce.data.synthetic.writer import encode
from reproduce.engine.rebuild import config_of, model_of
from reproduce.spec import RunSpec
from reproduce.stream import StreamError, stream, watcher
from reproduce.whole_files import write_json


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A file of 30 frames."""
    path = tmp_path_factory.mktemp("videos") / "noise.mp4"
    encode(np.random.default_rng(0).integers(0, 256, (30, 64, 80, 3), dtype=np.uint8), 25, path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """What ``import-weights`` would write of A0's stream, of three classes and random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "a0.safetensors"
    build, arguments = VARIANTS["movinet_a0_stream"]
    state = build(**arguments | {"num_classes": 3}).state_dict()
    header = {"variant": "movinet_a0_stream", "num_classes": "3", "input": "RGB, mean 0, std 1"}
    save_file(state, path, header)
    return path


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """The folder of a run of a small stream, of random weights."""
    suite, train, test = tiny
    net = dict(type="baselines.movinet.movinet", num_classes=4, frames=8, crop=32, width=0.25, causal=True)
    spec = RunSpec.of(suite, suite.entry("movinet"), 0, train, test).model_copy(update=dict(net=net))
    folder = spec.folder(tmp_path_factory.mktemp("runs"))
    write_json(folder / "spec.json", spec.model_dump())
    state = model_of(config_of(spec)).net.state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors")
    return folder


def test_weights_see_what_their_authors_showed(weights):
    of = watcher(weights)
    assert (of.model.mean, of.model.std, of.crops.size, of.crops.short_side, of.every) == (0, 255, 172, 192, 5)


def test_the_command_says_speed_cost_and_classes(weights, video, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reproduce", "stream", str(video), "--model", str(weights)])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr()
    assert not end.value.code
    said = r"6 frames seen, one of every 5; [\d.]+ frames/s, 49\.5 MMACs/frame, [\d.]+ frames/s with decoding"
    assert re.search(said, printed.out)
    assert len(re.findall(r"(?m)^  class \d [\d.]+ %$", printed.out)) == 3
    assert "stream noise.mp4: 6/6" in printed.err


def test_a_run_streams_and_several_take_turns(run, video, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("left\nright\nup\ndown\n")
    assert "30 frames seen, one of every 1" in stream(video, [run], labels=names)
    assert "15 frames seen, one of every 2" in stream(video, [run, run], every=2, labels=names)
    names.write_text("left\n")
    with pytest.raises(StreamError, match=r"names.txt has 1 lines, the network 4 classes"):
        stream(video, [run], labels=names)


def test_what_cannot_stream_is_one_line(run, weights, video, tmp_path):
    with pytest.raises(StreamError, match=r"has other pixels or classes than"):
        stream(video, [run, weights])
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(StreamError, match=r"empty.mp4: cannot be read as a video"):
        stream(tmp_path / "empty.mp4", [run])
    base = tmp_path / "base.safetensors"
    state = movinet(num_classes=3, dropout=0.2).state_dict()
    save_file(state, base, {"variant": "movinet_a0", "num_classes": "3", "input": "RGB, mean 0, std 1"})
    with pytest.raises(StreamError, match=r"this MoViNet sees whole clips; only a movinet with causal=True"):
        stream(video, [base])
    untrained = tmp_path / run.name
    untrained.mkdir()
    (untrained / "spec.json").write_bytes((run / "spec.json").read_bytes())
    with pytest.raises(StreamError, match=r"is not trained yet"):
        stream(video, [untrained])
