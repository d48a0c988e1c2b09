"""FP-NAS and PARSEC: one engine over a distribution of architectures.

FP-NAS (arXiv 2011.10949) samples fewer architectures as the distribution sharpens, and starts factorised
before it turns joint. PARSEC (arXiv 1902.05116) is the same engine at a fixed number of samples, joint from
the start, without a cost term; :func:`parsec_options` sets these options.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from autotsnet.search.distribution import ArchitectureDistribution
from autotsnet.search.encoding import Cost
from autotsnet.search.estimator import Likelihood, adaptive_samples, alpha_loss, importance_weights, temperature_of
from autotsnet.search.strategies import Archive, distinct
from autotsnet.space import Blocks


@dataclass(frozen=True)
class FPNASOptions:
    """What the papers state, what they leave open, and three additions of ours.

    With ``beta_rate=0, center=False, anneal=None`` the update is FP-NAS's eq. 7 and nothing else. The effect of each
    addition on a space with a known optimum is in ``results/studies/planted.json``.

    Attributes:
        lr: step of Adam on alpha. 0.025 is Auto-X3D's (arXiv 2112.04710, supplementary); FP-NAS's is unknown. Adam
            moves a logit by at most about lr per step, and a categorical is decided after a move of about ten: a
            search of few thousand steps or less needs 0.05 to 0.1.
        adam_betas: unknown; torch's defaults.
        lam: samples per nat of entropy; stated, 1/4.
        min_samples: unknown; 2, because a single sample always has weight 1 and ranks nothing.
        fixed_samples: K of every step in place of the adaptive one; PARSEC: 16 on DARTS's space, 14 in FP-NAS's
            comparison, both stated.
        joint_from: alpha step at which the distribution turns joint (theta; stated as epoch 80 of a search whose
            length is unknown). 0: joint from the start; None: factorised to the end.
        adam_at_switch: unknown. ``"fresh"``: the joint logits start with empty moments, because a combination's
            gradient is not a function of its variables' moments. ``"carry"``: first and second moments of a
            combination are the sums over its variables, a guess that skips Adam's restart.
        beta: weight of the cost term, at the start; unknown. Above 1, a pair of samples prefers the one in the budget
            whatever the likelihoods are, hence 1.5.
        beta_rate: ours. After each step beta is multiplied by exp(rate * (mean GMACs / target - 1)), so that
            sampled architectures cost the target on average. With a constant beta they are over the budget, or far
            below it while the expensive decisions are taken. 0: constant, as in the paper.
        beta_range: ours; limits of beta.
        center: ours. Subtract 1/K, the mean of the likelihood part of the weights, in the gradient: same expectation
            (score function), less variance. The cost part is not centred: its mean depends on the samples.
        entropy_weight: ours. Adds ``-weight * H(P)`` to the loss, so that a choice between candidates that the samples
            do not yet separate stays open; falls linearly to 0 over ``anneal`` steps.
        anneal: ours. Steps until the entropy weight is 0, normally the length of the search; None: no entropy term.
        likelihood: see :func:`~autotsnet.search.estimator.temperature_of`; unknown. "sum" is the likelihood of the
            formula; with "mean" the weights of K networks that differ by tenths of a nat are almost equal.
        warmup: alpha steps without an update, until the shared weights can judge; Auto-X3D: the first third of its
            epochs (stated), FP-NAS: unknown. Counted in calls of ``tell``; all other steps count from its end.
    """

    lr: float = 0.025
    adam_betas: tuple[float, float] = (0.9, 0.999)
    lam: float = 0.25
    min_samples: int = 2
    fixed_samples: int | None = None
    joint_from: int | None = 500
    adam_at_switch: Literal["fresh", "carry"] = "fresh"
    beta: float = 1.5
    beta_rate: float = 0.02
    beta_range: tuple[float, float] = (1.0, 20.0)
    center: bool = True
    entropy_weight: float = 0.3
    anneal: int | None = None
    likelihood: Likelihood = "sum"
    warmup: int = 0


def parsec_options(samples: int = 16, **options: Any) -> FPNASOptions:
    """PARSEC as options of the same engine: fixed K, joint from the start; by default no cost term and no addition.

    Args:
        samples: K.
        options: any other field of :class:`FPNASOptions`.
    """
    plain = {"beta": 0.0, "beta_rate": 0.0, "center": False}
    return FPNASOptions(fixed_samples=samples, joint_from=0, **{**plain, **options})


class FromDistribution:
    """What a strategy answers by its ``distribution`` over codes, their ``cost`` and its ``target``."""

    distribution: ArchitectureDistribution
    cost: Cost
    target: float | None

    def best(self) -> Tensor:
        """The most probable architecture, ``M``, that is in the budget; see :func:`most_probable_in_budget`.

        Raises:
            ValueError: no single move makes the architecture cheaper and it is still over budget.
        """
        return most_probable_in_budget(self.distribution, self.cost, self.target)

    @torch.no_grad()
    def draws(self, num: int, generator: torch.Generator) -> Tensor:
        """:meth:`best` and draws from the distribution, the most probable first."""
        codes = distinct(torch.cat([self.best()[None], self.distribution.sample(num, generator)]))
        return codes[self.distribution.log_prob(codes).argsort(descending=True, stable=True)]

    def marginals(self) -> list[Tensor]:
        """Probabilities of each variable's candidates."""
        return self.distribution.marginals()


