"""Speed: forward passes of a network in every mode, and the machine's own rate to compare them with.

Few GMACs do not mean high speed. A pass is timed after a warm-up that lasts until times are stable, with the device
synchronised, at least 20 times; the median and the interquartile range over it are reported. A network's share of the
machine is its multiply-accumulates per second, divided by those of the device's matrix product in the same run and
precision.
"""

from __future__ import annotations

import ctypes
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from autotsnet.inputs import example, inputs_of
from reproduce.records import Throughput, device_name

REPEATS = 20  # passes timed, at least
STABLE = 0.05  # the medians of two windows of warm-up passes in a row differ by less
WINDOW = 3
MOST_WINDOWS = 10
GAIN = 1.03  # a sweep goes on while a doubled batch brings this factor in clips/s


@dataclass(frozen=True)
class Mode:
    """How a network is run.

    Attributes:
        precision: ``fp32`` or ``bf16`` (autocast).
        channels_last: the order of activations and weights.
        compiled: by ``torch.compile``, for fixed shapes.
    """

    precision: str = "fp32"
    channels_last: bool = True
    compiled: bool = False

    def __str__(self) -> str:
        """``bf16, channels-last, compiled``."""
        order = "channels-last" if self.channels_last else "contiguous"
        return f"{self.precision}, {order}" + (", compiled" if self.compiled else "")

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """The context of its forward passes."""
        return torch.autocast(device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def clips(self, net: nn.Module, frames: int, crop: int, batch: int) -> tuple[Tensor, ...]:
        """Random clips for a network, on its device, in the mode's order."""
        order = torch.channels_last_3d if self.channels_last else torch.contiguous_format
        clips = example(inputs_of(net), frames, crop, batch, next(net.parameters()).device)
        return tuple(clip.to(memory_format=order) for clip in clips)

    def prepared(self, net: nn.Module) -> nn.Module:
        """The network for inference in this mode; its weights are reordered in place."""
        net.eval()
        for p in net.parameters():
            order = {5: torch.channels_last_3d, 4: torch.channels_last}.get(p.dim(), torch.contiguous_format)
            p.data = p.data.contiguous(memory_format=order if self.channels_last else torch.contiguous_format)
        if self.compiled:
            torch.compiler.reset()
            return torch.compile(net, dynamic=False)
        return net


WAYS = ((True, False), (False, False), (True, True), (False, True))
MODES = tuple(Mode(precision, order, compiled) for precision in ("fp32", "bf16") for order, compiled in WAYS)


@dataclass(frozen=True)
class Timing:
    """Seconds of one pass."""

    median: float
    spread: float  # interquartile range / median
    repeats: int
    stable: bool = True  # the warm-up ended because times were stable, not because it had lasted long enough

    @classmethod
    def of(cls, seconds: list[float], stable: bool = True) -> Timing:
        """The timing of single passes."""
        low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75))
        return cls(float(median), float((high - low) / median), len(seconds), stable)


