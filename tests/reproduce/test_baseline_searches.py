"""Searches of the baselines' spaces: what they leave, and that an interrupted one ends the same."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from autotsnet.search.constraint import Runtime
from autotsnet.search.progressive import SearchError
from baselines.assemblenet import ASSEMBLENET_50, assemblenet
from baselines.assemblenet.connections import dense, learned, pruned
from baselines.pvnas import CANDIDATES
from reproduce.engine.runner import DivergedError, RunHook
from reproduce.search import stage, trainings
from reproduce.search import tiny_video_net as tiny_video_net_search
from reproduce.suites import suite


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    s = suite("ssv2-tiny")
    return s, s.manifest("train", s.data_root(tmp_path_factory.mktemp("cache")))


class Killed(BaseException):
    pass


def interrupted(monkeypatch, at: int) -> None:
    """Every training is cut off after step ``at``, once."""
    original, cut = RunHook.after_train_iter, set()

    def broken(self, runner, batch_idx, data_batch=None, outputs=None):
        original(self, runner, batch_idx, data_batch, outputs)
        if batch_idx + 1 == at and runner.work_dir not in cut:
            cut.add(runner.work_dir)
            raise Killed

    monkeypatch.setattr(RunHook, "after_train_iter", broken)


def to_the_end(*arguments) -> stage.Found:
    for _ in range(20):
        try:
            return stage.search(*arguments)
        except Killed:
            continue
    raise AssertionError("still not finished")


@pytest.mark.parametrize(
    ("entry", "strategy", "architectures", "at"),
    [
        ("pvnas", "gradient", 10, 1),
        pytest.param("pvnas", "gradient", 10, 6, marks=pytest.mark.slow),  # after its last step
        ("assemblenet_searched", "connections", 1, 1),
        pytest.param("assemblenet_searched", "evolution", 3, 1, marks=pytest.mark.slow),
        pytest.param("evanet_searched", "evolution", 3, 1, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_search_ends_the_same(tiny, tmp_path, monkeypatch, entry, strategy, architectures, at):
    s, train = tiny
    config = stage.search_config(s.entry(entry), strategy)
    whole = stage.search(s, config, 0, train, tmp_path / "whole")
    interrupted(monkeypatch, at)
    parts = to_the_end(s, config, 0, train, tmp_path / "parts")
    assert parts.architecture == whole.architecture
    assert parts.cost.model_dump(exclude={"wall_s"}) == whole.cost.model_dump(exclude={"wall_s"})
    journals = [pd.read_parquet(found.folder / "journal.parquet") for found in (whole, parts)]
    pd.testing.assert_frame_equal(*journals)
    assert whole.cost.architectures == architectures
    shown = (whole.folder / "search.svg").read_text()
    assert {"connections": "pruned (", "evolution": "best so far", "gradient": "entropy of P"}[strategy] in shown
    assert type(whole.architecture).load(whole.folder / "architecture.json") == whole.architecture


def test_a_search_by_a_score_leaves_what_others_leave(tiny, tmp_path):
    s, train = tiny
    found = {}
    for strategy in ("stentr", "depth", "random"):
        config = stage.search_config(s.entry("e3d_searched"), strategy)
        found[strategy] = stage.search(s, config, 0, train, tmp_path)
        assert found[strategy].cost.architectures == config.options.structures
        assert (found[strategy].cost.steps, found[strategy].cost.clips) == (0, 0)
    space = stage.method(s, config).space
    score = {kind: space.score(space.encode(f.architecture)[None]).item() for kind, f in found.items()}
    assert score["stentr"] >= score["depth"]
    depth = {kind: f.architecture.layers for kind, f in found.items()}
    assert depth["depth"] >= depth["stentr"]
    with pytest.raises(ValueError, match="unknown strategy 'luck' for e3d; known: stentr, depth, random"):
        stage.search(s, stage.search_config(s.entry("e3d_searched"), "luck"), 0, train, tmp_path)


@pytest.mark.parametrize("strategy", ["evolution", pytest.param("random", marks=pytest.mark.slow)])
def test_a_search_under_a_runtime_goes_on_and_trains_nothing_slower(tiny, tmp_path, monkeypatch, strategy):
    s, train = tiny
    config = stage.search_config(s.entry("tiny_video_net_searched"), strategy)
    monkeypatch.setattr(tiny_video_net_search, "forward_ms", lambda net, *clips: 2.0)  # the reference's

    def cost(self, codes, alone=None):
        self.limit = 2.0
        return codes.sum(1).double() / 40

    monkeypatch.setattr(Runtime, "cost", cost)
    interrupted(monkeypatch, 1)
    found = to_the_end(s, config, 0, train, tmp_path)
    journal = pd.read_parquet(found.folder / "journal.parquet")
    assert found.cost.architectures == len(journal) == 3
    assert (journal.ms <= 2.0).all()
    best = journal.code[journal.log_likelihood.idxmax()]
    assert found.architecture == stage.method(s, config).space.decode(torch.tensor(np.array(best)))
    assert not list((found.folder / "candidates").iterdir())


def test_a_search_in_passes_is_the_same_but_for_batch_norm(tiny, tmp_path):
    s, train = tiny
    config = stage.search_config(s.entry("pvnas"))
    config.update(batch=8, sub_batch=4, amp="bf16", reference_batch=16)
    found = stage.search(s, config, 0, train, tmp_path)
    journal = pd.read_parquet(found.folder / "journal.parquet")
    assert len(journal) == 6
    assert found.cost.clips == 10 * 8
    assert journal.loss.between(0.5, 3).all()


def test_what_one_device_searches_is_refused_on_several_before_any_work(tiny, tmp_path):
    s, train = tiny
    config = stage.search_config(s.entry("pvnas"))
    message = r"GPUs: 2, but the search of pvnas runs on one; first, .*search ssv2-tiny --entry pvnas --seeds 3"
    with pytest.raises(ValueError, match=message):
        stage.check_searchable(s, config, 3, train, tmp_path, ranks=2)
    stage.check_searchable(s, stage.search_config(s.entry("auto_tsnet")), 3, train, tmp_path, ranks=2)
    folder = stage.folder_of(s, config, 3, train, tmp_path)
    folder.mkdir(parents=True)
    (folder / "search.json").write_text("{}")
    stage.check_searchable(s, config, 3, train, tmp_path, ranks=2)


def test_drawn_networks_differ_and_are_matched(tiny):
    s, _ = tiny
    spaces = "pvnas", "assemblenet", "evanet", "auto_x3d", "e3d", "tiny_video_net"
    for name in (f"{space}_random" for space in spaces):
        config = stage.search_config(s.entry(name))
        drawn = [stage.method(s, config).draw(seed) for seed in range(2)]
        assert len(set(drawn)) == 2
        assert drawn[0] == stage.method(s, config).draw(0)


def test_unknown_strategy_and_an_entry_without_a_search(tiny, tmp_path):
    s, train = tiny
    config = stage.search_config(s.entry("assemblenet_searched"), "luck")
    with pytest.raises(ValueError, match=r"unknown strategy 'luck' for assemblenet; known: connections, evolution"):
        stage.search(s, config, 0, train, tmp_path)
    with pytest.raises(ValueError, match="entry 'x3d' is not searched for"):
        stage.search_config(s.entry("x3d"))


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_a_search_in_which_every_graph_fails_says_so(tmp_path, monkeypatch, strategy):
    def diverges(*args):
        args[4].mkdir(parents=True)
        raise DivergedError("the loss is nan")

    s = suite("ssv2-tiny")
    monkeypatch.setattr(trainings, "halves", lambda *args: (None, None))
    monkeypatch.setattr(trainings, "stream", lambda *args: ())
    how = stage.method(s, stage.search_config(s.entry("assemblenet_searched"), strategy))
    monkeypatch.setattr(how, "_fit", diverges)
    message = r"^search-s0: all 3 graphs failed, the loss of none was finite; lower `lr` in"
    for _ in range(2):  # the second time it finds them in the journal
        with pytest.raises(SearchError, match=message):
            how.find(0, None, tmp_path, "search-s0")


def test_connections_are_learned_and_the_strongest_kept():
    graph = dense(ASSEMBLENET_50)
    torch.manual_seed(0)
    net = assemblenet(num_classes=3, width=0.05, graph=graph.to_dict(), modules=(1, 1, 1, 1), flow_iterations=1)
    for fusion in net.fusions:
        if hasattr(fusion, "logits"):
            torch.nn.init.normal_(fusion.logits)
    whole = learned(net)
    small = pruned(whole, keep=0.35)
    weights = {(i, j): w for i, n in enumerate(whole.nodes) for j, w in zip(n.inputs, n.weights, strict=False)}
    kept = {(i, j) for i, n in enumerate(small.nodes) for j in n.inputs}
    assert 30 <= len(kept) <= 36  # of 86, and what keeps every node in the graph
    assert set(sorted(weights, key=weights.get)[-30:]) <= kept
    read = {j for _, j in kept}
    assert read == set(range(len(small.nodes) - 1))
    for i, node in enumerate(small.nodes):
        assert node.weights == tuple(weights[i, j] for j in node.inputs if len(node.inputs) > 1)


def test_as_many_connections_are_kept_as_the_budget_allows(tiny, monkeypatch):
    s, _ = tiny
    config = stage.search_config(s.entry("assemblenet_searched"))
    whole = replace(dense(ASSEMBLENET_50), name="whole")
    whole = replace(whole, nodes=tuple(replace(n, weights=(0.5,) * len(n.inputs)) for n in whole.nodes))

    def kept(graph):
        return sum(len(node.inputs) for node in graph.nodes)

    nominal, found = kept(pruned(whole, config.options.keep)), []
    for matched in (lambda n: True, lambda n: n > nominal + 1, lambda n: n < nominal - 1, lambda n: False):
        how = stage.method(s, config)
        monkeypatch.setattr(how, "_solution", lambda g, m=matched: SimpleNamespace(matched=m(kept(g))))
        found.append(kept(how._pruned(whole)) - nominal)
    assert found == [0, 2, -2, 0]


def test_pvnas_architectures_are_names_of_candidates(tiny, tmp_path):
    s, train = tiny
    config = stage.search_config(s.entry("pvnas"))
    found = stage.search(s, config, 1, train, tmp_path)
    journal = pd.read_parquet(found.folder / "journal.parquet")
    assert journal.step.tolist() == list(range(config.options.warmup + config.options.steps))
    assert journal.held_out_loss.isna().sum() == config.options.warmup
    file = json.loads((found.folder / "architecture.json").read_text())
    assert file["ops"] == list(found.architecture.ops)
    for op, p in zip(file["ops"], file["probabilities"], strict=True):
        assert set(p) == set(CANDIDATES)
        assert op == max(p, key=p.get)
    probabilities = np.array([list(p.values()) for p in file["probabilities"]])
    assert 1 - np.square(probabilities).sum(1).mean() == pytest.approx(journal.diversity.iloc[-1], abs=1e-6)
    assert journal.diversity.iloc[-1] < 5 / 6 - 1e-3, "what was learnt is what is written"
    assert journal.gmacs.between(0.3 * s.gmacs, 3 * s.gmacs).all()
    assert (found.folder / "search.png").stat().st_size > 10_000
    picture = found.folder / "search.svg"
    before = picture.read_bytes()
    picture.unlink()
    stage.search(s, config, 1, train, tmp_path)
    assert picture.read_bytes() == before, "drawn from what the search left"
