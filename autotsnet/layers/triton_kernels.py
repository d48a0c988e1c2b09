"""A depthwise convolution of clips on a GPU, and its gradients, by Triton.

Not measured on any GPU yet, tested in Triton's interpreter only: a recipe must ask for it, ``depthwise="triton"``.

Clips are B C T H W in channels-last order: B T H W C in memory. A program computes a tile of positions × channels, in
single precision whatever the clips are. Nothing is added up atomically: a repeated run gives the same bits. Sizes that
end in ``_in`` are those of what is read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 2048  # positions × channels of a program
MOST_CHANNELS = 64  # of a tile
STEPS = 64  # tiles, at the most, that a program sums for the weights' gradient


@triton.jit
def _tap(at, k, size, stride: tl.constexpr, padding: tl.constexpr, back: tl.constexpr):
    """What tap k reads along one axis for a place of the output, and whether it is inside."""
    place = at + padding - k if back else at * stride - padding + k
    source = place // stride if back else place
    inside = (place >= 0) & (source < size)
    if back:
        inside = inside & (place % stride == 0)
    return source, inside


@triton.jit
def _correlate(
    x,
    weight,
    out,
    count,
    channels,
    frames_in,
    height_in,
    width_in,
    frames,
    height,
    width,
    kernel_t: tl.constexpr,
    kernel_h: tl.constexpr,
    kernel_w: tl.constexpr,
    stride_t: tl.constexpr,
    stride_h: tl.constexpr,
    stride_w: tl.constexpr,
    padding_t: tl.constexpr,
    padding_h: tl.constexpr,
    padding_w: tl.constexpr,
    back: tl.constexpr,
    N: tl.constexpr,
    C: tl.constexpr,
):
    """The convolution of ``x``, or with ``back`` the gradient of its input, ``x`` being that of its output.

    ``weight`` is k_t k_h k_w C, ``count`` the number of places of ``out``.
    """
    n = tl.program_id(0) * N + tl.arange(0, N)
    c = tl.program_id(1) * C + tl.arange(0, C)
    w, h, t = n % width, n // width % height, n // (width * height) % frames
    b = n // (width * height * frames)
    real = c < channels
    total = tl.zeros((N, C), tl.float32)
    for i in range(kernel_t):
        t_in, t_ok = _tap(t, i, frames_in, stride_t, padding_t, back)
        for j in range(kernel_h):
            h_in, h_ok = _tap(h, j, height_in, stride_h, padding_h, back)
            row = ((b * frames_in + t_in) * height_in + h_in) * width_in
            row_ok = t_ok & h_ok & (n < count)
            for k in tl.static_range(kernel_w):
                w_in, w_ok = _tap(w, k, width_in, stride_w, padding_w, back)
                tap = tl.load(weight + ((i * kernel_h + j) * kernel_w + k) * channels + c, mask=real, other=0.0)
                mask = (row_ok & w_ok)[:, None] & real[None, :]
                seen = tl.load(x + (row + w_in)[:, None] * channels + c[None, :], mask=mask, other=0.0)
                total += seen.to(tl.float32) * tap.to(tl.float32)[None, :]
    mask = (n < count)[:, None] & real[None, :]
    tl.store(out + n[:, None] * channels + c[None, :], total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _grad_weight(
    x,
    g,
    out,
    count,
    channels,
    frames_in,
    height_in,
    width_in,
    frames,
    height,
    width,
    kernel_h: tl.constexpr,
    kernel_w: tl.constexpr,
    stride_t: tl.constexpr,
    stride_h: tl.constexpr,
    stride_w: tl.constexpr,
    padding_t: tl.constexpr,
    padding_h: tl.constexpr,
    padding_w: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    steps: tl.constexpr,
):
    """A chunk's part of the gradient of a row of taps; ``out`` is chunks k_t k_h k_w C, ``K`` ≥ k_w a power of two."""
    taps, part = tl.program_id(0), tl.program_id(2)
    i, j = taps // kernel_h, taps % kernel_h
    c = tl.program_id(1) * C + tl.arange(0, C)
    k = tl.arange(0, K)
    real = (k < kernel_w)[:, None] & (c < channels)[None, :]  # K C
    total = tl.zeros((N, K, C), tl.float32)
    for step in range(steps):
        n = (part * steps + step) * N + tl.arange(0, N)
        w, h, t = n % width, n // width % height, n // (width * height) % frames
        b = n // (width * height * frames)
        t_in, t_ok = _tap(t, i, frames_in, stride_t, padding_t, False)
        h_in, h_ok = _tap(h, j, height_in, stride_h, padding_h, False)
        w_in, w_ok = _tap(w[:, None], k[None, :], width_in, stride_w, padding_w, False)  # N K
        given = tl.load(
            g + n[:, None] * channels + c[None, :], mask=(n < count)[:, None] & (c < channels)[None, :], other=0.0
        )
        place = (((b * frames_in + t_in) * height_in + h_in) * width_in)[:, None] + w_in
        mask = ((t_ok & h_ok & (n < count))[:, None] & w_ok)[:, :, None] & real[None, :, :]
        seen = tl.load(x + place[:, :, None] * channels + c[None, None, :], mask=mask, other=0.0)
        total += given.to(tl.float32)[:, None, :] * seen.to(tl.float32)
    place = (part * tl.num_programs(0) + taps) * kernel_w + k
    tl.store(out + place[:, None] * channels + c[None, :], tl.sum(total, axis=0), mask=real)


