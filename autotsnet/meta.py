"""Modules without storage: their structure is all that counting and slicing need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a module on the meta device, without initialisation, which is slow and has no effect there."""
    with torch.device("meta"), _without_init():
        return build()


@contextmanager
def _without_init() -> Iterator[None]:
    saved = {name: f for name, f in vars(nn.init).items() if name.endswith("_") and callable(f)}
    for name in saved:
        setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        for name, f in saved.items():
            setattr(nn.init, name, f)
