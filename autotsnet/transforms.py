"""Transforms of networks: Module to Module, named in a network's config and applied before anything is counted.

    net = dict(type="autotsnet.x3d", transforms=[dict(type="my_attention", every=2)])

A transform is a function ``transform(net, **options) -> nn.Module`` in ``MODEL_TRANSFORMS``; other packages add theirs
by entry points of the group ``autotsnet.transforms``. Every family takes ``transforms``, so that the solver, the cost
and the run's hash see them. A transform with an argument ``clips`` gets clips of the network's size on the meta device,
for ``dry_run``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from autotsnet.inputs import example, inputs_of
from autotsnet.plugins import OpenRegistry

MODEL_TRANSFORMS = OpenRegistry("model transform", "transforms")


class TransformError(ValueError):
    """A transform is unknown, changes nothing or breaks the network; the message names it."""


def dry_run(net: nn.Module, clips: Sequence[Tensor]) -> None:
    """Run a network in evaluation mode on the meta device, wherever it is: only its hooks see anything of it.

    Args:
        net: left as it is.
        clips: B C T H W on the meta device, one per input.
    """
    tensors = {name: t.detach().to("meta") for name, t in (*net.named_parameters(), *net.named_buffers())}
    training = [m for m in net.modules() if m.training]
    net.eval()
    try:
        with torch.no_grad():
            torch.func.functional_call(net, tensors, tuple(clips))
    finally:
        for module in training:
            module.training = True


def transformed(
    net: nn.Module, transforms: Sequence[Mapping[str, Any]], clips: Sequence[Tensor] | None = None
) -> nn.Module:
    """Apply transforms one after the other, each to the network that the one before has returned.

    Args:
        net: may be changed in place.
        transforms: ``dict(type=name, **options)`` each.
        clips: B C T H W on the meta device, one per input of the network; None: their size is not known.

    Raises:
        TransformError: a transform is unknown, fails, or does not change the network.
        ValueError: of a transform; it says what is wrong.
    """
    for config in transforms:
        name = config.get("type") if isinstance(config, Mapping) else None
        if not isinstance(name, str):
            raise TransformError(f"transforms are a list of dict(type=name, …), with {config!r} in it")
        if name not in MODEL_TRANSFORMS:
            known = ", ".join(sorted(MODEL_TRANSFORMS.module_dict)) or "none"
            raise TransformError(f"unknown transform {name!r}; known: {known}")
        before, network = _structure(net), type(net).__name__
        seen = dict(clips=clips) if "clips" in signature(MODEL_TRANSFORMS.get(name)).parameters else {}
        try:
            net = MODEL_TRANSFORMS.build({**config, **seen, "net": net})
        except ValueError:
            raise  # it says what is wrong
        except Exception as error:  # whatever a transform of somebody's own raises
            raise TransformError(f"transform {name!r} of {network}: {error}") from error
        if not isinstance(net, nn.Module):
            raise TransformError(f"transform {name!r} returned {type(net).__name__}, not a network")
        if _structure(net) == before:
            raise TransformError(f"transform {name!r} changes nothing in {network}; take it out, or see its options")
    return net


def _structure(net: nn.Module) -> tuple[str, list]:
    return repr(net), [(name, tuple(p.shape)) for name, p in (*net.named_parameters(), *net.named_buffers())]


def transformable(build: Callable[..., nn.Module], inputs: tuple[str, ...]) -> Callable[..., nn.Module]:
    """A build function that takes ``transforms`` beside the arguments of the one that it wraps.

    What it returns says by ``inputs`` what it is called with. On the meta device, where networks are counted, a check
    runs the transformed network on two clips.
    """

    @wraps(build)
    def with_transforms(*, transforms: Sequence[Mapping[str, Any]] | None = (), **arguments) -> nn.Module:
        net, transforms = build(**arguments), transforms or ()
        given = {name: p.default for name, p in signature(build).parameters.items()} | arguments
        frames, crop = given.get("frames"), given.get("crop")
        clips = example(inputs, frames, crop, batch=2) if transforms and frames and crop else None
        net = transformed(net, transforms, clips)
        if inputs_of(net) != inputs:
            net.inputs = inputs
        if clips and all(p.is_meta for p in net.parameters()):
            _check(net, clips, given["num_classes"], transforms)
        return net

    return with_transforms


def _check(net: nn.Module, clips: tuple[Tensor, ...], classes: int, transforms: Sequence[Mapping[str, Any]]) -> None:
    names = ", ".join(repr(config["type"]) for config in transforms)
    training = net.training
    try:
        with torch.no_grad():
            shape = tuple(net.eval()(*clips).shape)
    except Exception as error:  # whatever a network of somebody's own raises
        raise TransformError(
            f"with transform {names}, {type(net).__name__} does not run on clips of shape "
            f"{' and '.join(str(tuple(clip.shape)) for clip in clips)}: {error}"
        ) from error
    finally:
        net.train(training)
    expected = len(clips[0]), classes
    if shape != expected:
        raise TransformError(f"with transform {names}, {type(net).__name__} returns {shape}, not logits of {expected}")
