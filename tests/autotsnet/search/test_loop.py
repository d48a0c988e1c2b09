"""The loop itself around a stub of a network whose losses are planted: where it goes, and what it judges."""

import logging
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from torch import nn
from torch.utils.data import default_collate

from autotsnet.architecture import STREAMS
from autotsnet.cost import CostModel
from autotsnet.search.fpnas import FPNASOptions
from autotsnet.search.progressive import ProgressiveSearchLoop, SearchError, SearchOptions
from autotsnet.space import SharedWeights, Stage, Variable
from autotsnet.spaces import preset

TINY = preset("tiny")
BUDGET = 0.03
CLIPS = 8
TRAINING, HELD_OUT = -1.0, 1.0  # what a clip is worth: it tells the stub which half it is of
SHORT = SearchOptions(fpnas=FPNASOptions(lr=0.2), warmup=1, steps=6, type_steps=4, judge_batches=1)


class Stream:
    """A data loader of clips that are all alike."""

    collate_fn, batch_size = staticmethod(default_collate), CLIPS

    def __init__(self, value: float):
        self.value, self.sampler, self.dataset = value, SimpleNamespace(step=0), self

    def __len__(self) -> int:
        return CLIPS

    def __getitem__(self, n: int) -> dict:
        return dict(clips=torch.tensor([self.value]), label=0)

    def __iter__(self):
        while True:
            yield default_collate([self[i] for i in range(CLIPS)])


