"""A network as it is trained, on a CPU above all: the same arithmetic to rounding, in fewer passes over memory.

torch 2.11 takes 5 to 30 times as long for the gradients of a depthwise 3D convolution as for the convolution, and reads
and writes activations once more for each norm and each activation function. ``kernels`` has loops for both. Which path
a layer takes depends on shapes and on the number of threads, never on a measurement: a run that is resumed, or repeated
on another day, must give the same answers. For GPUs there is a depthwise convolution by Triton.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

ACTS, NORMS = (nn.ReLU, nn.SiLU), (nn.BatchNorm2d, nn.BatchNorm3d)
# Whose modules call their parts one after the other, and so do the networks of the families here.
CALLED_WHOLE = ("torch.", "mmcv.", "mmengine.", "mmaction.models.backbones.", "autotsnet.", "baselines.", "reproduce.")
PRECISIONS = (torch.float32, torch.float64, torch.bfloat16)
WIDEST = 7  # kernel whose columns are unrolled; of larger ones the gradients are torch's
MOST = 2**30  # numbers of a tensor whose places Triton's kernels count in 32 bits, with some to spare


def quicken(net: nn.Module) -> nn.Module:
    """Let the layers of a network use the kernels where they apply, in place; parameters and their names stay.

    Depthwise convolutions get other gradients, batch norms in training mode other loops. A norm does the work of the
    ReLU or SiLU that follows it in an ``nn.Sequential`` or in mmcv's ``ConvModule``; not in networks of somebody's own,
    which may call these part by part. On other devices, in other memory formats and precisions, and in eval mode, each
    layer does what it did; so does a subclass that computes something of its own.

    Args:
        net: to be trained; not for ``fold``, which takes norms away.

    Returns:
        The same network.
    """
    followed = dict(_followed(net))
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and _is_plain(module):
            module._conv_forward = partial(_convolution, module)
        elif isinstance(module, NORMS) and type(module).forward is _BatchNorm.forward and module.affine:
            act = followed.get(module)
            module.forward = partial(_norm, module, type(act).__name__ if act else "")
            if act:
                act.forward = _unchanged
    return net


def convolve_by_triton(net: nn.Module) -> nn.Module:
    """Let depthwise 3D convolutions on a GPU be those of ``triton_kernels``, in place; parameters and their names stay.

    Not measured on any GPU yet. Other kernels, memory formats and precisions, and other devices, keep what they have.

    Args:
        net: to be trained; after ``quicken``, where that is called too.

    Returns:
        The same network.
    """
    for module in net.modules():
        known = isinstance(module, nn.Conv3d) and _is_plain(module) and _is_depthwise(module)
        if known and max(module.kernel_size) <= WIDEST:
            module._conv_forward = partial(_by_triton, module._conv_forward, module)
    return net


def _by_triton(
    otherwise: Callable[..., Tensor], conv: nn.Conv3d, x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    x, weight = _cast(x, weight)
    known = x.dtype == weight.dtype and x.dtype in (torch.float32, torch.bfloat16) and 0 < x.numel() < MOST
    if not known or not _on_gpu(x) or not x.is_contiguous(memory_format=_format(x)):
        return otherwise(x, weight, bias)
    from autotsnet.layers.triton_kernels import depthwise  # there is no Triton for every machine

    out = depthwise(x, weight, list(conv.stride), list(conv.padding))
    return out if bias is None else out + bias.to(out.dtype).reshape(-1, 1, 1, 1)


def _on_gpu(x: Tensor) -> bool:
    return x.is_cuda


def _unchanged(x: Tensor) -> Tensor:
    return x


def _followed(net: nn.Module):
    """Norms with the activation that is their only reader, as far as the structure shows it."""
    if not all(f"{type(m).__module__}.".startswith(CALLED_WHOLE) for m in net.modules()):
        return
    seen: dict[nn.Module, int] = {}
    for parent in net.modules():
        for child in parent._modules.values():
            seen[child] = seen.get(child, 0) + 1

    def pair(norm: object, act: object) -> bool:
        return isinstance(norm, _BatchNorm) and type(act) in ACTS and seen[norm] == seen[act] == 1

    for module in net.modules():
        if type(module).forward is nn.Sequential.forward:
            layers = list(module)
            yield from ((a, b) for a, b in pairwise(layers) if pair(a, b))
        elif getattr(module, "order", None) == ("conv", "norm", "act") and module.with_norm and module.with_activation:
            yield from [(module.norm, module.activate)] if pair(module.norm, module.activate) else []


def _is_plain(conv: nn.Module) -> bool:
    own = type(conv)._conv_forward not in (nn.Conv2d._conv_forward, nn.Conv3d._conv_forward)
    return not own and conv.padding_mode == "zeros" and not isinstance(conv.padding, str) and set(conv.dilation) == {1}


def _is_depthwise(conv: nn.Module) -> bool:
    return 1 < conv.in_channels == conv.groups == conv.out_channels and conv.kernel_size[-1] <= WIDEST


def _is_pointwise(conv: nn.Module) -> bool:
    return conv.groups == 1 and set(conv.kernel_size) == {1} == set(conv.stride) and set(conv.padding) == {0}


def _format(x: Tensor) -> torch.memory_format:
    return torch.channels_last_3d if x.dim() == 5 else torch.channels_last


def _applies(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.numel() > 0 and x.is_contiguous(memory_format=_format(x))


def _cast(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """What autocast makes of a convolution's arguments."""
    if not torch.is_autocast_enabled(x.device.type):
        return x, weight
    dtype = torch.get_autocast_dtype(x.device.type)
    return x.to(dtype), weight.to(dtype)