class FPNAS(FromDistribution):
    """Ask for architectures, tell their log-likelihoods; each tell moves alpha.

    Args:
        blocks: the space.
        cost: of encoded architectures, ``K M`` to ``K``, in the unit of the budget.
        target: budget; None searches without one.
        options: options of the update.
        seed: of the architectures drawn; ranks with the same seed draw the same ones.
    """

    def __init__(
        self,
        blocks: Blocks,
        cost: Cost,
        target: float | None,
        options: FPNASOptions | None = None,
        seed: int = 0,
    ) -> None:
        """Start with a uniform distribution."""
        self.options = options or FPNASOptions()
        self.cost, self.target = cost, target
        self.generator = torch.Generator().manual_seed(seed)
        self.distribution = ArchitectureDistribution(blocks, joint=self.options.joint_from == 0)
        self._adam = self._new_adam()
        self.beta = self.options.beta
        self.steps = self.samples = self.dropped = 0
        self._expected_gmacs = float("nan")
        self._archive = Archive(target)

    @property
    def num_samples(self) -> int:
        """K of the next step."""
        if self.options.fixed_samples is not None:
            return self.options.fixed_samples
        entropy = self.distribution.entropy().item()
        return adaptive_samples(entropy, lam=self.options.lam, minimum=self.options.min_samples)

    def ask(self) -> Tensor:
        """Architectures to judge next, ``K M``; K is the strategy's choice."""
        return self.distribution.sample(self.num_samples, self.generator)

    def tell(self, codes: Tensor, log_likelihood: Tensor, gmacs: Tensor, num_clips: int) -> Tensor:
        """Learn from judged architectures: one step of alpha, unless in warm-up.

        Args:
            codes: from :meth:`ask`, ``K M``.
            log_likelihood: means per clip on held-out data, ``K``, reduced over ranks; not finite: sample
                failed.
            gmacs: ``K``.
            num_clips: clips behind each log-likelihood, over all ranks.

        Returns:
            The weights m_k, ``K``, for the journal.

        Raises:
            AllSamplesFailedError: every sample failed; alpha has not moved.
        """
        options = self.options
        weights = importance_weights(
            log_likelihood,
            gmacs,
            target=self.target,
            beta=self.beta,
            temperature=temperature_of(options.likelihood, num_clips),
        )
        finite = log_likelihood.isfinite()
        self.steps += 1
        self.samples += len(codes)
        self.dropped += int((~finite).sum())
        self._expected_gmacs = gmacs[finite].double().mean().item()
        self._archive.update(codes, log_likelihood, gmacs)
        step = self.steps - options.warmup
        if step > 0:
            self._update_alpha(codes[finite], weights[finite], step)
            if self.target is not None and options.beta_rate:
                low, high = options.beta_range
                grown = self.beta * math.exp(options.beta_rate * (self._expected_gmacs / self.target - 1))
                self.beta = min(max(grown, low), high)
        if step == options.joint_from and not self.distribution.joint:
            self._turn_joint()
        return weights

    def _update_alpha(self, codes: Tensor, weights: Tensor, step: int) -> None:
        options = self.options
        if options.center:
            weights = weights - 1 / len(weights)
        self._adam.zero_grad()
        loss = alpha_loss(self.distribution.log_prob(codes), weights)
        if options.anneal is not None and step < options.anneal:
            left = 1 - step / options.anneal
            loss = loss - left * options.entropy_weight * self.distribution.entropy()
        loss.backward()
        self._adam.step()

    def finalists(self, num: int = 32) -> Tensor:
        """:meth:`best` and the likeliest other in-budget architectures told so far, ``K M``, K at most ``num``.

        Ours: a likelihood told during the search is of one batch, under the weights of that step. Judge these few
        once more on all held-out data under the final weights, and take the likeliest.
        """
        best = self.best()
        others = [code for code in self._archive.codes() if not torch.equal(code, best)]
        return torch.stack([best, *others[: num - 1]])

    def stats(self) -> dict[str, float]:
        """For the log: entropy in nats, next K, beta, mean GMACs of the last samples, best so far, counts."""
        return {
            **self._archive.stats(),
            "beta": self.beta,
            "entropy": self.distribution.entropy().item(),
            "num_samples": self.num_samples,
            "expected_gmacs": self._expected_gmacs,
            "samples": self.samples,
            "dropped": self.dropped,
            "joint": float(self.distribution.joint),
        }

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data only: loads under ``torch.load(weights_only=True)``."""
        return {
            "alpha": self.distribution.alpha.detach().clone(),
            "joint": self.distribution.joint,
            "adam": self._adam.state_dict(),
            "generator": self.generator.get_state(),
            "steps": self.steps,
            "samples": self.samples,
            "dropped": self.dropped,
            "expected_gmacs": self._expected_gmacs,
            "beta": self.beta,
            "archive": self._archive.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as if never interrupted."""
        self.distribution = ArchitectureDistribution(self.distribution.blocks, joint=state["joint"])
        self.distribution.load_state_dict({"alpha": state["alpha"]})
        self._adam = self._new_adam()
        self._adam.load_state_dict(state["adam"])
        self.generator.set_state(state["generator"])
        self.steps, self.samples, self.dropped = state["steps"], state["samples"], state["dropped"]
        self._expected_gmacs, self.beta = state["expected_gmacs"], state["beta"]
        self._archive.load_state_dict(state["archive"])

    def _new_adam(self) -> torch.optim.Adam:
        return torch.optim.Adam(
            [self.distribution.alpha], lr=self.options.lr, betas=self.options.adam_betas, foreach=False
        )

    def _turn_joint(self) -> None:
        coarse, moments = self.distribution, self._adam.state.get(self.distribution.alpha, {})
        self.distribution = coarse.to_joint()
        self._adam = self._new_adam()
        if self.options.adam_at_switch == "carry" and moments:
            alpha = self.distribution.alpha
            self._adam.state[alpha] = {
                "step": moments["step"].clone(),
                **{name: coarse.spread(moments[name]) for name in ("exp_avg", "exp_avg_sq")},
            }


