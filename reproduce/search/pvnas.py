"""Search of the PV-NAS-style space by gradients. Leaves ``journal.parquet``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mmengine.config import Config

from autotsnet.meta import on_meta
from autotsnet.registry import family
from baselines.pvnas import CANDIDATES, DiverseRates, GradientSearch, Operations, branch_macs
from baselines.pvnas.loop import GradientSearchLoop
from baselines.pvnas.network import PVNet
from reproduce.budget import solve
from reproduce.data.manifest import Manifest
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.recipe import optimiser, passes
from reproduce.engine.runner import LAST, RunHook, build_runner, resume_from
from reproduce.records import Search
from reproduce.search.method import METHODS, Method, halves, leave, stream


@METHODS.register_module(name="pvnas")
class PVNASSearch(Method):
    """By gradients, over every candidate of every block."""

    def identity(self) -> list:
        """See ``Method``: network, options and recipe."""
        config = self.config
        recipe = Config(dict(net=config.net, optim=config.optim_wrapper, options=config.options)).pretty_text
        more = [config.get(key) for key in ("warmup", "amp", "sub_batch", "reference_batch")]
        return [recipe, config.batch, config.label_smoothing, repr(self.suite.protocol), list(CANDIDATES), more]

    def supernet(self) -> tuple[PVNet, GradientSearch]:
        """Every candidate in every block, as wide as makes the budget with SlowFast's block everywhere."""
        suite, config = self.suite, self.config
        net = {k: v for k, v in config.net.items() if k not in ("type", "dropout")}
        pvnas = family("pvnas")
        width = solve(pvnas.build, pvnas.knobs, suite.gmacs, **self.size, fixed=net | dict(ops="t+2d")).kwargs
        base, stem = width["base_channels"], width.get("stem_channels", round(width["base_channels"]))
        candidates = [tuple(CANDIDATES)] * sum(net["blocks"])

        def build() -> PVNet:
            return PVNet(
                suite.classes, candidates, base, stem, tuple(net["blocks"]), tuple(net["strides"]), dropout=0.0
            )

        macs, fixed = branch_macs(on_meta(build), self.size["frames"], self.size["crop"])
        o = config.options
        return build(), GradientSearch(macs, fixed, suite.gmacs * 1e9, o.cost_weight, o.temperature)

    def find(self, seed: int, manifest: Manifest, folder: Path, name: str) -> None:
        """See ``Method``."""
        suite, config = self.suite, self.config
        torch.manual_seed(seed)
        net, search = self.supernet()
        search.generator.manual_seed(seed)
        options = config.options
        parts, _ = passes(config, 1)
        wrapper = optimiser(config, parts)
        peak, rise = wrapper["optimizer"]["lr"], round(config.warmup * (options.warmup + options.steps))
        rates = DiverseRates(options.steps, peak, options.alpha, options.diverse, options.warmup, rise)
        weights, alpha = halves(manifest, seed)
        hook = RunHook(seed, name, interval=config.checkpoint)
        held_out = stream(alpha, config, suite, seed, passes=parts)
        runner = build_runner(
            config,
            folder / "train",
            name,
            model=VideoClassifier(net, label_smoothing=config.label_smoothing),
            train_dataloader=stream(weights, config, suite, seed, passes=parts),
            train_cfg=dict(type=GradientSearchLoop, held_out=held_out, search=search, rates=rates, passes=parts),
            optim_wrapper=wrapper,
            custom_hooks=[hook],
            randomness=dict(seed=seed),
            **resume_from(folder / "train"),
        )
        runner.train()
        journal = runner.train_loop.journal()
        found = runner.train_loop.search  # the runner has made its own of the one it was given
        record = Search(**self._cost(), seed=seed, wall_s=hook.seconds_total)
        leave(folder, journal, dict(ops=found.best(), probabilities=found.probabilities()), record)
        (folder / "train" / LAST).unlink(missing_ok=True)

    def cost(self, said: Search, videos: int) -> dict[str, Any]:
        """See ``Method``."""
        return self._cost()

    def _cost(self) -> dict[str, Any]:
        options = self.config.options
        steps = options.warmup + options.steps
        judged = steps + options.steps
        return dict(
            strategy="gradient" if options.diverse else "gradient, plain rates",
            space="PV-NAS-style",
            steps=steps,
            architectures=judged,
            clips=judged * self.config.batch,
            devices=1,
        )

    def picture(self, folder: Path, path: Path) -> None:
        """See ``Method``; without the warm-up."""
        from reproduce.pictures.search import draw_trajectory  # matplotlib takes long to import

        journal = pd.read_parquet(folder / "journal.parquet")
        judged = journal[journal.held_out_loss.notna()]
        judged = judged.assign(stage="blocks", log_likelihood=-judged.held_out_loss, samples=1)
        draw_trajectory(judged, path, {"blocks": self.suite.gmacs})

    def draw(self, seed: int) -> Operations:
        """A candidate per block, all alike probable; the width is solved afterwards."""
        rng = np.random.default_rng((seed, 4))
        return Operations(tuple(rng.choice(list(CANDIDATES), size=sum(self.config.net.blocks)).tolist()))
