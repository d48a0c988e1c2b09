"""Multiply-accumulates of a model, counted without running it.

Convention, the one of the video literature (whose "GFLOPs" are these): one MAC per product of a convolution,
of a linear layer and of the two products of an attention; norms, activations, biases, pooling, softmax,
element-wise gates and data movement are free. The count is torch's ``FlopCounterMode``, which counts 2 flops
per MAC, halved, on the meta device and in eval mode, at the frames and crop of the test view.

The counter counts an unknown operator as zero. Here that is an error: an operator that touches a parameter
or looks like a matrix product must have a formula, or a stated reason to be free. One gap remains: a product
written as ``(x * w).sum()`` is element-wise, hence free.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from autotsnet.inputs import example, inputs_of
from autotsnet.meta import on_meta

FREE = {
    "normalisation: one multiply-add per element, folded into the convolution at inference": (
        "native_batch_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
        "_batch_norm_no_update",
        "native_layer_norm",
        "native_group_norm",
        "_fused_rms_norm",
    ),
    "data movement: no arithmetic": (
        "_reshape_alias",
        "_to_copy",
        "_unsafe_view",
        "cat",
        "clone",
        "constant_pad_nd",
        "copy_",
        "embedding",
        "flip",
        "gather",
        "index",
        "index_select",
        "repeat",
        "roll",
        "stack",
    ),
    "reduction or softmax: a few operations per element": (
        "_log_softmax",
        "_softmax",
        "amax",
        "cumsum",
        "mean",
        "sum",
        "var_mean",
    ),
}
"""Reasons, and the aten operators that may touch parameters for free; views and element-wise operators join them."""

_FREE_NAMES = frozenset(chain.from_iterable(FREE.values()))
# Words of operator names, as in _euclidean_dist, mkldnn_rnn_layer, _scaled_dot_product_flash_attention_for_cpu.
_PRODUCTS = {"mm", "bmm", "addmm", "addbmm", "baddbmm", "sspaddmm", "mv", "addmv", "dot", "vdot", "matmul", "einsum"}
_PRODUCTS |= {"linear", "bilinear", "trilinear", "attention", "dist", "cdist", "lstm", "gru", "rnn"}
_CONVOLUTION = re.compile(r"conv(olution|\d|_|$)")


class UncountedOperatorError(RuntimeError):
    """A model uses operators that cost arithmetic and have no formula."""


@dataclass(frozen=True)
class MacCount:
    """What one forward pass costs.

    Attributes:
        macs: multiply-accumulates of the whole batch.
        params: parameters of the model.
        by_operator: MACs of each counted operator, the largest first.
        shapes: of the clips B C T H W, one per input.
    """

    macs: int
    params: int
    by_operator: dict[str, int] = field(hash=False)
    shapes: tuple[tuple[int, ...], ...]

    @property
    def gmacs(self) -> float:
        """10^9 multiply-accumulates."""
        return self.macs / 1e9

    def table(self) -> str:
        """Operators, their GMACs and their share, as text."""
        rows = [(name, macs / 1e9, f"{macs / self.macs:.1%}") for name, macs in self.by_operator.items()]
        shapes = " and ".join("x".join(map(str, shape)) for shape in self.shapes)
        rows.append((f"total at {shapes}", self.gmacs, "100.0%"))
        return tabulate(
            rows, headers=("operator", "GMACs", "share"), floatfmt=".4f", colalign=("left", "right", "right")
        )


class _Audit(TorchDispatchMode):
    """Lists operators that should have been counted.

    It is outside the counter, so it sees the operators into which the counter has split composite ones.
    """

    def __init__(self, counter: FlopCounterMode, parameters: list[Tensor]) -> None:
        super().__init__()
        self._counted = counter.flop_registry
        self._weights = list(parameters)  # and what is made of them alone; held, so that no storage is used twice
        self._storages = {_storage(weight) for weight in parameters}
        self.uncounted: dict[str, str] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in self._counted:
            return out
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        touching = [_storage(tensor) in self._storages for tensor in inputs]
        name = func._opname
        if func.namespace not in ("aten", "prims"):
            self.uncounted[str(func._overloadpacket)] = "is not torch's own"
        elif _PRODUCTS.intersection(name.split("_")) or _CONVOLUTION.search(name):
            self.uncounted[str(func._overloadpacket)] = "looks like a matrix product"
        elif torch.Tag.pointwise in func.tags or func.is_view or name in _FREE_NAMES:
            if inputs and all(touching):
                made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
                self._weights += made
                self._storages.update(_storage(tensor) for tensor in made)
        elif any(touching):
            self.uncounted[str(func._overloadpacket)] = "takes parameters"
        return out


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def count(model_or_builder: nn.Module | Callable[[], nn.Module], frames: int, crop: int, batch: int = 1) -> MacCount:
    """Count the multiply-accumulates of ``model(*clips)`` for clips ``B C T H W``, one per input of the model.

    Args:
        model_or_builder: a model, left as it is, or a function that makes one; the function runs under
            ``torch.device("meta")``, so that the largest model costs no memory.
        frames: T.
        crop: H and W.
        batch: B; 1 for the published convention.

    Returns:
        MACs, parameters and their breakdown.

    Raises:
        UncountedOperatorError: an operator takes parameters, looks like a matrix product or is foreign to
            torch, and the counter has no formula for it.
    """
    if isinstance(model_or_builder, nn.Module):
        model = model_or_builder
    else:
        model = on_meta(model_or_builder)
    parameters = {name: weight.detach().to("meta") for name, weight in model.named_parameters()}
    buffers = {name: buffer.to("meta") for name, buffer in model.named_buffers()}
    clips = example(inputs_of(model), frames, crop, batch)

    modes = {module: module.training for module in model.modules()}
    counter = FlopCounterMode(display=False)
    audit = _Audit(counter, list(parameters.values()))
    model.eval()
    try:
        with torch.no_grad(), audit, counter:
            torch.func.functional_call(model, {**parameters, **buffers}, clips)
    finally:
        for module, training in modes.items():
            module.training = training
    if audit.uncounted:
        found = "; ".join(f"{name} {why}" for name, why in sorted(audit.uncounted.items()))
        raise UncountedOperatorError(
            f"{type(model).__name__}: no formula for {found}. Give it one with "
            "torch.utils.flop_counter.register_flop_formula, or a reason in reproduce.measure.macs.FREE"
        )
    flops = sorted(counter.get_flop_counts().get("Global", {}).items(), key=lambda item: -item[1])
    by_operator = {str(operator): int(flop) // 2 for operator, flop in flops}
    params = sum(weight.numel() for weight in parameters.values())
    return MacCount(sum(by_operator.values()), params, by_operator, tuple(tuple(c.shape) for c in clips))
