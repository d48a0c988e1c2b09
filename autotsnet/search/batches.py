"""Batches of any form: dicts, lists and tensors, nested in any way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader


def clips_in(batch: Any) -> int:
    """Number of clips in a batch: the length of its tensors along dim 0, or of its lists.

    Raises:
        ValueError: parts of different length; the message says which lengths there are.
    """
    lengths = set(_lengths(batch))
    if len(lengths) != 1:
        raise ValueError(f"a batch needs tensors or lists of one length, its clips; found lengths {sorted(lengths)}")
    return lengths.pop()


def _lengths(batch: Any) -> Iterator[int]:
    if isinstance(batch, Mapping):
        for value in batch.values():
            yield from _lengths(value)
    else:
        yield len(batch)


def split(batch: Any, size: int) -> list[Any]:
    """Parts of at most ``size`` clips: tensors are cut along dim 0, lists between their elements."""
    return [_cut(batch, first, first + size) for first in range(0, clips_in(batch), size)]


def _cut(batch: Any, first: int, last: int) -> Any:
    if isinstance(batch, Mapping):
        return {key: _cut(value, first, last) for key, value in batch.items()}
    return batch[first:last]


def endless(loader: DataLoader, step: int = 0) -> Iterator[Any]:
    """Batches without end, epoch after epoch.

    Args:
        loader: a sampler with a ``step``, as ``StreamSampler``, continues exactly; any other sampler starts again,
            shuffled by the epoch if it has ``set_epoch``.
        step: batches drawn before.

    Raises:
        ValueError: the loader has no batch.
    """
    sampler, epoch = loader.sampler, 0
    if hasattr(sampler, "step"):
        sampler.step = step
    else:
        epoch = step // max(1, len(loader))
    while True:
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        batch = None
        for batch in loader:
            yield batch
        if batch is None:
            raise ValueError(f"the data loader of {type(loader.dataset).__name__} has no batch; lower its batch size")
        epoch += 1
