"""The search as an mmengine loop: stage by stage, each resumable at any step.

Stated by the paper (arXiv 2108.12957): streams first, then fusion, then attention. Stage 1 here searches each stream
alone under its share of the budget; the next stage freezes what it decided. The other choices are ours, each an option.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.runner import BaseLoop, Runner
from torch import Tensor

from autotsnet.registry import LOOPS
from autotsnet.search.batches import clips_in, endless
from autotsnet.search.constraint import CONSTRAINTS, Constraint
from autotsnet.search.encoding import Cost, Restriction
from autotsnet.search.estimator import AllSamplesFailedError, ImportanceAccumulator, temperature_of
from autotsnet.search.fpnas import FPNAS, FPNASOptions, parsec_options
from autotsnet.search.indicators import IndicatorJudge as IndicatorJudge  # registers it
from autotsnet.search.judges import JUDGES, Judge, SupernetJudge, bare, mean_over_ranks, subnet_losses
from autotsnet.search.reinforce import Reinforce
from autotsnet.search.strategies import Evolution, EvolutionOptions, RandomSearch, Strategy, distinct
from autotsnet.space import Product, Space, Stage, space_of


class SearchError(ValueError):
    """The search cannot start or go on; the message says why and the way out."""


@dataclass(frozen=True)
class SearchOptions:
    """What the papers leave open about the search as a whole.

    Attributes:
        strategy: ``fpnas``, ``parsec``, ``reinforce``, ``random`` or ``evolution``, the same stages for each.
        fpnas: options of ``fpnas``; ``parsec`` takes its lr and likelihood. ``joint_from`` and
            ``anneal`` are set by ``theta`` and the stage's length.
        theta: share of a stage's steps after which its distribution turns joint; FP-NAS turned at epoch 80 of an
            unknown number. None: never.
        batch: architectures per step of ``random`` and ``evolution``.
        stream_share: share of the budget for both streams together, before fusion and attention; 0.85 because the most
            expensive fusions and attentions of the presets cost about a seventh of a network of median streams.
        fusion_share: share of the budget before attention.
        warmup: steps of each stage's warm-up; Auto-X3D warms up for the first third of its search.
        steps: steps of each stream's stage after its warm-up; the space of a stream is the largest.
        type_steps: steps of the fusion and of the attention stage, which have few variables.
        progressive: False searches all variables at once for as many steps as the stages have together: the ablation.
        frozen: train, then search: the warm-up trains the shared weights on architectures drawn uniformly from those
            that use the budget; after it they stay as they are, and a step only judges, always on the same
            ``judge_batches`` batches. Not ``progressive``: later stages have weights of their own.
        sub_batch: clips per pass: batch norm's statistics are over them, and a step holds the activations of one pass.
            None: all clips of a rank in one pass.
        finalists: candidates judged once more at the end of a stage.
        use_budget: least share of a stage's budget that finalists use, if any candidate does; 0: no limit.
        draws: number of draws of the strategy among the candidates.
        judge_batches: held-out batches that finalists are judged on.
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
    frozen: bool = False
    sub_batch: int | None = None
    finalists: int = 8
    use_budget: float = 0.95
    draws: int = 20_000
    judge_batches: int = 4

    @classmethod
    def of(cls, options: SearchOptions | dict | None) -> SearchOptions:
        """Options from a config of nested dicts; absent fields have their defaults.

        Raises:
            SearchError: an unknown option; the message lists the known ones.
        """
        if not isinstance(options, dict):
            return options or cls()
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in options if name not in known]:
            raise SearchError(f"unknown option {', '.join(unknown)} of a search; known: {', '.join(known)}")
        return cls(**{**options, "fpnas": FPNASOptions(**options.get("fpnas", {}))})