class Weights(SharedWeights):
    """One weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Linear(1, 1, bias=False).weight


class Stub(nn.Module):
    """A network whose loss on an architecture is given."""

    def __init__(self, loss):
        super().__init__()
        self.net, self.loss = Weights(), loss

    def data_preprocessor(self, data: dict, training: bool) -> dict:
        return data

    def forward(self, clips, label, mode, architecture) -> dict:
        assert mode == "loss"
        return dict(loss=self.loss(self, architecture, clips))


class Wrapper:
    """An optimiser that keeps the gradients of each step."""

    def __init__(self, model: Stub):
        self.model, self.gradients = model, []

    def zero_grad(self) -> None:
        self.model.zero_grad(set_to_none=True)

    def step(self) -> None:
        self.gradients.append(self.model.net.weight.grad.item())

    def optim_context(self, model: nn.Module):
        return nullcontext()


def values(architecture) -> dict[str, object]:
    """What was chosen for each variable of the streams that there are."""
    streams = [s for s in STREAMS if getattr(architecture, s)]
    out = {f"fusion.{i}": kind for i, kind in enumerate(architecture.fusions)} if len(streams) == 2 else {}
    for s in streams:
        for g, group in enumerate(getattr(architecture, s)):
            out |= {f"{s}.{g}.c": group.channels, f"{s}.attention.{g}": group.attention}
            out |= {f"{s}.{g}.{b}.{v}": getattr(block, v) for b, block in enumerate(group.blocks) for v in "tke"}
    return out


PLANTED = values(TINY.decode(TINY.sample(1, np.random.default_rng(5))[0]))


def right(architecture) -> float:
    """Share of the variables that are as planted."""
    chosen = values(architecture)
    return sum(PLANTED[name] == value for name, value in chosen.items()) / len(chosen)


def planted(model: Stub, architecture, clips) -> torch.Tensor:
    """On held-out clips the planted architecture is the best, on training clips the worst."""
    return 2 - clips.mean() * right(architecture) + 0 * model.net.weight.sum()


def searched(
    options, loss=planted, gmacs: float = BUDGET, space=TINY, wrap=lambda model: model, **more
) -> ProgressiveSearchLoop:
    """A finished search."""
    model = Stub(loss)
    runner = SimpleNamespace(
        model=wrap(model),
        optim_wrapper=Wrapper(model),
        call_hook=lambda *a, **k: None,
        logger=logging.getLogger("test"),
        work_dir=".",
    )
    training, held_out = Stream(TRAINING), Stream(HELD_OUT)
    loop = ProgressiveSearchLoop(
        runner, training, held_out=held_out, space=space, num_classes=10, gmacs=gmacs, options=options, **more
    )
    loop.run()
    return loop


def test_the_loop_finds_what_held_out_clips_say_is_best():
    """Not what they say is worst, and not what training clips say."""
    options = SearchOptions(fpnas=FPNASOptions(lr=0.2), warmup=1, steps=40, type_steps=20, use_budget=0)
    loop = searched(options, gmacs=CostModel(TINY, 10).range()[1])
    assert loop.max_iters <= 150
    assert right(loop.architecture) > 0.8


def test_shared_weights_follow_the_likelier_sample():
    """Of two samples whose losses differ by many nats per batch, the gradient is that of the one of less loss."""
    slopes: list[float] = []

    def loss(model, architecture, clips):
        if clips.mean() == HELD_OUT or not torch.is_grad_enabled():
            return torch.tensor(1.0)
        slopes.append(float(len(slopes) + 1))
        bad = 5.0 * (len(slopes) % 2)  # the first, third, ... sample is the worse one
        return bad + slopes[-1] * (model.net.weight.sum() - model.net.weight.sum().detach())

    fpnas = FPNASOptions(fixed_samples=2)
    loop = searched(replace(SHORT, fpnas=fpnas, warmup=0, steps=1, type_steps=1), loss)
    np.testing.assert_allclose(loop.runner.optim_wrapper.gradients, [2, 4, 6, 8], rtol=1e-6)


def test_a_model_that_mmengines_launcher_has_wrapped_is_searched_alike():
    def loss(model, architecture, clips):
        return planted(model, architecture, clips) + clips.mean() * model.net.weight.sum()

    plain = searched(SHORT, loss)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = searched(SHORT, loss, wrap=MMDistributedDataParallel)
    finally:
        torch.distributed.destroy_process_group()
    assert wrapped.architecture == plain.architecture
    assert wrapped.runner.optim_wrapper.gradients == plain.runner.optim_wrapper.gradients != []


def test_a_stage_freezes_what_it_has_decided_for_the_next():
    loop = searched(SHORT)
    found = TINY.encode(loop.architecture)
    journal, _ = loop.journals()
    decided: list[int] = []
    for stage in loop.stages:
        codes = np.stack(journal[journal.stage == stage.name].code)
        assert (codes[:, decided] == found[decided].numpy()).all(), "decided before"
        decided += TINY.positions(*stage.decides)
        waiting = [i for i in range(len(found)) if i not in decided]
        assert (codes[:, waiting] == 0).all(), "decided later"
    assert sorted(decided) == list(range(len(found)))


@pytest.fixture
def judged(monkeypatch) -> list[tuple]:
    """Finalists of each stage with their costs and the stage's journal, as they are judged."""
    seen, original = [], ProgressiveSearchLoop._finalists

    def finalists(self):
        codes = original(self)
        journal = self.journals()[0]
        here = journal[journal.stage == self.stage.name]
        told = dict(zip((tuple(map(int, c)) for c in here.code), here.log_likelihood, strict=True))
        whole = [tuple(c) for c in self.restriction.expand(codes).tolist()]
        model = CostModel(TINY, 10, self.stage.alone)
        share, costs = (model.gmacs(torch.tensor(list(cs))) / (self.stage.share * BUDGET) for cs in (whole, told))
        seen.append((self.stage.name, whole, share.tolist(), told, dict(zip(told, costs.tolist(), strict=True))))
        return codes

    monkeypatch.setattr(ProgressiveSearchLoop, "_finalists", finalists)
    return seen


