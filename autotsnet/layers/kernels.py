"""Loops over channels-last arrays, compiled by numba: what torch 2.11 computes slowly on a CPU when it trains.

Arrays are B T H W C, or B N C with N = T H W. Each kernel works on the clips from ``first`` to ``last`` and writes what
belongs to each clip apart, so that no result depends on the number of threads. Compiled code is kept on disk, beside
this file or in ``NUMBA_CACHE_DIR``; compiling takes seconds, once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit, types
from numba.extending import overload

# Fused multiply-adds; nothing is reordered or taken as finite, except in the order that the loops state.
_JIT = njit(cache=True, nogil=True, boundscheck=False, error_model="numpy", fastmath={"contract", "nsz"})

ROWS = 256  # whose sum is kept in the arrays' own precision, before it is added to a sum in double precision


@cache
def depthwise_grad_weight(kernel_w: int, stride_w: int, padding_w: int) -> Callable[..., None]:
    """Gradient of the weights of a depthwise convolution: ``(x, g, stride, padding, out, first, last)``.

    ``x`` B T H W C, ``g`` B T' H' W' C, stride and padding of T and H, ``out`` B k_t k_h k_w C of zeros.
    """

    @_JIT
    def grad_weight(x, g, stride, padding, out, first, last):
        _, frames, height, width, channels = x.shape
        _, frames_out, height_out, width_out, _ = g.shape
        _, kernel_t, kernel_h, _, _ = out.shape
        # Columns of the output whose whole window is inside.
        low = min((padding_w + stride_w - 1) // stride_w, width_out)
        high = min(width_out, (width - kernel_w + padding_w) // stride_w + 1)
        for b in range(first, last):
            for t_out in range(frames_out):
                for h_out in range(height_out):
                    row = g[b, t_out, h_out]
                    for i in range(kernel_t):
                        t = t_out * stride[0] + i - padding[0]
                        if t < 0 or t >= frames:
                            continue
                        for j in range(kernel_h):
                            h = h_out * stride[1] + j - padding[1]
                            if h < 0 or h >= height:
                                continue
                            seen, total = x[b, t, h], out[b, i, j]
                            w = low
                            while w + 1 < high:  # two at a time: half of the additions to memory
                                for k in range(kernel_w):
                                    at = w * stride_w + k - padding_w
                                    for c in range(channels):
                                        total[k, c] += row[w, c] * seen[at, c] + row[w + 1, c] * seen[at + stride_w, c]
                                w += 2
                            for edge in range(width_out):
                                if low <= edge < w:
                                    continue
                                for k in range(kernel_w):
                                    at = edge * stride_w + k - padding_w
                                    if 0 <= at < width:
                                        for c in range(channels):
                                            total[k, c] += row[edge, c] * seen[at, c]

    return grad_weight


@cache
def depthwise_grad_input(kernel_w: int, stride_w: int, padding_w: int) -> Callable[..., None]:
    """Gradient of the input of a depthwise convolution: ``(g, weight, stride, padding, out, first, last)``.

    ``g`` B T' H' W' C, ``weight`` k_t k_h k_w C, stride and padding of T and H, ``out`` B T H W C.
    """

    @_JIT
    def grad_input(g, weight, stride, padding, out, first, last):
        _, frames, height, width, channels = out.shape
        _, frames_out, height_out, width_out, _ = g.shape
        kernel_t, kernel_h, _, _ = weight.shape
        for b in range(first, last):
            for t in range(frames):
                for h in range(height):
                    total = out[b, t, h]
                    total[:] = 0
                    for i in range(kernel_t):
                        t_out, off = divmod(t + padding[0] - i, stride[0])
                        if off or t_out < 0 or t_out >= frames_out:
                            continue
                        for j in range(kernel_h):
                            h_out, off = divmod(h + padding[1] - j, stride[1])
                            if off or h_out < 0 or h_out >= height_out:
                                continue
                            row, taps = g[b, t_out, h_out], weight[i, j]
                            for w in range(width):
                                here = total[w]
                                if stride_w == 1 and kernel_w - 1 <= w + padding_w < width_out:
                                    for c in range(channels):
                                        value = here[c]
                                        for k in range(kernel_w):
                                            value += row[w + padding_w - k, c] * taps[k, c]
                                        here[c] = value
                                    continue
                                for k in range(kernel_w):
                                    at, off = divmod(w + padding_w - k, stride_w)
                                    if off == 0 and 0 <= at < width_out:
                                        for c in range(channels):
                                            here[c] += row[at, c] * taps[k, c]

    return grad_input


_LOG2_E, _LN2 = np.float32(1 / math.log(2)), np.float32(0.693359375)  # of few digits: its multiples are exact
_LN2_REST = np.float32(math.log(2) - 0.693359375)
_2, _3, _4, _5, _6 = (np.float32(1 / math.factorial(n)) for n in range(2, 7))
_ONE, _MOST, _ROUND = np.float32(1), np.float32(87), np.float32(1.5 * 2**23)


def _sigmoid(u):
    """The sigmoid of a float32 or float64, in kernels. It is no closure: numba could not read that from its cache."""


def _sigmoid32(u):
    # 1 / (1 + e^z): of e^z, the whole powers of two are an exponent, the rest is a polynomial. The compiler makes
    # vectors of this, not of a call of exp.
    z = min(max(-u, -_MOST), _MOST)
    rounded = np.float32(z * _LOG2_E + _ROUND)
    whole = rounded - _ROUND
    f = z - whole * _LN2 - whole * _LN2_REST
    power = _ONE + f * (_ONE + f * (_2 + f * (_3 + f * (_4 + f * (_5 + f * _6)))))
    power *= np.int32((rounded.view(np.int32) + np.int32(127)) << np.int32(23)).view(np.float32)
    return _ONE / (_ONE + power)


def _sigmoid64(u):
    return 1 / (1 + math.exp(-u))


@overload(_sigmoid, inline="always", jit_options=dict(error_model="numpy", fastmath={"contract", "nsz"}))
def _(u):
    return _sigmoid32 if u is types.float32 else _sigmoid64


@_JIT
def moments(x, mean, square, first, last):
    """Of each clip and channel: mean and sum of squared differences, ``B C`` in double precision, of zeros before."""
    _, rows, channels = x.shape
    center, total = np.empty(channels, x.dtype), np.empty(channels, x.dtype)
    for b in range(first, last):
        clip = x[b]
        for begin in range(0, rows, ROWS):
            end = min(rows, begin + ROWS)
            count = end - begin
            center[:] = 0
            total[:] = 0
            for n in range(begin, end):
                for c in range(channels):
                    center[c] += clip[n, c]
            for c in range(channels):
                center[c] /= count
            for n in range(begin, end):
                for c in range(channels):
                    off = clip[n, c] - center[c]
                    total[c] += off * off
            for c in range(channels):  # Chan, Golub and LeVeque's update
                off = center[c] - mean[b, c]
                mean[b, c] += off * count / end
                square[b, c] += total[c] + off * off * (begin * count / end)


@cache
def norm_act(act: str, double: bool) -> tuple[Callable[..., None], Callable[..., None]]:
    """``act(x scale + shift)`` and what its gradient needs; ``act`` is ``""``, ``ReLU`` or ``SiLU``.

    Forward: ``(x, scale, shift, out, first, last)``. Backward: ``(x, g, scale, shift, mean, out, sums, dots, first,
    last)``: ``out`` becomes the gradient before the activation (untouched without one), ``sums`` and ``dots`` B C its
    sum and its product with ``x - mean``.
    """
    relu, silu = act == "ReLU", act == "SiLU"
    number = np.float64 if double else np.float32

    @_JIT
    def forward(x, scale, shift, out, first, last):
        _, rows, channels = x.shape
        for b in range(first, last):
            for n in range(rows):
                clip, to = x[b, n], out[b, n]
                for c in range(channels):
                    u = clip[c] * scale[c] + shift[c]
                    if relu:
                        u = max(u, number(0))
                    if silu:
                        u *= _sigmoid(u)
                    to[c] = u

    @_JIT
    def backward(x, g, scale, shift, mean, out, sums, dots, first, last):
        _, rows, channels = x.shape
        total, dot = np.empty(channels, x.dtype), np.empty(channels, x.dtype)
        for b in range(first, last):
            for begin in range(0, rows, ROWS):
                total[:] = 0
                dot[:] = 0
                for n in range(begin, min(rows, begin + ROWS)):
                    clip, given = x[b, n], g[b, n]
                    if relu or silu:
                        to = out[b, n]
                        for c in range(channels):
                            u = clip[c] * scale[c] + shift[c]
                            if relu:
                                to[c] = given[c] if u > 0 else number(0)
                            if silu:
                                s = _sigmoid(u)
                                to[c] = given[c] * (s * (number(1) + u * (number(1) - s)))
                        given = to
                    for c in range(channels):
                        total[c] += given[c]
                        dot[c] += given[c] * (clip[c] - mean[c])
                for c in range(channels):
                    sums[b, c] += total[c]
                    dots[b, c] += dot[c]

    return forward, backward


@_JIT
def norm_grad_input(x, g, scale, slope, shift, out, first, last):
    """``out = g scale + x slope + shift``, the gradient of a norm's input; ``out`` may be ``g``."""
    _, rows, channels = x.shape
    for b in range(first, last):
        for n in range(rows):
            clip, given, to = x[b, n], g[b, n], out[b, n]
            for c in range(channels):
                to[c] = given[c] * scale[c] + clip[c] * slope[c] + shift[c]