def _array(x: Tensor) -> np.ndarray:
    """B C T H W or B C H W in channels-last order -> B T H W C, the same memory."""
    x = x.detach()
    return (x if x.dim() == 5 else x.unsqueeze(2)).permute(0, 2, 3, 4, 1).numpy()


def _rows(x: Tensor) -> np.ndarray:
    """The same -> B THW C."""
    x = _array(x)
    return x.reshape(x.shape[0], -1, x.shape[-1])


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def _clipwise(kernel: Callable[..., None], clips: int, *arguments: object) -> None:
    """Call a kernel for all clips, on torch's number of threads."""
    threads = min(torch.get_num_threads(), clips)
    if threads == 1:
        kernel(*arguments, 0, clips)
        return
    ends = [clips * i // threads for i in range(threads + 1)]
    for done in [_pool(threads).submit(kernel, *arguments, *part) for part in pairwise(ends)]:
        done.result()


def _convolution(conv: nn.Conv2d | nn.Conv3d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not _applies(x):
        return type(conv)._conv_forward(conv, x, weight, bias)
    options = conv.stride, conv.padding
    if torch.is_grad_enabled() and _is_depthwise(conv):
        x, weight = _cast(x, weight)
        if x.dtype == weight.dtype and x.dtype in PRECISIONS:
            return _Depthwise.apply(x, weight, bias, *options)
    single = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not single or not torch.backends.mkldnn.is_available():
        return type(conv)._conv_forward(conv, x, weight, bias)
    if torch.is_grad_enabled() and _is_pointwise(conv) and len(x) < 16 and torch.get_num_threads() == 1:
        return _Pointwise.apply(x, weight, bias)
    return _onednn(x, weight, bias, *options, conv.groups)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, stride=1, padding=0, groups: int = 1) -> Tensor:
    """By oneDNN: on one thread torch takes loops of its own for fewer than 16 clips, many times slower."""
    return torch.mkldnn_convolution(x, weight, bias, padding, stride, [1] * (x.dim() - 2), groups)


class _Pointwise(torch.autograd.Function):
    """A 1×1×1 convolution of few clips on one thread, for which torch does not take oneDNN."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return _onednn(x, weight, bias, [1] * (x.dim() - 2), [0] * (x.dim() - 2))

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        last = 0, *range(2, x.dim()), 1
        given = g.permute(last)
        grad_x = (given @ weight.flatten(1)).movedim(-1, 1) if ctx.needs_input_grad[0] else None
        given = given.flatten(0, -2)
        grad_weight = (given.T @ x.permute(last).flatten(0, -2)).reshape(weight.shape)
        return grad_x, grad_weight, given.sum(0) if ctx.biased else None


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution with the gradients of ``kernels``."""

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.options = stride, padding, bias is not None
        if x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
            return _onednn(x, weight, bias, stride, padding, x.shape[1])
        return (F.conv3d if x.dim() == 5 else F.conv2d)(x, weight, bias, stride, padding, 1, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        from autotsnet.layers import kernels  # numba takes half a second to import

        x, weight = ctx.saved_tensors
        stride, padding, biased = ctx.options
        precision = x.dtype
        if precision == torch.bfloat16:  # its sums would be too coarse
            x, weight, g = x.float(), weight.float(), g.float()
        g = g.contiguous(memory_format=_format(x))
        taps = weight.detach().reshape(-1, *(1, *weight.shape[2:])[-3:]).permute(1, 2, 3, 0).contiguous().numpy()
        given, strides, paddings = _array(g), (1, *stride)[-3:], (0, *padding)[-3:]
        at = taps.shape[2], strides[2], paddings[2]
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.empty_like(x)
            kernel = kernels.depthwise_grad_input(*at)
            _clipwise(kernel, len(x), given, taps, strides[:2], paddings[:2], _array(grad_x))
        if ctx.needs_input_grad[1]:
            each = np.zeros((len(x), *taps.shape), taps.dtype)
            kernel = kernels.depthwise_grad_weight(*at)
            _clipwise(kernel, len(x), _array(x), given, strides[:2], paddings[:2], each)
            grad_weight = torch.from_numpy(each.sum(0)).permute(3, 0, 1, 2).reshape(weight.shape)
        grad_bias = g.sum([0, *range(2, g.dim())]) if biased and ctx.needs_input_grad[2] else None
        grads = (None if a is None else a.to(precision) for a in (grad_x, grad_weight, grad_bias))
        return *grads, None, None


def _norm(norm: _BatchNorm, act: str, x: Tensor) -> Tensor:
    plain = x.dtype == norm.weight.dtype and x.dtype in PRECISIONS[:2] and x.numel() > x.shape[1]
    if plain and _applies(x) and (norm.training or norm.running_mean is None):
        remember = partial(_remember, norm) if norm.training and norm.running_mean is not None else None
        return _Norm.apply(x, norm.weight, norm.bias, norm.eps, act, remember)
    x = type(norm).forward(norm, x)
    return getattr(F, act.lower())(x) if act else x


def _remember(norm: _BatchNorm, mean: np.ndarray, variance: np.ndarray) -> None:
    """Move the running statistics towards a batch's, as torch does; ``momentum=None`` is a cumulative mean."""
    norm.num_batches_tracked.add_(1)
    share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    for running, new in ((norm.running_mean, mean), (norm.running_var, variance)):
        running.lerp_(torch.from_numpy(new).to(running.dtype), share)


class _Norm(torch.autograd.Function):
    """Batch norm by the batch's own statistics, and the activation after it; only the input is kept."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps, act, remember):
        from autotsnet.layers import kernels

        rows = _rows(x)
        clips, count, channels = rows.shape
        means, squares = np.zeros((clips, channels)), np.zeros((clips, channels))
        _clipwise(kernels.moments, clips, rows, means, squares)
        mean = means.mean(0)
        square = squares.sum(0) + count * ((means - mean) ** 2).sum(0)
        count *= clips
        if remember:
            remember(mean, square / max(count - 1, 1))
        inverse = 1 / np.sqrt(square / count + eps)
        scale = weight.detach().numpy() * inverse
        shift = bias.detach().numpy() - mean * scale
        scale, shift, center = (a.astype(rows.dtype) for a in (scale, shift, mean))
        out = torch.empty_like(x)
        forward, _ = kernels.norm_act(act, rows.dtype == np.float64)
        _clipwise(forward, clips, rows, scale, shift, _rows(out))
        ctx.save_for_backward(x)
        ctx.statistics, ctx.act = (center, inverse, scale, shift), act
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        from autotsnet.layers import kernels

        (x,) = ctx.saved_tensors
        center, inverse, scale, shift = ctx.statistics
        g = g.contiguous(memory_format=_format(x))
        rows, given, grad_x = _rows(x), _rows(g), torch.empty_like(x)
        clips, count, channels = rows.shape
        sums, dots, out = np.zeros((clips, channels)), np.zeros((clips, channels)), _rows(grad_x)
        _, backward = kernels.norm_act(ctx.act, rows.dtype == np.float64)
        _clipwise(backward, clips, rows, given, scale, shift, center, out, sums, dots)
        grad_bias, grad_weight = sums.sum(0), dots.sum(0) * inverse
        if ctx.needs_input_grad[0]:
            slope = -scale * inverse * grad_weight / (count * clips)
            offset = -scale * grad_bias / (count * clips) - slope * center
            slope, offset = slope.astype(rows.dtype), offset.astype(rows.dtype)
            before = out if ctx.act else given
            _clipwise(kernels.norm_grad_input, clips, rows, before, scale, slope, offset, out)
        grad_weight, grad_bias = (torch.from_numpy(a.astype(rows.dtype)) for a in (grad_weight, grad_bias))
        return grad_x, grad_weight, grad_bias, None, None, None
