"""Two-stream networks as families that the budget solver can scale."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from autotsnet.architecture import BlockChoice, GroupChoice, TwoStreamArchitecture
from autotsnet.layouts import layout
from autotsnet.models.two_stream import TwoStreamNet
from autotsnet.registry import Knob, register_family

KNOBS = (Knob("width", 0.05, 12.0, 0.005), Knob("expansion", 0.8, 1.25, 0.005))


def uniform_architecture(space: str) -> TwoStreamArchitecture:
    """One choice everywhere, in the layout of a preset: t 3, k 3, e 2.25 (X3D's), SlowFast's fusion, no attention."""
    s = layout(space)

    def stream(groups):
        block = BlockChoice(t=3, k=3, e=2.25)
        return tuple(GroupChoice(g.channels[len(g.channels) // 2], (block,) * g.depth) for g in groups)

    return TwoStreamArchitecture(s.macro, stream(s.slow), stream(s.fast), ("concat",) * len(s.macro.strides))


@register_family(*KNOBS, architecture=TwoStreamArchitecture)
def auto_tsnet(
    *,
    num_classes: int,
    architecture: TwoStreamArchitecture | dict | str | Path,
    frames: int | None = None,
    crop: int | None = None,
    width: float = 1.0,
    expansion: float = 1.0,
    dropout: float = 0.5,
) -> nn.Module:
    """The static network of an architecture, scaled.

    Args:
        num_classes: N.
        architecture: the value, its dict form, or the path of its file.
        frames: frames per clip, a multiple of the architecture's alpha.
        crop: side of the test crop in pixels; any value, the network is convolutional.
        width: factor on all channel counts; the solver uses it to meet a budget.
        expansion: factor on all expansions; the solver uses it for the last percent.
        dropout: before the classifier.

    Raises:
        ValueError: ``frames`` is not a multiple of the architecture's alpha.
    """
    architecture = TwoStreamArchitecture.given(architecture)
    if frames is not None and frames % architecture.macro.alpha:
        raise ValueError(f"frames={frames} is no multiple of the architecture's alpha={architecture.macro.alpha}")
    return TwoStreamNet(architecture.scaled(width, expansion), num_classes, dropout=dropout)


@register_family(*KNOBS)
def auto_tsnet_uniform(
    *,
    num_classes: int,
    frames: int | None = None,
    crop: int | None = None,
    space: str = "m",
    width: float = 1.0,
    expansion: float = 1.0,
    dropout: float = 0.5,
) -> nn.Module:
    """The uniform architecture of a preset: not searched, the control that shows what the layout alone is worth.

    Args:
        num_classes: N.
        frames: frames per clip, a multiple of alpha.
        crop: side of the test crop in pixels.
        space: preset whose layout is used.
        width: factor on all channel counts.
        expansion: factor on all expansions.
        dropout: before the classifier.
    """
    return auto_tsnet(
        num_classes=num_classes,
        architecture=uniform_architecture(space),
        frames=frames,
        crop=crop,
        width=width,
        expansion=expansion,
        dropout=dropout,
    )
