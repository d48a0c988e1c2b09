"""Named inputs: what a network sees of a clip. RGB frames, unless its family names others.

    @register_input("difference", channels=3)
    def difference(clip): ...  # T H W 3 -> T H W 3, uint8

    @register_family(inputs=("rgb", "difference"))
    class TwoInputs(nn.Module):
        def forward(self, rgb, difference): ...  # B 3 T H W each

A network is called with one tensor per name, in their order. The data sets make inputs from frames that are cropped and
flipped, so all inputs show the same pixels, and travel side by side as channels of one uint8 clip. An input that the
decoder gives, not the frames (motion vectors), needs a second source beside ``Input.make``, cropped as the frames are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

RGB = ("rgb",)
Make = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Input:
    """One thing to see of a clip.

    Attributes:
        name: in ``inputs`` of families and networks.
        channels: C.
        make: RGB clip T H W 3 -> T H W C, both uint8; None: the clip itself.
    """

    name: str
    channels: int
    make: Make | None = None


INPUTS = {"rgb": Input("rgb", 3)}


def register_input(name: str, channels: int) -> Callable[[Make], Make]:
    """Decorate a function that makes an input, see ``Input``.

    Raises:
        ValueError: another module has registered the name.
    """

    def wrap(make: Make) -> Make:
        known = INPUTS.get(name)
        if known and getattr(known.make, "__module__", None) != make.__module__:  # not a file that is read anew
            raise ValueError(f"input {name!r} is registered already; choose another name")
        INPUTS[name] = Input(name, channels, make)
        return make

    return wrap


def inputs_of(net: object) -> tuple[str, ...]:
    """Names of a network's inputs: its attribute ``inputs``; without one, RGB."""
    names = getattr(net, "inputs", RGB)
    return tuple(names) if isinstance(names, tuple | list) else RGB  # not a layer of that name


def channels(inputs: Sequence[str]) -> list[int]:
    """Channels of inputs.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    for name in inputs:
        if name not in INPUTS:
            raise ValueError(f"unknown input {name!r}; known: {', '.join(sorted(INPUTS))}; see register_input")
    return [INPUTS[name].channels for name in inputs]


def example(
    inputs: Sequence[str], frames: int, crop: int, batch: int = 1, device: torch.device | str = "meta"
) -> tuple[Tensor, ...]:
    """Clips B C T H W to call a network with, one per input; normal noise, always the same on one device.

    Args:
        inputs: see ``inputs_of``.
        frames: T.
        crop: H and W.
        batch: B.
        device: of the clips.

    Raises:
        ValueError: an unknown input.
    """
    device = torch.device(device)
    noise = None if device.type == "meta" else torch.Generator(device).manual_seed(0)
    return tuple(torch.randn(batch, c, frames, crop, crop, generator=noise, device=device) for c in channels(inputs))


def made(clips: np.ndarray, inputs: Sequence[str]) -> np.ndarray:
    """RGB clips V T H W 3 -> all inputs side by side, V T H W C; of RGB alone, the same array.

    Raises:
        ValueError: an input is not of the shape and type that it is registered with.
    """
    parts = []
    for entry in (INPUTS[name] for name in inputs):
        part = clips if entry.make is None else np.stack([entry.make(clip) for clip in clips])
        expected = *clips.shape[:-1], entry.channels
        if part.shape != expected or part.dtype != np.uint8:
            raise ValueError(
                f"input {entry.name!r} is {part.dtype} {part.shape[1:]}, registered is uint8 {expected[1:]}; see Input"
            )
        parts.append(part)
    return parts[0] if len(parts) == 1 else np.concatenate(parts, -1)