def _strategy(options: SearchOptions, domain: Product, cost: Cost, target: float, steps: int, seed: int) -> Strategy:
    fpnas = options.fpnas
    if options.strategy == "fpnas":
        joint_from = None if options.theta is None else round(options.theta * steps)
        return FPNAS(domain.blocks, cost, target, replace(fpnas, anneal=steps, joint_from=joint_from), seed)
    if options.strategy == "parsec":
        return FPNAS(domain.blocks, cost, target, parsec_options(lr=fpnas.lr, likelihood=fpnas.likelihood), seed)
    if options.strategy == "random":
        return RandomSearch(domain, cost, target, options.batch, seed)
    if options.strategy == "evolution":
        population = min(100, max(4, steps * options.batch // 8))  # 100 in the paper; less in a short search
        evolution = EvolutionOptions(population, tournament=max(2, population // 4))
        return Evolution(domain, cost, target, evolution, options.batch, seed)
    if options.strategy == "reinforce":
        return Reinforce(domain.blocks, cost, target, seed=seed)
    raise SearchError(f"unknown strategy {options.strategy!r}; known: fpnas, parsec, reinforce, random, evolution")


@LOOPS.register_module()
class ProgressiveSearchLoop(BaseLoop):
    """Search a space with shared weights under a budget.

    The runner's model holds a supernet as ``net`` and is called as ``model(**batch, mode="loss", architecture=...)``.
    Each step draws K architectures; all are judged on one held-out batch (forward passes, for the strategy) and trained
    on one training batch (importance-weighted, for the shared weights). All ranks draw the same architectures;
    likelihoods and gradients are averaged over ranks. Batches have any form that the model's ``data_preprocessor``
    takes.

    Args:
        runner: mmengine's; its optim_wrapper trains the shared weights.
        dataloader: training half, or its config.
        held_out: the other half, or its config.
        space: the space, its registered name or its config.
        num_classes: N.
        gmacs: the budget per view; or
        constraint: any other limit, or its config: ``dict(type="runtime", ratio=1.0, reference=dict(...))``.
        judge: what candidates are worth, or its config; by default the held-out likelihood under the shared weights.
        options: ``SearchOptions``, or a dict of its fields.
        seed: of the strategy.

    Raises:
        SearchError: the budget is outside of what the space can cost, and the message says the range; the stages of the
            space leave a variable out, and the message names it; or a stage has no variable or no step.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader,
        *,
        held_out,
        space: Space | str | dict,
        num_classes: int,
        gmacs: float | None = None,
        constraint: Constraint | dict | None = None,
        judge: Judge | dict | None = None,
        options: SearchOptions | dict | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(runner, dataloader)
        if isinstance(held_out, dict):
            held_out = runner.build_dataloader(held_out, seed=runner.seed)
        self.space, self.seed = space_of(space), seed
        self.options = SearchOptions.of(options)
        if (gmacs is None) == (constraint is None):
            raise SearchError(f"gmacs={gmacs}, constraint={constraint}: give a search one of them")
        constraint = constraint or dict(type="gmacs", limit=gmacs)
        if isinstance(constraint, dict):
            constraint = CONSTRAINTS.build(dict(constraint, space=self.space, num_classes=num_classes))
        self.constraint = constraint
        of_judge = dict(sub_batch=self.options.sub_batch, batches=self.options.judge_batches, fixed=self.options.frozen)
        judge = judge or dict(type=SupernetJudge, **of_judge)
        if isinstance(judge, dict):
            judge = JUDGES.build(dict(judge, runner=runner, held_out=held_out, space=self.space))
        self.judge = judge
        self.stages = self.space.stages(self.options, num_classes)
        self._check()
        self._iter = self._epoch = 0
        self.stop_training = False
        self.template = torch.zeros_like(self.space.counts)  # types start as "none"
        self._code_type = torch.uint8 if self.space.counts.max() <= 256 else torch.int64  # of codes in the journal
        # per step: codes K M; step, stage, K; cost, log-likelihood, weight, entropy
        self._journal: list[tuple[Tensor, Tensor, Tensor]] = []
        self.trajectory: list[dict[str, Any]] = []
        self._trained = 0  # clips that passed a network with backward
        self.dropped = 0  # samples of the weights' pass whose loss was not finite
        self._enter(0)

    def _check(self) -> None:
        """Refuse stages that leave a variable out or search nothing, and a budget that no architecture can meet."""
        decided = {name for stage in self.stages for name in stage.decides}
        if missed := [v for v in self.space.variables if v.stage not in decided]:
            raise SearchError(
                f"no stage of space {self.space.name!r} decides {', '.join(v.name for v in missed)}; its stages decide "
                f"{', '.join(sorted(decided))}: add {', '.join(sorted({v.stage for v in missed}))} to one"
            )
        for stage in self.stages:
            named = f"stage {stage.name!r} of space {self.space.name!r}"
            searched = {v.block for v in self.space.variables if v.stage in stage.decides}
            if not searched:
                raise SearchError(f"{named} decides no variable: none belongs to {', '.join(stage.decides) or 'it'}")
            if torn := [v for v in self.space.variables if v.block in searched and v.stage not in stage.decides]:
                raise SearchError(
                    f"{named} decides a part of block {torn[0].block!r} only, without {torn[0].name}; give the "
                    "variables of a block one stage"
                )
            if stage.warmup < 0 or stage.steps < 1:
                raise SearchError(f"{named} has {stage.steps} steps after {stage.warmup} of warm-up; give at least one")
        if self.options.frozen and len(self.stages) > 1:
            raise SearchError(
                "frozen=True trains the weights of all variables before the search; set progressive=False"
            )
        limit, unit = self.constraint.limit, self.constraint.unit
        low, high = self.constraint.range()
        if not low <= limit <= high:
            raise SearchError(
                f"a budget of {limit:g} {unit} is outside of space {self.space.name!r}, whose architectures cost "
                f"{low:.3g} to {high:.3g}; choose another budget or preset"
            )
        for stage in self.stages:
            least = self.constraint.range(stage.alone)[0]
            if stage.share * limit < least:
                raise SearchError(
                    f"a budget of {limit:g} {unit} leaves {stage.share * limit:.3g} to stage {stage.name!r}, whose "
                    f"cheapest architecture costs {least:.3g}; choose at least {least / stage.share:.3g}"
                )

    iter = property(lambda self: self._iter)
    epoch = property(lambda self: self._epoch)
    max_epochs = property(lambda self: len(self.stages))
    max_iters = property(lambda self: sum(s.warmup + s.steps for s in self.stages))

    def _enter(self, index: int) -> None:
        """Set up a stage: which blocks it searches, what they cost, and its strategy."""
        self._epoch, self._in_stage = index, 0
        stage = self.stage
        blocks, variables, start, searched = self.space.blocks(), self.space.variables, 0, []
        for i, block in enumerate(blocks):
            if variables[start].stage in stage.decides:
                searched.append(i)
            start += len(block)
        self.restriction = Restriction(blocks, tuple(searched), tuple(self.template.tolist()))
        self.target = stage.share * self.constraint.limit
        domain, number = self.restriction.domain, self.seed * 101 + index
        self.strategy = _strategy(self.options, domain, self._cost, self.target, stage.steps, number)

    def _cost(self, codes: Tensor) -> Tensor:
        return self.constraint.cost(self.restriction.expand(codes), self.stage.alone)

    @property
    def stage(self) -> Stage:
        """The current stage."""
        return self.stages[self._epoch]

    @property
    def images(self) -> int:
        """Clips that passed a network, forward only or with backward."""
        return self._trained + self.judge.images

    def decode(self, code: Tensor) -> Any:
        """The architecture that a code of the current stage is run as."""
        return self.space.decode(self.restriction.expand(code[None])[0], self.stage.alone)

    def run(self) -> torch.nn.Module:
        """Search from the current step to the end."""
        runner = self.runner
        runner.call_hook("before_train")
        train_batches = endless(self.dataloader, self._iter)
        runner.call_hook("before_train_epoch")
        while self._iter < self.max_iters and not self.stop_training:
            train = next(train_batches)
            runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=train)
            outputs = self.step(train)
            self._in_stage += 1
            if self._in_stage == self.stage.warmup + self.stage.steps:
                self._leave()
            runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=train, outputs=outputs)
            self._iter += 1
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")
        return runner.model

    def step(self, train: Any) -> dict[str, Tensor | float]:
        """One step: the weights on a training batch, then, after the warm-up, the strategy on the judge's scores."""
        runner, strategy, options = self.runner, self.strategy, self.options
        runner.model.train()
        number = self.seed * 1_000_003 + self._iter
        bare(runner.model).net.reseed(number)  # a function of the step, equal on all ranks
        warming = self._in_stage < self.stage.warmup
        if options.frozen:
            if not warming:
                return self._judged_step()
            codes = self._near_budget(torch.Generator().manual_seed(number))
        else:
            codes = strategy.ask()[:1] if warming else strategy.ask()
        clips = clips_in(train) * get_world_size()
        runner.optim_wrapper.zero_grad()
        parameters = list(runner.model.parameters())
        step = ImportanceAccumulator(parameters, temperature_of(options.fpnas.likelihood, clips))
        losses = []
        for code in codes:
            parts = subnet_losses(runner, train, self.decode(code), options.sub_batch)
            losses.append(step.backward(parts, mean_over_ranks))
        try:
            step.finish()
            self.dropped += step.dropped
            self._reduce_gradients(parameters)
            runner.optim_wrapper.step()
            self._trained += clips * len(codes)
            if not warming:
                self._learn(codes)
        except AllSamplesFailedError as error:
            raise self._failed(error) from error
        return self._outputs(losses)

    def _judged_step(self) -> dict[str, Tensor | float]:
        """One step of the strategy; the weights stay as they are."""
        try:
            return self._outputs((-self._learn(self.strategy.ask())).tolist())
        except AllSamplesFailedError as error:
            raise self._failed(error) from error

    def _learn(self, codes: Tensor) -> Tensor:
        """Let the strategy learn from the judge's scores, and return these."""
        judged, costs = self._scores(codes), self._cost(codes)
        self._note(codes, judged, costs, self.strategy.tell(codes, judged, costs, self.judge.clips))
        return judged

    def _near_budget(self, generator: torch.Generator) -> Tensor:
        """An architecture drawn uniformly from those that use the stage's budget, ``1 M``."""
        for _ in range(1000):
            codes = self.restriction.domain.sample(256, generator)
            share = self._cost(codes) / self.target
            near = codes[(share >= self.options.use_budget) & (share <= 1)]
            if len(near):
                return near[:1]
        raise SearchError(
            f"none of 256,000 architectures costs {self.options.use_budget:.0%} to 100 % of {self.target:.4g} "
            f"{self.constraint.unit}; choose a smaller use_budget"
        )

    def _failed(self, error: Exception) -> SearchError:
        last = Path(self.runner.work_dir, "last.pth")
        way_out = f"the last good checkpoint is {last}" if last.exists() else "there is no checkpoint yet"
        return SearchError(f"stage {self.stage.name}, step {self._in_stage}: {error}; {way_out}")

    def _outputs(self, losses: list[float]) -> dict[str, Tensor | float]:
        strategy = self.strategy
        finite = [x for x in losses if math.isfinite(x)]
        numbers = {k: v for k, v in strategy.stats().items() if v == v}
        numbers |= dict(stage=float(self._epoch), dropped=strategy.dropped + self.dropped)
        return dict(loss=torch.tensor(sum(finite) / len(finite)), **numbers)

    def _scores(self, codes: Tensor, final: bool = False) -> Tensor:
        return self.judge.scores(self.restriction.expand(codes), self.stage.alone, final)

    @staticmethod
    def _reduce_gradients(parameters: list[torch.nn.Parameter]) -> None:
        if get_world_size() > 1:
            for p in parameters:  # the same on every rank: the subnets that ran decide which gradients exist
                if p.grad is not None:
                    all_reduce(p.grad, "mean")

    def _note(self, codes: Tensor, judged: Tensor, costs: Tensor, weights: Tensor) -> None:
        entropy = self.strategy.stats().get("entropy", math.nan)
        numbers = torch.stack([costs.double(), judged.double(), weights.double(), torch.full_like(judged, entropy)], 1)
        places = torch.tensor([[self._iter, self._epoch, len(codes)]]).repeat(len(codes), 1)
        self._journal.append((self.restriction.expand(codes).to(self._code_type), places, numbers))
        last = self._in_stage + 1 == self.stage.warmup + self.stage.steps
        if last or self._in_stage % 10 == 0:
            here = dict(step=self._iter, stage=self.stage.name)
            for i, p in zip(self.restriction.variables, self.strategy.marginals(), strict=False):  # may be empty
                self.trajectory.append(here | dict(variable=self.space.variables[i].name, probabilities=p.tolist()))

    def _leave(self) -> None:
        """Judge the finalists once more, freeze the likeliest, go on to the next stage."""
        finalists = self._finalists()
        judged = self._scores(finalists, final=True)
        chosen = finalists[int(judged.nan_to_num(nan=-math.inf).argmax())]
        self.template = self.restriction.expand(chosen[None])[0]
        self.runner.logger.info(
            f"stage {self.stage.name}: {self.decode(chosen).hash}, {self._cost(chosen[None]).item():.4g} of "
            f"{self.target:.4g} {self.constraint.unit}, held-out loss {-judged.max():.3f}"
        )
        if self._epoch + 1 < len(self.stages):
            self._enter(self._epoch + 1)

    def _finalists(self) -> Tensor:
        """Candidates for the end of the stage, K m; only those that use the budget, if there are any.

        With a distribution, half are its most probable ones and half the likeliest that the stage has judged. Other
        strategies end with the likeliest, filled up with draws. Without the rule on the budget, a short search with a
        hinge cost ends far below the budget: its network is scaled up afterwards and is then not the one that was
        judged. The rule is the same for all strategies.
        """
        n = self.options.finalists
        proposed = self.strategy.draws(self.options.draws, torch.Generator().manual_seed(self.seed))
        codes = torch.cat([proposed, self._likeliest()])
        costs = self._cost(codes)
        fits = costs <= self.target
        uses = fits & (costs >= self.options.use_budget * self.target)
        keep = uses if uses.any() else fits
        likely = codes[len(proposed) :][keep[len(proposed) :]][:n]
        proposed = proposed[keep[: len(proposed)]][: 2 * n]
        share = n // 2 if self.strategy.marginals() else n
        first = n - min(share, len(likely))
        return distinct(torch.cat([proposed[:first], likely, proposed[first:]]))[:n]

    def _likeliest(self) -> Tensor:
        """The architectures that the stage has judged, K m: likeliest first, each once, by the last likelihood."""
        codes, places, numbers = self._columns()
        here = (places[:, 1] == self._epoch) & numbers[:, 1].isfinite()
        last = dict(zip(map(tuple, codes[here].tolist()), numbers[here, 1].tolist(), strict=True))
        ranked = sorted(last, key=lambda code: -last[code])
        return self.restriction.restrict(torch.tensor(ranked, dtype=torch.long).reshape(-1, codes.shape[1]))

    @property
    def architecture(self) -> Any:
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
            trained=self._trained,
            dropped=self.dropped,
            judge=self.judge.state_dict(),
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as if never interrupted."""
        self.template = torch.tensor(state["template"])
        self._enter(state["stage"])
        self._in_stage = state["in_stage"]
        self.strategy.load_state_dict(state["strategy"])
        self._journal = [tuple(state["journal"])]
        self.trajectory, self._trained = state["trajectory"], state["trained"]
        self.dropped = state["dropped"]
        self.judge.load_state_dict(state["judge"])

    def _columns(self) -> list[Tensor]:
        if not self._journal:
            types = (len(self.template), self._code_type), (3, int), (4, float)
            return [torch.empty(0, n, dtype=d) for n, d in types]
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