def time_passes(step: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> Timing:
    """Time a step once it is warm: ``step`` is one pass, ``device`` is synchronised after each."""

    def once() -> float:
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    with torch.inference_mode():
        once()  # memory is taken, kernels are chosen, graphs are compiled
        before, stable = np.inf, False
        for _ in range(MOST_WINDOWS):
            now = np.median([once() for _ in range(WINDOW)])
            stable = abs(now / before - 1) < STABLE
            if stable:
                break
            before = now
        return Timing.of([once() for _ in range(repeats)], bool(stable))


def forward_throughput(net: nn.Module, frames: int, crop: int, *, batch: int = 16) -> Throughput:
    """Time forward passes of one batch, fp32, channels-last, in evaluation mode, on the device of the network.

    Args:
        net: clips B C T H W -> B N.
        frames: T.
        crop: H and W.
        batch: clips per pass.
    """
    device, mode = next(net.parameters()).device, Mode()
    clips = mode.clips(net, frames, crop, batch)
    net = mode.prepared(net)
    timing = time_passes(lambda: net(*clips), device)
    return Throughput(
        clips_per_s=batch / timing.median,
        spread=timing.spread,
        batch=batch,
        repeats=timing.repeats,
        device=device_name(),
        precision="fp32, TF32 convolutions" if tf32(device) else "fp32",
        threads=torch.get_num_threads(),
    )


def tf32(device: torch.device) -> bool:
    """Whether a device runs fp32 convolutions in TensorFloat-32: on GPUs that have it, if torch allows it."""
    allowed = device.type == "cuda" and torch.backends.cudnn.allow_tf32
    return allowed and torch.cuda.get_device_capability(device) >= (8, 0)


def sweep(
    net: nn.Module, frames: int, crop: int, mode: Mode, largest: int, limit: float
) -> Iterator[tuple[int, Timing]]:
    """Batches of 1, 2, 4, … and their times, until more clips at once bring less than 3 % more of them per second.

    It also ends at ``largest``, where a pass would take longer than ``limit`` seconds, and where memory is full, which
    is an error at batch 1.

    Args:
        net: as ``Mode.prepared`` returned it.
        frames: T.
        crop: H and W.
        mode: the same.
        largest: batch.
        limit: seconds.
    """
    device = next(net.parameters()).device
    rate, batch = 0.0, 1
    while batch <= largest:
        if mode.compiled:
            torch.compiler.reset()  # of one network, only eight shapes are compiled
        try:
            clips = mode.clips(net, frames, crop, batch)
            with mode.autocast(device):
                timing = time_passes(lambda clips=clips: net(*clips), device)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            return
        yield batch, timing
        if batch / timing.median < GAIN * rate or 2 * timing.median > limit:
            return
        rate, batch = batch / timing.median, 2 * batch


def matmul_rate(device: torch.device, precision: str, side: int = 0) -> float:
    """GMACs per second of a square matrix product, the best of a few sizes.

    Args:
        device: where.
        precision: ``fp32`` or ``bf16``.
        side: of the matrices; 0: of a few sizes, the fastest.
    """
    if not side:
        sizes = (2048, 4096, 8192) if device.type == "cuda" else (512, 1024, 2048)
        return max(matmul_rate(device, precision, n) for n in sizes)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32  # as the convolutions
    try:
        return side**3 / time_passes(lambda: a @ b, device).median / 1e9
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def peak_memory(step: Callable[[], object], device: torch.device) -> float:
    """Peak MiB of one pass, without weights and clips.

    On a GPU from torch's allocator; on a CPU from the process's peak, which Linux resets on demand; elsewhere nan.
    """
    with torch.inference_mode():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            step()
            return (torch.cuda.max_memory_allocated(device) - before) / 2**20
        try:
            ctypes.CDLL(None).malloc_trim(0)  # what earlier passes left with the allocator
            Path("/proc/self/clear_refs").write_text("5")
        except (AttributeError, OSError):
            return float("nan")
        before = _resident("VmRSS")
        step()
        return _resident("VmHWM") - before


def _resident(field: str) -> float:
    """MiB of this process."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(f"{field}:"))) / 2**10


def state_under(step: Callable[[], object], device: torch.device) -> str:
    """Clocks and throttling while passes run, from the driver; empty if the driver gives none.

    An idle device has other clocks: passes go on until the driver has answered.
    """
    if device.type != "cuda":
        return ""
    fields = "clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu,power.draw,clocks_throttle_reasons.active"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    command.append(f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}")
    try:
        query = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return ""
    end = time.monotonic() + 20
    with query, torch.inference_mode():
        while query.poll() is None:
            step()
            torch.cuda.synchronize(device)
            if time.monotonic() > end:
                query.kill()
        answer = query.stdout.read().strip()
    return f"SM clock, its maximum, memory clock, °C, power, throttle reasons: {answer}" if not query.returncode else ""
