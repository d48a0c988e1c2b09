"""Judges: they score encoded architectures. Other packages add theirs to the registry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import cached_property
from typing import Any, Protocol

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from autotsnet.plugins import OpenRegistry
from autotsnet.search.batches import clips_in, endless, split
from autotsnet.space import Space

JUDGES = OpenRegistry("judge", "judges")


class Judge(Protocol):
    """What a strategy learns from.

    The loop builds it from ``dict(type=name, …)`` and adds ``runner``, ``held_out`` and ``space``.

    Attributes:
        clips: held-out clips behind each score of the last call, over all ranks; 1 where a score needs none.
        images: clips that passed a network for scores.
    """

    clips: int
    images: int

    def scores(self, codes: Tensor, alone: str | None = None, final: bool = False) -> Tensor:
        """Mean log-likelihood per clip of complete architectures ``K M``: ``K``, equal on all ranks.

        Args:
            codes: of the whole space.
            alone: the only part of the network that exists, see ``Stage``.
            final: the codes are candidates for the end of a stage and are judged with more care.

        Returns:
            Log-likelihoods; not finite where the architecture failed.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue; tensors and plain data only."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as if never interrupted."""
        ...


def mean_over_ranks(value: Tensor) -> float:
    """A scalar's mean over all ranks."""
    value = value.clone()
    all_reduce(value, "mean")
    return value.item()


def bare(model: nn.Module) -> nn.Module:
    """The model itself, where mmengine's launcher has wrapped it for several ranks.

    The wrapper has no part in a search: the loop averages gradients, of the parameters that a subnet uses.
    """
    return model.module if is_model_wrapper(model) else model


def subnet_losses(runner: Runner, batch: Any, architecture: Any, sub_batch: int | None) -> Iterator[Tensor]:
    """Parts of the mean loss of a subnet on a batch, one per pass of ``sub_batch`` clips; their sum is the loss."""
    model, clips = bare(runner.model), clips_in(batch)
    for part in split(batch, sub_batch or clips):
        data = model.data_preprocessor(part, True)
        with runner.optim_wrapper.optim_context(model):
            loss = model(**data, mode="loss", architecture=architecture)["loss"]
        yield loss * (clips_in(part) / clips)


@JUDGES.register_module(name="supernet")
class SupernetJudge:
    """Held-out log-likelihood under the shared weights: on one batch per step, on several for finalists.

    Args:
        runner: its model holds the supernet as ``net``.
        held_out: the half of the data that the weights do not learn from.
        space: decodes the codes.
        sub_batch: clips per pass.
        batches: number of batches for finalists.
        fixed: all architectures are judged on these batches, not each step's on one of its own.
    """

    def __init__(
        self,
        runner: Runner,
        held_out: DataLoader,
        space: Space,
        sub_batch: int | None = None,
        batches: int = 4,
        fixed: bool = False,
    ) -> None:
        self.runner, self.held_out, self.space = runner, held_out, space
        self.sub_batch, self.batches, self.fixed = sub_batch, batches, fixed
        self.clips = self.images = 0
        self._drawn = 0  # batches
        self._stream: Iterator | None = None

    @torch.no_grad()
    def scores(self, codes: Tensor, alone: str | None = None, final: bool = False) -> Tensor:
        """See ``Judge``. Finalists run on the first channels, as the found network does."""
        batches = self._first if final or self.fixed else [self._next()]
        per_batch = [clips_in(b) * get_world_size() for b in batches]
        self.clips, self.images = sum(per_batch), self.images + sum(per_batch) * len(codes)
        net, architectures = bare(self.runner.model).net, [self.space.decode(code, alone) for code in codes]
        losses = torch.zeros(len(codes), len(batches))
        with net.prefix_windows() if final else nullcontext():
            order = net.order(architectures)
            for b, batch in enumerate(batches):
                for part in split(batch, self.sub_batch or clips_in(batch)):
                    with net.common_parts():
                        for i in order:
                            (loss,) = subnet_losses(self.runner, part, architectures[i], None)
                            losses[i, b] += loss.cpu() * (clips_in(part) / clips_in(batch))
        return torch.tensor([-sum(map(mean_over_ranks, row)) / len(batches) for row in losses], dtype=torch.float64)

    def _next(self) -> Any:
        """The next batch of the stream."""
        if self._stream is None:
            self._stream = endless(self.held_out, self._drawn)
        self._drawn += 1
        return next(self._stream)

    @cached_property
    def _first(self) -> list[Any]:
        """The first batches of the data set, split over the ranks; a resumed search takes the same ones."""
        dataset, size = self.held_out.dataset, self.held_out.batch_size
        rank, world = get_rank(), get_world_size()
        firsts = [(i * world + rank) * size for i in range(self.batches)]
        return [self.held_out.collate_fn([dataset[f + j] for j in range(size)]) for f in firsts]

    def state_dict(self) -> dict[str, Any]:
        """See ``Judge``."""
        return dict(drawn=self._drawn, images=self.images)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Judge``."""
        self._drawn, self.images, self._stream = state["drawn"], state["images"], None