def _ordered(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


def _empty(x: Tensor, shape: list[int]) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)


def _out_shape(x: Tensor, weight: Tensor, stride: list[int], padding: list[int]) -> list[int]:
    sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)
    return [*x.shape[:2], *((size + 2 * p - k) // s + 1 for size, k, s, p in sizes)]


def _channels(x: Tensor) -> int:
    """Number of channels in a tile, a power of two."""
    return min(MOST_CHANNELS, max(16, triton.next_power_of_2(x.shape[1])))


def _correlated(
    x: Tensor, weight: Tensor, shape: list[int], stride: list[int], padding: list[int], back: bool
) -> Tensor:
    x, out, c = _ordered(x), _empty(x, shape), _channels(x)
    taps = weight.flatten(1).T.contiguous()
    count, n = out.numel() // out.shape[1], TILE // c
    grid = triton.cdiv(count, n), triton.cdiv(out.shape[1], c)
    sizes = out.shape[1], *x.shape[2:], *out.shape[2:]
    _correlate[grid](x, taps, out, count, *sizes, *weight.shape[2:], *stride, *padding, back, n, c)
    return out


@torch.library.custom_op("autotsnet::depthwise", mutates_args=())
def depthwise(x: Tensor, weight: Tensor, stride: list[int], padding: list[int]) -> Tensor:
    """A depthwise convolution, without bias; differentiable once, and opaque to ``torch.compile``.

    Args:
        x: B C T H W, fp32 or bf16, on a GPU; in channels-last order, or it is copied; fewer than 2³¹ numbers.
        weight: C 1 k_t k_h k_w, of the same precision.
        stride: of T H W.
        padding: of T H W, by zeros.

    Returns:
        B C T' H' W' in channels-last order.
    """
    return _correlated(x, weight, _out_shape(x, weight, stride, padding), stride, padding, False)


@torch.library.custom_op("autotsnet::depthwise_grad_input", mutates_args=())
def grad_input(g: Tensor, weight: Tensor, shape: list[int], stride: list[int], padding: list[int]) -> Tensor:
    """Gradient of the input of ``depthwise``, which has this shape, from that of its output."""
    return _correlated(g, weight, shape, stride, padding, True)


@torch.library.custom_op("autotsnet::depthwise_grad_weight", mutates_args=())
def grad_weight(x: Tensor, g: Tensor, kernel: list[int], stride: list[int], padding: list[int]) -> Tensor:
    """Gradient of the weight of ``depthwise``, of a kernel of this size, from input and gradient of the output."""
    x, g, channels, c = _ordered(x), _ordered(g), x.shape[1], min(32, _channels(x))
    k = triton.next_power_of_2(kernel[2])
    n, count = 2 * TILE // (k * c), g.numel() // channels
    steps = min(STEPS, triton.next_power_of_2(triton.cdiv(count, n)))
    grid = kernel[0] * kernel[1], triton.cdiv(channels, c), triton.cdiv(count, n * steps)
    parts = torch.empty(grid[2], *kernel, channels, dtype=torch.float32, device=x.device)
    sizes = channels, *x.shape[2:], *g.shape[2:]
    _grad_weight[grid](x, g, parts, count, *sizes, *kernel[1:], *stride, *padding, n, k, c, steps)
    return parts.sum(0).movedim(-1, 0).unsqueeze(1).to(x.dtype).contiguous()


@depthwise.register_fake
def _(x, weight, stride, padding):
    return _empty(x, _out_shape(x, weight, stride, padding))


@grad_input.register_fake
def _(g, weight, shape, stride, padding):
    return _empty(g, shape)


@grad_weight.register_fake
def _(x, g, kernel, stride, padding):
    return x.new_empty(x.shape[1], 1, *kernel)


def _remember(ctx, inputs, output) -> None:
    x, weight, ctx.stride, ctx.padding = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, g: Tensor):
    x, weight = ctx.saved_tensors
    options, grad_x, grad_w = (ctx.stride, ctx.padding), None, None
    if ctx.needs_input_grad[0]:
        grad_x = grad_input(g, weight, list(x.shape), *options)
    if ctx.needs_input_grad[1]:
        grad_w = grad_weight(x, g, list(weight.shape[2:]), *options)
    return grad_x, grad_w, None, None


depthwise.register_autograd(_backward, setup_context=_remember)
