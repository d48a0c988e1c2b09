"""The bench beside the peers: each network as it says, and a table of what was measured."""

import json

import pytest
import torch

from autotsnet.layers import quick
from reproduce.evidence import peers
from reproduce.evidence.peers import TORCH, Case, bench, file_of, rendered
from reproduce.evidence.verify import _peers
from reproduce.records import device_name

TINY = Case("auto_tsnet_uniform", True, 2, suite="kinetics-tiny")


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def quick_layers(step) -> int:
    return sum(getattr(m.__dict__.get("forward"), "func", None) is quick._norm for m in step.args[0].modules())


def test_ours_is_quick_and_the_other_is_not(one_thread):
    assert quick_layers(TINY.step("ours")[0])
    assert not quick_layers(TINY.step(TORCH)[0])
    assert TINY.peers == (TORCH,)


def test_peers_are_contiguous_and_in_their_own_default(one_thread):
    case = Case("tsm_mobilenetv2_8f", False, 1)
    assert case.peers == ("mmaction2",)
    net, clips = case.step("mmaction2")[0].args
    assert not net.training
    assert clips[0].is_contiguous()
    assert all(p.is_contiguous() for p in net.parameters())


def test_a_table_of_ratios(tmp_path, one_thread):
    text = bench(tmp_path, (TINY,))
    data = json.loads(file_of(tmp_path, device_name()).read_text())
    (row,) = data["rows"]
    assert len(row["seconds"]["ours"]) == len(row["seconds"][TORCH]) == 5
    pairs = sorted(a / b for a, b in zip(row["seconds"][TORCH], row["seconds"]["ours"], strict=True))
    assert row["ratios"][TORCH] == pairs[2]
    assert row["share_of_matmul"] > 0
    assert text == rendered(data) == file_of(tmp_path, device_name()).with_suffix(".md").read_text()
    assert f"{pairs[2]:.2f} ×" in text
    path = file_of(tmp_path, device_name())
    assert list(_peers(path)) == []
    row["ratios"][TORCH] *= 2
    path.write_text(json.dumps(data))
    found = list(_peers(path))
    assert "auto_tsnet_uniform beside torch's layers: the ratio is" in found[0]
    assert "is not what" in found[1]


def test_a_search_step_is_set_against_its_static_models(one_thread):
    case = Case(peers.SUPERNET, True, 1)
    assert case.peers == (peers.STATIC,)
    assert case.gmacs() > 0
    for source in ("ours", peers.STATIC):
        step, _ = case.step(source)
        step()
        (forwards,) = step.args
        assert len(forwards) == 8
        assert any(p.grad is not None for net, _ in forwards for p in net.parameters())


def test_a_network_that_dies_stops_the_bench():
    with pytest.raises(peers.BenchError, match="no_such_entry: the process of ours has ended"):
        peers.measure(Case("no_such_entry", True, 2, suite="kinetics-tiny"), 1)
