"""The search as an mmengine loop: stage by stage, each resumable at any step.

Stated by the paper (arXiv 2108.12957): streams first, then fusion, then attention. Stage 1 here searches each stream
alone under its share of the budget; what a stage decided is frozen for the next. The rest is ours, an option each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.runner import BaseLoop, Runner
from torch import Tensor

from autotsnet.architecture import TwoStreamArchitecture
from autotsnet.cost import CostModel
from autotsnet.registry import LOOPS
from autotsnet.search.encoding import Restriction
from autotsnet.search.estimator import AllSamplesFailedError, ImportanceAccumulator, temperature_of
from autotsnet.search.fpnas import FPNAS, FPNASOptions, parsec_options
from autotsnet.search.strategies import Evolution, EvolutionOptions, RandomSearch, Strategy, distinct
from autotsnet.space import STAGES, SearchSpace


class SearchError(ValueError):
    """The search cannot start or go on; the message says why and the way out."""


@dataclass(frozen=True)
class Stage:
    """One stage of a search.

    Attributes:
        name: in logs and journals.
        decides: which variables it searches, names of ``autotsnet.space.STAGES``.
        warmup: steps that only train shared weights, one uniformly drawn architecture each.
        steps: steps after that, with updates of the strategy.
        share: of the budget that its architectures may cost.
        alone: the only stream there is in this stage, or None for both.
    """

    name: str
    decides: tuple[str, ...]
    warmup: int
    steps: int
    share: float = 1.0
    alone: str | None = None


@dataclass(frozen=True)
class SearchOptions:
    """What the papers leave open about the search as a whole.

    Attributes:
        strategy: ``fpnas``, ``parsec``, ``random`` or ``evolution``, the same stages for each.
        fpnas: options of ``fpnas``; ``parsec`` takes its lr and likelihood. ``joint_from`` and
            ``anneal`` are set by ``theta`` and the stage's length.
        theta: share of a stage's steps after which its distribution turns joint; FP-NAS turned at epoch 80 of an
            unknown number. None: never.
        batch: architectures per step of ``random`` and ``evolution``.
        stream_share: of the budget that both streams together may cost before fusion and attention; 0.85 because the
            presets' dearest fusions and attentions cost about a seventh of a network of median streams.
        fusion_share: of the budget before attention.
        warmup: steps of each stage's warm-up; Auto-X3D warms up for the first third of its search.
        steps: steps of each stream's stage after its warm-up; the space of a stream is the largest.
        type_steps: steps of the fusion and of the attention stage, which have few variables.
        progressive: False searches all variables at once for as many steps as the stages have together: the ablation.
        sub_batch: clips per pass: batch norm's statistics are over them, and a step holds the activations of one pass.
            None: each rank's clips at once.
        finalists: candidates judged once more at the end of a stage.
        use_budget: least share of a stage's budget that they use, where anything proposed or judged does; 0: any.
        draws: how many proposals of the strategy are looked at for that.
        judge_batches: held-out batches they are judged on.
    """

    strategy: str = "fpnas"
    fpnas: FPNASOptions = field(default_factory=FPNASOptions)
    theta: float | None = 0.5
    batch: int = 4
    stream_share: float = 0.85
    fusion_share: float = 0.93
    warmup: int = 100
    steps: int = 200
    type_steps: int = 80
    progressive: bool = True
    sub_batch: int | None = None
    finalists: int = 8
    use_budget: float = 0.95
    draws: int = 20_000
    judge_batches: int = 4


def stages(space: SearchSpace, options: SearchOptions, num_classes: int) -> tuple[Stage, ...]:
    """The stages of a search.

    The streams share ``stream_share`` of the budget in proportion to their median costs in the space.
    """
    if not options.progressive:
        warmup, steps = 3 * options.warmup, 2 * (options.steps + options.type_steps)
        return (Stage("joint", STAGES, warmup, steps),)
    codes = space.sample(2048, np.random.default_rng(0))
    median = {s: float(np.median(CostModel(space, num_classes, s).gmacs(codes))) for s in ("slow", "fast")}
    share = {s: options.stream_share * m / sum(median.values()) for s, m in median.items()}
    return (
        *(Stage(s, (s,), options.warmup, options.steps, share[s], alone=s) for s in ("slow", "fast")),
        Stage("fusion", ("fusion",), options.warmup // 2, options.type_steps, options.fusion_share),
        Stage("attention", ("attention",), options.warmup // 2, options.type_steps),
    )


def _strategy(options: SearchOptions, blocks, cost, target: float, steps: int, seed: int) -> Strategy:
    fpnas = options.fpnas
    if options.strategy == "fpnas":
        joint_from = None if options.theta is None else round(options.theta * steps)
        return FPNAS(blocks, cost, target, replace(fpnas, anneal=steps, joint_from=joint_from), seed)
    if options.strategy == "parsec":
        return FPNAS(blocks, cost, target, parsec_options(lr=fpnas.lr, likelihood=fpnas.likelihood), seed)
    if options.strategy == "random":
        return RandomSearch(blocks, cost, target, options.batch, seed)
    if options.strategy == "evolution":
        population = min(100, max(4, steps * options.batch // 8))  # the paper's 100, in a short search less
        evolution = EvolutionOptions(population, tournament=max(2, population // 4))
        return Evolution(blocks, cost, target, evolution, options.batch, seed)
    raise SearchError(f"unknown strategy {options.strategy!r}; known: fpnas, parsec, random, evolution")


@LOOPS.register_module()
class ProgressiveSearchLoop(BaseLoop):
    """Search a space with shared weights under a budget.

    The runner's model holds a ``SuperNet`` as ``net`` and is called as ``model(**batch, mode="loss",
    architecture=...)``. Each step draws K architectures; all are judged on one held-out batch (forward passes, for
    the strategy) and trained on one training batch (importance-weighted, for the shared weights). All ranks draw the
    same architectures; likelihoods and gradients are averaged over ranks.

    Args:
        runner: mmengine's; its optim_wrapper trains the shared weights.
        dataloader: training half.
        held_out: the other half.
        space: the space.
        num_classes: N.
        gmacs: the budget per view.
        options: see there.
        seed: of the strategy.

    Raises:
        SearchError: the budget is outside of what the space can cost; the message says the range.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader,
        *,
        held_out,
        space: SearchSpace,
        num_classes: int,
        gmacs: float,
        options: SearchOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(runner, dataloader)
        self.held_out, self.space, self.num_classes = held_out, space, num_classes
        self.gmacs, self.options, self.seed = gmacs, options or SearchOptions(), seed
        low, high = CostModel(space, num_classes).range()
        if not low <= gmacs <= high:
            raise SearchError(
                f"a budget of {gmacs:g} GMACs is outside of space {space.name!r}, whose architectures cost "
                f"{low:.3g} to {high:.3g}; choose another budget or preset"
            )
        self.stages = stages(space, self.options, num_classes)
        for stage in self.stages:
            least = CostModel(space, num_classes, stage.alone).range()[0]
            if stage.share * gmacs < least:
                raise SearchError(
                    f"a budget of {gmacs:g} GMACs leaves {stage.share * gmacs:.3g} to stage {stage.name!r}, whose "
                    f"cheapest architecture costs {least:.3g}; choose at least {least / stage.share:.3g}"
                )
        self._iter = self._epoch = 0
        self.stop_training = False
        self.template = np.zeros(len(space.counts), int)  # types start as "none"
        # per step: codes K M; step, stage, K; GMACs, log-likelihood, weight, entropy
        self._journal: list[tuple[Tensor, Tensor, Tensor]] = []
        self.trajectory: list[dict[str, Any]] = []
        self.images = 0  # clips that passed a network, forward only or with backward
        self.dropped = 0  # samples of the weights' pass whose loss was not finite
        self._judged = 0  # held-out batches drawn
        self._enter(0)

    iter = property(lambda self: self._iter)
    epoch = property(lambda self: self._epoch)
    max_epochs = property(lambda self: len(self.stages))
    max_iters = property(lambda self: sum(s.warmup + s.steps for s in self.stages))

    def _enter(self, index: int) -> None:
        """Set up a stage: which blocks it searches, what they cost, and its strategy."""
        self._epoch, self._in_stage = index, 0
        stage = self.stage
        positions = set(self.space.positions(*stage.decides))
        blocks, start, searched = self.space.blocks(), 0, []
        for i, block in enumerate(blocks):
            if start in positions:
                searched.append(i)
            start += len(block)
        self.restriction = Restriction(blocks, tuple(searched), tuple(self.template.tolist()))
        model = CostModel(self.space, self.num_classes, stage.alone)
        self._cost = lambda codes: torch.from_numpy(model.gmacs(self.restriction.expand(codes).numpy()))
        self.target = stage.share * self.gmacs
        cost, target = self._cost, self.target
        self.strategy = _strategy(
            self.options, self.restriction.searched_blocks, cost, target, stage.steps, self.seed * 101 + index
        )

    @property
    def stage(self) -> Stage:
        """The current stage."""
        return self.stages[self._epoch]

    def decode(self, code: Tensor) -> TwoStreamArchitecture:
        """The architecture that a code of the current stage is run as."""
        architecture = self.space.decode(self.restriction.expand(code[None])[0].numpy())
        return architecture.alone(self.stage.alone) if self.stage.alone else architecture

    def run(self) -> torch.nn.Module:
        """Search from the current step to the end."""
        runner = self.runner
        runner.call_hook("before_train")
        self.dataloader.sampler.step = self._iter
        self.held_out.sampler.step = self._judged
        train_batches, held_out_batches = iter(self.dataloader), iter(self.held_out)
        runner.call_hook("before_train_epoch")
        while self._iter < self.max_iters and not self.stop_training:
            train = next(train_batches)
            runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=train)
            warming = self._in_stage < self.stage.warmup
            outputs = self.step(train, None if warming else next(held_out_batches))
            self._judged += not warming
            self._in_stage += 1
            if self._in_stage == self.stage.warmup + self.stage.steps:
                self._leave()
            runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=train, outputs=outputs)
            self._iter += 1
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")
        return runner.model

    def step(self, train: dict, held_out: dict | None) -> dict[str, Tensor | float]:
        """One step: the weights on a training batch, then the strategy on a held-out batch (none: warm-up)."""
        runner, strategy = self.runner, self.strategy
        runner.model.train()
        if runner.model.net.fair:  # a function of the step, on all ranks alike
            runner.model.net.fair.generator.manual_seed(self.seed * 1_000_003 + self._iter)
        warming = held_out is None
        codes = strategy.ask()[:1] if warming else strategy.ask()
        clips = len(train["label"]) * get_world_size()
        runner.optim_wrapper.zero_grad()
        parameters = list(runner.model.parameters())
        likelihood = self.options.fpnas.likelihood
        step = ImportanceAccumulator(parameters, temperature_of(likelihood, clips))
        losses = []
        for code in codes:
            losses.append(step.backward(self._losses(train, code), self._mean))
        try:
            step.finish()
            self.dropped += step.dropped
            self._reduce_gradients(parameters)
            runner.optim_wrapper.step()
            self.images += clips * len(codes)
            if not warming:
                judged = self._judge(codes, [held_out])
                gmacs = self._cost(codes)
                weights = strategy.tell(codes, judged, gmacs, clips)
                self._note(codes, judged, gmacs, weights)
        except AllSamplesFailedError as error:
            last = Path(runner.work_dir, "last.pth")
            way_out = f"the last good checkpoint is {last}" if last.exists() else "there is no checkpoint yet"
            raise SearchError(f"stage {self.stage.name}, step {self._in_stage}: {error}; {way_out}") from error
        finite = [x for x in losses if math.isfinite(x)]
        numbers = {k: v for k, v in strategy.stats().items() if v == v}
        numbers |= dict(stage=float(self._epoch), dropped=strategy.dropped + self.dropped)
        return dict(loss=torch.tensor(sum(finite) / len(finite)), **numbers)

    def _losses(self, batch: dict, code: Tensor) -> Iterator[Tensor]:
        """The mean cross-entropy of a subnet on a batch, in parts that add up to it: one a pass."""
        architecture, model = self.decode(code), self.runner.model
        size = self.options.sub_batch or len(batch["label"])
        for clips, label in zip(batch["clips"].split(size), batch["label"].split(size), strict=True):
            data = model.data_preprocessor(dict(clips=clips, label=label), True)
            with self.runner.optim_wrapper.optim_context(model):
                loss = model(**data, mode="loss", architecture=architecture)["loss"]
            yield loss * (len(label) / len(batch["label"]))

    @torch.no_grad()
    def _judge(self, codes: Tensor, batches: Sequence[dict]) -> Tensor:
        """Mean log-likelihood of each architecture on held-out batches, reduced over ranks."""
        out = []
        for code in codes:
            out.append(sum(-self._mean(sum(self._losses(b, code))) for b in batches) / len(batches))
            self.images += sum(len(b["label"]) for b in batches) * get_world_size()
        return torch.tensor(out, dtype=torch.float64)

    @staticmethod
    def _mean(value: Tensor) -> float:
        value = value.clone()
        all_reduce(value, "mean")
        return value.item()

    @staticmethod
    def _reduce_gradients(parameters: list[torch.nn.Parameter]) -> None:
        if get_world_size() > 1:
            for p in parameters:  # the same on every rank: which subnet ran decides which gradients there are
                if p.grad is not None:
                    all_reduce(p.grad, "mean")

    def _note(self, codes: Tensor, judged: Tensor, gmacs: Tensor, weights: Tensor) -> None:
        entropy = self.strategy.stats().get("entropy", math.nan)
        numbers = torch.stack([gmacs.double(), judged.double(), weights.double(), torch.full_like(judged, entropy)], 1)
        places = torch.tensor([[self._iter, self._epoch, len(codes)]]).repeat(len(codes), 1)
        self._journal.append((self.restriction.expand(codes).to(torch.uint8), places, numbers))
        distribution = getattr(self.strategy, "distribution", None)
        last = self._in_stage + 1 == self.stage.warmup + self.stage.steps
        if distribution is not None and (last or self._in_stage % 10 == 0):
            names = iter(v.name for v in (self.space.variables[i] for i in self.restriction.variables))
            for b, counts in enumerate(self.restriction.searched_blocks):
                joint = distribution.probabilities(b)
                for axis in range(len(counts)):
                    others = [a for a in range(len(counts)) if a != axis]
                    marginal = joint.sum(others) if others else joint
                    row = dict(step=self._iter, stage=self.stage.name, variable=next(names))
                    self.trajectory.append(row | dict(probabilities=marginal.tolist()))

    def _leave(self) -> None:
        """Judge the finalists once more, freeze the likeliest, go on to the next stage."""
        finalists = self._finalists()
        with self.runner.model.net.prefix_windows():  # of all candidates the same channels, those of the found network
            judged = self._judge(finalists, self._held_out_batches(self.options.judge_batches))
        chosen = finalists[int(judged.nan_to_num(nan=-math.inf).argmax())]
        self.template = self.restriction.expand(chosen[None])[0].numpy()
        self.runner.logger.info(
            f"stage {self.stage.name}: {self.decode(chosen).hash}, {self._cost(chosen[None]).item():.4g} GMACs of "
            f"{self.target:.4g}, held-out loss {-judged.max():.3f}"
        )
        if self._epoch + 1 < len(self.stages):
            self._enter(self._epoch + 1)

    def _finalists(self) -> Tensor:
        """Candidates for the end of the stage, K m, of those that use the budget where any does.

        From a distribution: half the most probable ones, half the likeliest that the stage has judged. Other strategies
        end with the likeliest; what they propose fills up. A hinge cost does not ask that the budget be used; left
        alone, a short search ends far below it, with a network that is scaled up afterwards and no longer the one that
        was judged. All strategies obey the same rule, so that none is handicapped.
        """
        n = self.options.finalists
        proposed = self.strategy.propose(self.options.draws, torch.Generator().manual_seed(self.seed))
        codes = torch.cat([proposed, self._likeliest()])
        gmacs = self._cost(codes)
        fits = gmacs <= self.target
        uses = fits & (gmacs >= self.options.use_budget * self.target)
        keep = uses if uses.any() else fits
        likely = codes[len(proposed) :][keep[len(proposed) :]][:n]
        proposed = proposed[keep[: len(proposed)]][: 2 * n]
        share = n // 2 if hasattr(self.strategy, "distribution") else n
        first = n - min(share, len(likely))
        return distinct(torch.cat([proposed[:first], likely, proposed[first:]]))[:n]

    def _likeliest(self) -> Tensor:
        """What the stage has judged, K m: likeliest first, each once, with the last likelihood told."""
        codes, places, numbers = self._columns()
        here = (places[:, 1] == self._epoch) & numbers[:, 1].isfinite()
        last = dict(zip(map(tuple, codes[here].tolist()), numbers[here, 1].tolist(), strict=True))
        ranked = sorted(last, key=lambda code: -last[code])
        return self.restriction.restrict(torch.tensor(ranked, dtype=torch.long).reshape(-1, codes.shape[1]))

    def _held_out_batches(self, n: int) -> list[dict]:
        """Held-out batches of this rank, the same whenever the search is resumed."""
        dataset, size = self.held_out.dataset, self.held_out.batch_size
        rank, world = get_rank(), get_world_size()
        collate = self.held_out.collate_fn
        firsts = [(i * world + rank) * size for i in range(n)]
        return [collate([dataset[f + j] for j in range(size)]) for f in firsts]

    @property
    def architecture(self) -> TwoStreamArchitecture:
        """What has been decided so far; undecided types are "none", other undecided variables the first candidate."""
        return self.space.decode(self.template)

    def state_dict(self) -> dict[str, Any]:
        """Everything beside weights and optimiser; tensors and plain data."""
        return dict(
            stage=self._epoch,
            in_stage=self._in_stage,
            template=self.template.tolist(),
            strategy=self.strategy.state_dict(),
            journal=self._columns(),
            trajectory=self.trajectory,
            images=self.images,
            dropped=self.dropped,
            judged=self._judged,
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as if never interrupted."""
        self.template = np.array(state["template"])
        self._enter(state["stage"])
        self._in_stage = state["in_stage"]
        self.strategy.load_state_dict(state["strategy"])
        self._journal = [tuple(state["journal"])]
        self.trajectory, self.images = state["trajectory"], state["images"]
        self.dropped, self._judged = state["dropped"], state["judged"]

    def _columns(self) -> list[Tensor]:
        if not self._journal:
            return [torch.empty(0, n, dtype=d) for n, d in ((len(self.template), torch.uint8), (3, int), (4, float))]
        return [torch.cat(parts) for parts in zip(*self._journal, strict=True)]

    def journals(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Every judged architecture, and the trajectory of the distribution."""
        codes, places, numbers = (c.numpy() for c in self._columns())
        journal = pd.DataFrame(
            dict(
                step=places[:, 0],
                stage=[self.stages[i].name for i in places[:, 1]],
                code=list(codes),
                gmacs=numbers[:, 0],
                log_likelihood=numbers[:, 1],
                weight=numbers[:, 2],
                entropy=numbers[:, 3],
                samples=places[:, 2],
            )
        )
        return journal, pd.DataFrame(self.trajectory)