@pytest.mark.parametrize("strategy", ["fpnas", "parsec", "random", "evolution"])
def test_finalists_of_every_strategy_use_the_budget_and_the_likeliest_judged_are_among_them(strategy, judged):
    options = replace(SHORT, strategy=strategy, finalists=6, steps=30, type_steps=8)
    loop = searched(options)
    assert [name for name, *_ in judged] == [stage.name for stage in loop.stages]
    for name, codes, share, told, costs in judged:
        assert len(set(codes)) == len(codes) <= 6
        assert max(share) <= 1
        if name in STREAMS:  # later stages have what the earlier ones left
            assert min(share) >= 0.95, f"{strategy}, stage {name}"
        assert len({s >= 0.95 for s in share}) == 1, "where one uses the budget, all do"
        least = 0.95 if min(share) >= 0.95 else 0
        likeliest = sorted((c for c in told if least <= costs[c] <= 1), key=lambda c: -told[c])
        wanted = likeliest[: 3 if strategy in ("fpnas", "parsec") else 6]
        assert set(wanted) <= set(codes)
    assert any(len(set(codes) & set(told)) >= 3 for _, codes, _, told, _ in judged)


def test_the_likeliest_finalist_is_kept(judged):
    loop = searched(replace(SHORT, use_budget=0, finalists=8))
    _, codes, *_ = judged[-1]
    of_finalists = [right(TINY.decode(torch.tensor(code))) for code in codes]
    assert right(loop.architecture) == max(of_finalists) > min(of_finalists)


def test_where_nothing_uses_the_budget_whatever_is_in_it_is_judged(judged):
    searched(replace(SHORT, use_budget=1 - 1e-12))
    for _, codes, share, *_ in judged:
        assert codes
        assert max(share) <= 1
    assert min(min(share) for _, _, share, *_ in judged) < 0.95


def test_the_share_of_the_budget_is_an_option(judged):
    searched(replace(SHORT, use_budget=0))
    assert min(min(share) for _, _, share, *_ in judged) < 0.9


def test_a_space_whose_stages_miss_a_variable_is_refused():
    class Forgetful(type(TINY)):
        def stages(self, options, num_classes):
            return super().stages(options, num_classes)[:3]

    with pytest.raises(SearchError, match=r"no stage of space 'tiny' decides slow\.attention\.0, .*: add attention to"):
        searched(SHORT, space=Forgetful(**vars(preset("tiny").at(8, 64))))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(decides=("fusions",)), "stage 'fusion' of space 'tiny' decides no variable: none belongs to fusions"),
        (dict(steps=0), "stage 'fusion' of space 'tiny' has 0 steps after 0 of warm-up; give at least one"),
    ],
)
def test_a_stage_that_would_search_nothing_is_refused(change, said):
    class Idle(type(TINY)):
        def stages(self, options, num_classes):
            slow, fast, fusion, attention = super().stages(options, num_classes)
            return slow, fast, replace(fusion, **change), replace(attention, decides=("fusion", "attention"))

    with pytest.raises(SearchError, match=said):
        searched(SHORT, space=Idle(**vars(preset("tiny").at(8, 64))))


class Numbered:
    """A space of as many architectures as asked for, behind one variable, as of a table; all cost the same."""

    name = "numbered"

    def __init__(self, *variables: Variable):
        self.variables, self.counts = variables, torch.tensor([len(v.candidates) for v in variables])

    def blocks(self):
        return (tuple(self.counts.tolist()),)

    def decode(self, code, alone=None):
        return SimpleNamespace(hash=str(code.tolist()))

    def cost(self, num_classes, alone=None):
        return SimpleNamespace(gmacs=lambda codes: torch.ones(len(codes)).double(), range=lambda: (1.0, 1.0))

    def stages(self, options, num_classes):
        return tuple(Stage(v.stage, (v.stage,), 0, 4) for v in self.variables)


class Largest:
    """A judge that likes large numbers."""

    clips, images = 64, 0

    def scores(self, codes, alone=None, final=False):
        return codes[:, 0].double()

    def state_dict(self):
        return {}


def test_a_variable_may_have_more_candidates_than_a_byte_has_values():
    space = Numbered(Variable("number", tuple(range(1000)), "all", "number"))
    options = replace(SHORT, strategy="random", batch=16, draws=1)
    loop = searched(options, lambda model, *_: model.net.weight.sum(), gmacs=1.0, space=space, judge=Largest())
    journal, _ = loop.journals()
    assert loop.template.item() >= journal.log_likelihood.max() > 256
    assert [int(code[0]) for code in journal.code] == journal.log_likelihood.tolist()


