"""The supernet: the weights of every architecture of a space, held once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from autotsnet.architecture import Architecture
from autotsnet.layers.elastic import Channels, narrow
from autotsnet.layers.quick import quicken
from autotsnet.meta import on_meta
from autotsnet.registry import MODELS
from autotsnet.space import SharedWeights, Space, space_of

PARTS = 4096  # of skeletons, kept: 0.1 GB


def prefix(channels: Channels, largest: int) -> int:
    """Window of prefix slicing: always the first channels."""
    return 0


class FairWindow:
    """Window of fair channel selection (Auto-X3D, arXiv 2112.04710, supplement): a random cyclic shift per space.

    Prefix slicing updates the first channels with every width, and the last channels with the largest width only. A
    uniform shift updates all channels equally often: c / c_max on average over the candidates c, (N+1)/2N for N equal
    groups. The subset rule of the paper is not public; any rule with this average agrees with the paper.

    Args:
        generator: source of the shifts; draw a new window per forward with ``reset``.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self._shifts: dict[str, int] = {}

    def reset(self) -> None:
        """Forget the shifts; the next slice draws new ones."""
        self._shifts.clear()

    def __call__(self, channels: Channels, largest: int) -> int:
        if channels.space in ("rgb", "classes") or channels.size == largest:
            return 0
        if channels.space not in self._shifts:
            self._shifts[channels.space] = int(torch.randint(largest, (), generator=self.generator))
        return self._shifts[channels.space]


@MODELS.register_module()
class SuperNet(SharedWeights):
    """All architectures of a space with shared weights.

    ``whole`` is the largest static model with every type at every position, of ``space.whole``. A subnet is the
    static model of its architecture, run on slices of ``whole``'s tensors: it costs what the architecture costs, and
    a step holds the activations of one subnet. In training mode its norms use the batch's own statistics.

    Args:
        space: the space, its name or its config, see ``space_of``. It has a ``whole``, and both this and its
            ``static_model`` take ``dropout``, the latter ``part`` too, see ``TwoStreamNet``.
        num_classes: N.
        dropout: before the classifier.
        fair: fair channel selection while training instead of prefix slicing.
        seed: of the fair shifts.
        skeletons: how many subnet skeletons (modules without storage) to keep.
    """

    def __init__(
        self,
        space: Space | str | dict,
        num_classes: int,
        *,
        dropout: float = 0.0,
        fair: bool = False,
        seed: int = 0,
        skeletons: int = 256,
    ) -> None:
        super().__init__()
        self.space = space = space_of(space)
        self.num_classes, self.dropout = num_classes, dropout
        self.whole = space.whole(num_classes, dropout=dropout)
        self.fair = FairWindow(torch.Generator().manual_seed(seed)) if fair else None
        self._skeletons: OrderedDict[Architecture, nn.Module] = OrderedDict()
        self._parts: dict[tuple, nn.Module] = {}  # of skeletons
        self._layers = dict(self.whole.named_modules())
        self._keep = skeletons
        self._done: dict | None = None

    def reseed(self, seed: int) -> None:
        """Draw the next fair windows from this seed; prefix windows do not depend on it."""
        if self.fair:
            self.fair.generator.manual_seed(seed)

    def skeleton(self, architecture: Architecture) -> nn.Module:
        """The static model of an architecture on the meta device: structure without storage.

        Skeletons share their parts: a block that was in another architecture at the same place is not made again.
        """
        if architecture not in self._skeletons:
            net = on_meta(lambda: self._static(architecture, part=self._part))
            self._skeletons[architecture] = net
            if len(self._skeletons) > self._keep:
                self._skeletons.popitem(last=False)
        self._skeletons.move_to_end(architecture)
        return self._skeletons[architecture].train(self.training)

    def _static(self, architecture: Architecture, **options: Any) -> nn.Module:
        return self.space.static_model(architecture, self.num_classes, dropout=self.dropout, **options)

    def _part(self, make: Callable[..., nn.Module], *args, **kwargs) -> nn.Module:
        key = make, args, tuple(kwargs.items())
        if key not in self._parts:
            if len(self._parts) == PARTS:
                self._parts.clear()
            self._parts[key] = quicken(make(*args, **kwargs))
        return self._parts[key]

    def slices(self, skeleton: nn.Module) -> dict[str, Tensor]:
        """The subnet's parameters and buffers as views of the supernet's (copies where a fair window wraps)."""
        return {f"{path}.{name}": tensor for path, _, name, tensor in self._slices(skeleton)}

    def _slices(self, skeleton: nn.Module) -> Iterator[tuple[str, dict[str, Tensor], str, Tensor]]:
        """Path of a layer of the skeleton, its parameters or its buffers, the name of one and what takes its place."""
        window = prefix
        if self.fair and self.training:
            self.fair.reset()
            window = self.fair
        for path, part in skeleton.named_modules():
            if not (part._parameters or part._buffers):
                continue
            whole = self._layers[path]
            for mine, its in ((part._parameters, whole._parameters), (part._buffers, whole._buffers)):
                for name, tensor in its.items():
                    if tensor is not None:
                        yield path, mine, name, narrow(tensor, whole, part, mine[name].shape, window)

    @contextmanager
    def prefix_windows(self) -> Iterator[None]:
        """Use the first channels of each space inside this context, as an extracted subnet does."""
        fair, self.fair = self.fair, None
        try:
            yield
        finally:
            self.fair = fair

    @contextmanager
    def common_parts(self) -> Iterator[None]:
        """Inside, a subnet does not compute again what its first levels have in common with the last subnet's.

        For one batch of clips, without gradients. Subnets with fair windows have nothing in common.
        """
        self._done = None if self.fair and self.training else {}
        try:
            yield
        finally:
            self._done = None

    def order(self, architectures: Sequence[Architecture]) -> list[int]:
        """Their indices, those side by side that have most in common."""
        seen: dict[nn.Module, int] = {}
        paths = [[seen.setdefault(p, len(seen)) for p in self.skeleton(a).paths()[-1]] for a in architectures]
        return sorted(range(len(paths)), key=paths.__getitem__)

    def forward(self, clip: Tensor, architecture: Architecture) -> Tensor:
        """Clips B 3 T H W -> logits B N of one architecture."""
        skeleton = self.skeleton(architecture)
        lent = [(mine, name, mine[name], tensor) for _, mine, name, tensor in self._slices(skeleton)]
        try:  # as torch.func.functional_call, which looks up each tensor by its path
            for mine, name, _, tensor in lent:
                mine[name] = tensor
            skeleton.done = self._done
            return skeleton(clip)
        finally:
            skeleton.done = None  # else it would keep the batch's activations
            for mine, name, empty, _ in lent:
                mine[name] = empty

    def extract(self, architecture: Architecture) -> nn.Module:
        """A stand-alone static model with copies of the subnet's tensors; same outputs in evaluation mode.

        Running statistics of batch norm are those accumulated over all subnets: ``recalibrate`` first.
        """
        net = self._static(architecture)
        with self.prefix_windows():
            net.load_state_dict({k: v.detach().clone() for k, v in self.slices(net).items()})
        return net.train(self.training)


