"""A judge that trains nothing: indicators of the static models of architectures at their initialisation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from autotsnet.search.indicators.ranks import change, rank_sum
from autotsnet.search.indicators.subject import Subject, known, measure, scorable
from autotsnet.search.judges import JUDGES, mean_over_ranks
from autotsnet.space import Space

TEG_NAS = ("kappa", "regions", "error")


def clips_and_labels(model: Any, batch: Any) -> tuple[tuple[Tensor, ...], Tensor]:
    """What the network of a model sees of a batch, ``B C T H W`` for each input, and the labels ``B``."""
    data = model.data_preprocessor(batch, True)
    if "data_samples" in data:  # mmaction2's
        return (data["inputs"].flatten(0, 1),), torch.cat([s.gt_label for s in data["data_samples"]])
    return tuple(model.prepare(data["clips"].flatten(0, 1))), data["label"]


@JUDGES.register_module(name="indicators")
class IndicatorJudge:
    """Indicators of an architecture's static model, combined by ranks.

    Clips are of the held-out half of training, evenly spread over it: one of each pair is for fitting, the other for
    the error of TEG-NAS's regression. No test label is seen. Weights are drawn for each architecture from the same
    seeds; all ranks measure the same. An indicator without a value ranks last; the log names it, ``failed`` counts it.

    Args:
        runner: its model says what a network sees of a batch.
        held_out: the half of the data that the weights do not learn from.
        space: decodes the codes and builds static models.
        names: of indicators; those of TEG-NAS by default.
        combine: ``rank_sum``: minus the sum of ranks among all that was measured. ``change``: TEG-NAS's reward of
            REINFORCE, by the change since the architecture before; finalists are ranked.
        pairs: of clips. TEG-NAS has 64 and 64; the time is in proportion.
        repeats: networks drawn for each architecture; TEG-NAS has 3. Values are means over those that have one.
        scale: of the ranks, ours: nats between the best and the worst of all by one indicator, for FP-NAS's weights.
        num_classes: N; by default the supernet's.
        seed: of weights and draws.

    Attributes:
        failed: by indicator, architectures that it has no value for.
    """

    clips = 1  # behind a score: it is no likelihood of clips

    def __init__(
        self,
        runner: Runner,
        held_out: DataLoader,
        space: Space,
        names: Sequence[str] = TEG_NAS,
        combine: Literal["rank_sum", "change"] = "rank_sum",
        pairs: int = 8,
        repeats: int = 1,
        scale: float = 10.0,
        num_classes: int | None = None,
        seed: int = 0,
    ) -> None:
        self.signs = [one.sign for one in known(names)]
        if combine not in ("rank_sum", "change"):
            raise ValueError(f"combine={combine!r}; known: rank_sum, change")
        self.runner, self.held_out, self.space, self.names, self.combine = runner, held_out, space, names, combine
        self.pairs, self.repeats, self.scale, self.seed = pairs, repeats, scale, seed
        self.num_classes = num_classes or runner.model.net.num_classes
        self.images, self.failed = 0, Counter()
        self._measured: dict[tuple, list[float]] = {}  # by part of the network and code; in the order of measuring
        self._order: list[tuple] = []  # of all that was asked for
        self._batch: tuple[tuple[Tensor, ...], Tensor] | None = None

    def scores(self, codes: Tensor, alone: str | None = None, final: bool = False) -> Tensor:
        """See ``Judge``; -inf while no architecture has had any value. An architecture is measured once."""
        keys, rewards = [(alone, *code) for code in codes.tolist()], []
        for key, code in zip(keys, codes, strict=True):
            if key not in self._measured:
                self._measured[key] = self._measure(code, alone)
            if self.combine == "change" and not final:
                before = self._table(k for k in self._order if k[0] == alone)
                rewards.append(change(self._table([key])[0], before, self.signs))
                self._order.append(key)
        if rewards:
            return torch.tensor(rewards, dtype=torch.float64)
        among = self._table(k for k in self._measured if k[0] == alone)
        scores = -self.scale * rank_sum(self._table(keys), among, self.signs)
        return scores if among.isfinite().any() else torch.full_like(scores, -torch.inf)

    def _table(self, keys: Iterable[tuple]) -> Tensor:
        """What was measured of architectures, ``R I``."""
        rows = [self._measured[key] for key in keys]
        return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(self.names))

    def _measure(self, code: Tensor, alone: str | None) -> list[float]:
        architecture = self.space.decode(code, alone)
        clips, labels = self._clips()
        found: list[dict[str, float]] = []
        for repeat in range(self.repeats):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed + repeat)
                net = self.space.static_model(architecture, self.num_classes).to(labels.device)
            generator = torch.Generator().manual_seed(self.seed + repeat)
            subject = Subject(scorable(net), clips, labels, self.num_classes, generator)
            values, reasons = measure(self.names, subject)
            found.append(values)
            self.images += len(labels)
        table = torch.tensor([[values[name] for name in self.names] for values in found], dtype=torch.float64)
        means = [mean_over_ranks(mean) for mean in table.nanmean(0)]  # equal on all ranks to the last digit
        for name, mean in zip(self.names, means, strict=True):
            if mean != mean:
                self.failed[name] += 1
                why = reasons.get(name, "it is not finite")
                print_log(f"{architecture.hash}: {name} ranks last, {why}", "current", 30)
        return means

    def _clips(self) -> tuple[tuple[Tensor, ...], Tensor]:
        """The first call takes them; a resumed search takes the same."""
        if self._batch is None:
            dataset = self.held_out.dataset
            picks = torch.linspace(0, len(dataset) - 1, 2 * self.pairs).long().tolist()
            batch = self.held_out.collate_fn([dataset[i] for i in picks])
            self._batch = clips_and_labels(self.runner.model, batch)
        return self._batch

    def state_dict(self) -> dict[str, Any]:
        """See ``Judge``."""
        rows = [[*key, values] for key, values in self._measured.items()]
        order = [list(key) for key in self._order]
        return dict(measured=rows, order=order, images=self.images, failed=dict(self.failed))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Judge``."""
        self._measured = {tuple(key): values for *key, values in state["measured"]}
        self._order = [tuple(key) for key in state["order"]]
        self.images, self.failed = state["images"], Counter(state["failed"])
