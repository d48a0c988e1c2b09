"""Evolution of Tiny Video Networks under a runtime: milliseconds of a forward pass on this device.

As the authors do, a candidate that takes longer is discarded before it is trained. Each other is trained for a short
while; its held-out log-likelihood is its fitness. Leaves ``journal.parquet``.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import nn

from autotsnet.registry import MODELS, family
from autotsnet.search.constraint import Runtime, forward_ms
from autotsnet.search.encoding import Cost
from autotsnet.search.progressive import SearchError
from baselines.tiny_video_net import TinyVideoArchitecture, TinyVideoSpace
from reproduce.records import device_name
from reproduce.search.method import METHODS
from reproduce.search.trainings import TrainingSearch

DRAWS = 20  # random candidates, until a width brings one to the budget


@METHODS.register_module(name="tiny_video_net")
class TinyVideoSearch(TrainingSearch):
    """Evolution of what is fast enough here, or random search of it."""

    family = "tiny_video_net"
    space_name = TinyVideoSpace.name
    what = "candidate"
    at_once = 1  # each draw is measured

    @cached_property
    def space(self) -> TinyVideoSpace:
        """On the suite's clips."""
        protocol = self.suite.protocol
        return TinyVideoSpace(protocol.sampling.frames, protocol.crops.size, self.config.options.width)

    @cached_property
    def limit(self) -> Runtime:
        """The runtime that the recipe names, or that of an entry of the suite, on this device.

        Raises:
            SearchError: the fastest candidate takes longer; the message says the range.
        """
        suite, o, most = self.suite, self.config.options, self.config.options.get("milliseconds")
        if most is None:
            net = MODELS.build(suite.config(suite.entry(o.reference)).net)
            clip = self.space.example().to(memory_format=torch.channels_last_3d)
            most = forward_ms(net, clip.cuda() if torch.cuda.is_available() else clip)
        found = Runtime(
            most, space=self.space, num_classes=suite.classes, warmup=1, repeats=5, hopeless=2.0, channels_last=True
        )
        low, high = found.range()
        if most < low:
            raise SearchError(
                f"a runtime of {most:.3g} ms is below the fastest candidate of space {self.space.name!r}; candidates "
                f"take {low:.3g} to {high:.3g} ms here, choose at least {low:.3g}"
            )
        return found

    def identity(self) -> list:
        """See ``Method``: strategy, recipe and the device, whose times decide."""
        return [*super().identity(), device_name()]

    def candidates(self) -> TinyVideoSpace:
        """See ``TrainingSearch``."""
        return self.space

    def price(self) -> tuple[Cost, float]:
        """See ``TrainingSearch``: a runtime."""
        return self.limit.cost, self.limit.limit

    def network(self, candidate: TinyVideoArchitecture, seed: int) -> nn.Module:
        """See ``TrainingSearch``: as wide as the space has it, since it is that network whose time was measured."""
        torch.manual_seed(seed)
        fixed = {k: v for k, v in self.config.net.items() if k != "type"}
        return family(self.family).build(**self.size, **fixed, **candidate.arguments())

    def row(self, candidate: TinyVideoArchitecture, fitness: float, code: list[int], cost: float) -> dict[str, Any]:
        """See ``TrainingSearch``."""
        return dict(code=code, log_likelihood=fitness, ms=cost)

    def draw(self, seed: int) -> TinyVideoArchitecture:
        """A random candidate, the first that some width brings to the budget; not measured, so the same anywhere."""
        generator = torch.Generator().manual_seed(seed)
        drawn = (self.space.decode(self.space.sample(1, generator)[0]) for _ in range(DRAWS))
        return self.first_at_budget(drawn)