def recalibrate(
    model: nn.Module,
    batches: Iterable[Tensor],
    architecture: Architecture | None = None,
    group=None,
) -> int:
    """Replace batch norm's running statistics by those of some batches (precise BN), equal on all ranks.

    Args:
        model: its batch norm statistics change, its parameters do not. A ``SuperNet`` changes for one architecture.
        batches: clips B 3 T H W, already on the model's device.
        architecture: which subnet of a ``SuperNet``.
        group: process group of torch.distributed to average over; default: all ranks, if initialised.

    Returns:
        The number of batches used.

    Raises:
        ValueError: there is no batch; the statistics do not change.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise ValueError("recalibrate got no batch; batch norm would be left without statistics")
    stored = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    acting = stored  # in a supernet, the subnet's norms act, on slices of the stored statistics
    if architecture is not None:
        acting = [m for m in model.skeleton(architecture).modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    training, momenta = model.training, [m.momentum for m in acting]
    # A fair window would fill the statistics of other channels than the subnet uses afterwards.
    windows = model.prefix_windows() if isinstance(model, SharedWeights) else nullcontext()
    for m in stored:
        m.reset_running_stats()
    for m in acting:
        m.momentum = None  # cumulative mean
    count = 0
    try:
        model.train()
        with torch.no_grad(), windows:
            for batch in chain([first], batches):
                model(batch) if architecture is None else model(batch, architecture)
                count += 1
    finally:
        for m, momentum in zip(acting, momenta, strict=True):
            m.momentum = momentum
        model.train(training)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for m in stored:
            for stat in (m.running_mean, m.running_var):
                torch.distributed.all_reduce(stat, group=group)
                stat /= torch.distributed.get_world_size(group)
    return count
