"""The PV-NAS-style search as an mmengine loop: one half of the data for weights, the other for the distribution."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from mmengine.runner import BaseLoop, Runner

from autotsnet.registry import LOOPS
from baselines.pvnas.gradient import DiverseRates, GradientSearch

COLUMNS = ("loss", "held_out_loss", "gmacs", "diversity", "entropy")  # the last three expected of the networks drawn


@LOOPS.register_module()
class GradientSearchLoop(BaseLoop):
    """Each step trains the weights on one path and, after the warm-up, the distribution on another one.

    Args:
        runner: its model wraps a ``PVNet`` in which each block has all candidates.
        dataloader: for the weights, over a stream.
        held_out: for the distribution, over a stream.
        search: the distribution.
        passes: number of passes per step; the wrapper's ``accumulative_counts``.
        rates: learning rates of both, and the number of steps of the warm-up and in all.
    """

    def __init__(
        self, runner: Runner, dataloader, *, held_out, search: GradientSearch, rates: DiverseRates, passes: int = 1
    ) -> None:
        super().__init__(runner, dataloader)
        self.held_out, self.search, self.rates, self.passes = held_out, search, rates, passes
        self._iter = self._epoch = 0
        self.stop_training = False
        self._journal: list[list[float]] = []  # per step, see COLUMNS
        self._paths: list[list[int]] = []

    iter = property(lambda self: self._iter)
    epoch = property(lambda self: self._epoch)
    max_epochs = property(lambda self: 1)
    max_iters = property(lambda self: self.rates.total)

    def run(self) -> torch.nn.Module:
        """Search from the current step to the end."""
        runner = self.runner
        runner.call_hook("before_train")
        runner.call_hook("before_train_epoch")
        runner.model.train()
        runner.optim_wrapper.initialize_count_status(
            runner.model, self._iter * self.passes, self.max_iters * self.passes
        )
        self.dataloader.sampler.step, self.held_out.sampler.step = self._iter, max(self._iter, self.rates.warmup)
        train_batches, held_out_batches = iter(self.dataloader), iter(self.held_out)
        while self._iter < self.max_iters and not self.stop_training:
            train = list(islice(train_batches, self.passes))
            held_out = list(islice(held_out_batches, self.passes)) if self._iter >= self.rates.warmup else []
            runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=train[0])
            outputs = self.step(train, held_out)
            runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=train[0], outputs=outputs)
            self._iter += 1
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")
        return runner.model

    def step(self, train: list[dict], held_out: list[dict]) -> dict[str, Any]:
        """One step of the weights and, after the warm-up, one of the distribution; a batch per pass."""
        optimiser = self.runner.optim_wrapper
        weights_rate, alpha_rate = self.rates(self._iter)
        for group in optimiser.param_groups:
            group["lr"] = weights_rate
        choices, gates = self.search.draw()
        losses = []
        for batch in train:
            losses.append(self._loss(batch, (choices, gates.detach())))
            optimiser.update_params(losses[-1])
        loss, judged = torch.stack([x.detach() for x in losses]).mean(), float("nan")
        if held_out:
            choices, gates = self.search.draw()
            judged = self.search.learn((self._loss(batch, (choices, gates)) for batch in held_out), alpha_rate)
        numbers = dict(
            gmacs=self.search.expected_macs().detach().item() / 1e9,
            diversity=self.search.diversity(),
            entropy=self.search.entropy(),
        )
        self._journal.append([loss.item(), judged, *numbers.values()])
        self._paths.append(choices)
        return dict(loss=loss, **numbers)

    def _loss(self, batch: dict, path: tuple[list[int], torch.Tensor]) -> torch.Tensor:
        model = self.runner.model
        with self.runner.optim_wrapper.optim_context(model):
            return model(**model.data_preprocessor(batch, True), mode="loss", architecture=path)["loss"]

    def state_dict(self) -> dict[str, Any]:
        """Everything beside weights and optimiser; tensors and plain data."""
        return dict(
            search=self.search.state_dict(), journal=torch.tensor(self._journal), paths=torch.tensor(self._paths)
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as if never interrupted."""
        self.search.load_state_dict(state["search"])
        self._journal, self._paths = state["journal"].tolist(), state["paths"].tolist()

    def journal(self) -> pd.DataFrame:
        """Per step: ``COLUMNS``, and the judged path; in the warm-up, where none is judged, the trained path."""
        table = pd.DataFrame(self._journal, columns=COLUMNS)
        table.insert(0, "step", np.arange(len(table)))
        return table.assign(path=self._paths)