def test_a_stage_that_decides_a_part_of_a_block_is_refused():
    space = Numbered(Variable("t", (1, 3), "early", "block"), Variable("k", (3, 5), "late", "block"))
    with pytest.raises(SearchError, match="decides a part of block 'block' only, without k; give the variables of a"):
        searched(SHORT, gmacs=1.0, space=space, judge=Largest())


def test_space_and_options_come_as_config_and_the_judge_is_any():
    class Table:
        clips, images = 64, 0

        def scores(self, codes, alone=None, final=False):
            return -codes.double().mean(1)  # the smaller, the better

        def state_dict(self):
            return {}

    short = dict(strategy="random", warmup=0, steps=5, type_steps=5, batch=8, use_budget=0)
    loop = searched(short, space=dict(type="tiny", frames=8, crop=64), judge=Table())
    journal, _ = loop.journals()
    means = np.stack(journal[journal.stage == "attention"].code).mean(1)
    assert TINY.encode(loop.architecture).double().mean() <= means.min()
    with pytest.raises(ValueError, match="unknown search space 'xl'; known: tiny, s, m, l"):
        searched(SHORT, space="xl")
    with pytest.raises(ValueError, match="unknown search space None; known: tiny, s, m, l"):
        searched(SHORT, space=dict(frames=8))
    with pytest.raises(SearchError, match="give a search one of them"):
        searched(SHORT, constraint=dict(type="gmacs", limit=1.0))


def test_frozen_weights_are_trained_within_the_budget_and_then_only_judged():
    trained: list[float] = []

    def loss(model, architecture, clips):
        if torch.is_grad_enabled():
            assert clips.mean() == TRAINING
            trained.append(CostModel(TINY, 10).gmacs(TINY.encode(architecture)[None]).item() / BUDGET)
        return planted(model, architecture, clips)

    options = replace(SHORT, frozen=True, progressive=False, strategy="evolution", warmup=8, steps=60, type_steps=20)
    loop = searched(options, loss)
    assert len(trained) == len(loop.runner.optim_wrapper.gradients) == 24
    assert min(trained) >= 0.95
    assert max(trained) <= 1
    journal, _ = loop.journals()
    assert len(journal) == 160 * options.batch
    assert loop.images == CLIPS * (24 + len(journal) + options.finalists)
    start = [right(TINY.decode(torch.tensor(code))) for code in journal.code[:100]]
    assert right(loop.architecture) > max(start)


def test_frozen_weights_judge_every_architecture_on_the_same_batches():
    options = replace(SHORT, frozen=True, progressive=False, strategy="random", judge_batches=3)
    loop = searched(options)
    drawn = loop.judge._first
    loop._scores(TINY.sample(2, torch.Generator().manual_seed(0)))
    assert loop.judge._first is drawn
    assert loop.judge.clips == 3 * CLIPS


def test_indicators_need_no_training():
    """A registered judge of static networks: no weight is trained, and what is found was measured."""
    short = dict(warmup=0, steps=2, type_steps=0, draws=100, finalists=2)
    options = replace(SHORT, frozen=True, progressive=False, strategy="reinforce", **short)
    judge = dict(type="indicators", names=["params"], combine="change", num_classes=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autotsnet.search.indicators.judge.clips_and_labels", lambda *_: ((), torch.zeros(2)))
        loop = searched(options, judge=judge)
    assert not loop.runner.optim_wrapper.gradients
    assert len(loop.journals()[0]) == 2 * 2
    measured = {code: value for (_, *code), (value,) in loop.judge._measured.items() for code in [tuple(code)]}
    assert tuple(loop.template.tolist()) in measured
    assert min(measured.values()) > 10_000


def test_frozen_weights_need_all_variables_at_once():
    with pytest.raises(SearchError, match="set progressive=False"):
        searched(replace(SHORT, frozen=True))