def most_probable_in_budget(distribution: ArchitectureDistribution, cost: Cost, target: float | None) -> Tensor:
    """The mode of the distribution or, where that is over budget, an in-budget architecture near it, ``M``.

    Greedy: while over budget, take the best change of one categorical. That is the most probable one that
    lands in the budget, or else the one that saves most GMACs per nat of log-probability lost.

    Raises:
        ValueError: over budget, and no change of one categorical saves anything.
    """
    code = distribution.mode()
    gmacs = cost(code[None]).item()
    while target is not None and gmacs > target:
        moves = distribution.one_row_moves(code)
        with torch.no_grad():
            log_p, here = distribution.log_prob(moves), distribution.log_prob(code[None])
        prices = cost(moves).double()
        if (prices <= target).any():
            return moves[log_p.masked_fill(prices > target, -torch.inf).argmax()]
        saved = gmacs - prices
        if not (saved > 0).any():
            raise ValueError(f"target of {target:g} GMACs is below the space: {gmacs:g} cannot be reduced further")
        # After other moves, a move may even gain probability: it is then free.
        per_nat = saved / (here - log_p).clamp(min=1e-9)
        pick = per_nat.masked_fill(saved <= 0, -torch.inf).argmax()
        code, gmacs = moves[pick], prices[pick].item()
    return code
