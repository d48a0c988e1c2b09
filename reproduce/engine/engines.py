"""What runs a network in a test on a CPU: torch, or a compiler, where a test is long enough to pay for it.

The choice is a short measurement, remembered beside the solved budgets and stated in the run's record. An engine whose
logits are not torch's to rounding is not taken.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from reproduce.budget import remembered
from reproduce.engine.inference import TOLERANCE, accelerate, by_onednn, fold

PRECISIONS = ("fp32", "bf16")
COARSE = 0.05  # of bf16's logits to fp32's, over the largest: a part that is not run as it should be is far outside


class EngineError(RuntimeError):
    """An engine does not compute what torch computes."""


class InTorch(nn.Module):
    """torch, operator by operator: see ``accelerate``; bf16 by autocast."""

    def __init__(self, net: nn.Module, clips: tuple[Tensor, ...], precision: str) -> None:
        super().__init__()
        self.net, self.bf16 = net, precision == "bf16"
        if self.bf16 and not torch_is_safe():
            raise EngineError(f"its bf16 is not safe on this CPU; set {NO_AMX}")
        by_onednn(net)

    def forward(self, *clips: Tensor) -> Tensor:
        """Logits B N."""
        with torch.autocast(clips[0].device.type, torch.bfloat16) if self.bf16 else nullcontext():
            return self.net(*clips)


class InInductor(nn.Module):
    """``torch.compile`` with its weights frozen into the code, for each shape of clips that comes."""

    def __init__(self, net: nn.Module, clips: tuple[Tensor, ...], precision: str) -> None:
        super().__init__()
        self.bf16 = precision == "bf16"
        self.compiled = torch.compile(net, dynamic=False, options={"freezing": True})

    def forward(self, *clips: Tensor) -> Tensor:
        """Logits B N."""
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext():
            return self.compiled(*clips)


class InOpenVINO(nn.Module):
    """OpenVINO, compiled for each shape of clips that comes, on torch's number of threads."""

    def __init__(self, net: nn.Module, clips: tuple[Tensor, ...], precision: str) -> None:
        super().__init__()
        self.model, self.precision = to_openvino(net, clips), {"fp32": "f32", "bf16": "bf16"}[precision]
        self.compiled: dict[tuple, Any] = {}

    def forward(self, *clips: Tensor) -> Tensor:
        """Logits B N."""
        import openvino

        shapes = tuple(tuple(clip.shape) for clip in clips)
        if shapes not in self.compiled:
            model = self.model.clone()
            model.reshape(dict(enumerate(shapes)))
            threads = torch.get_num_threads()
            hints = {"INFERENCE_PRECISION_HINT": self.precision, "INFERENCE_NUM_THREADS": threads}
            self.compiled[shapes] = openvino.compile_model(model, "CPU", hints)
        logits = self.compiled[shapes]([clip.contiguous().numpy() for clip in clips])[0]
        return torch.from_numpy(logits.copy())


def to_openvino(net: nn.Module, clips: tuple[Tensor, ...]) -> Any:
    """An ``openvino.Model`` of a network in eval mode, for any number of clips.

    Args:
        net: clips B C T H W to logits B N.
        clips: what it takes; their T, H and W are kept.
    """
    import openvino

    two = tuple(torch.cat([clip[:1]] * 2) for clip in clips)  # of a single one, B is taken for a constant
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter, of its own calls
        program = torch.export.export(net, two, dynamic_shapes=({0: Dim("batch", min=1)},) * len(two))
        return openvino.convert_model(program)


def _no_compiler() -> bool:
    return not (shutil.which("g++") or shutil.which("clang++"))


@dataclass(frozen=True)
class Engine:
    """A way to run a network.

    Attributes:
        make: of a folded network, clips and precision.
        pays: seconds that a test takes with torch, from which on it is tried.
        missing: whether it cannot be had here.
    """

    make: Callable[[nn.Module, tuple[Tensor, ...], str], nn.Module]
    pays: float = 0.0
    missing: Callable[[], bool] = lambda: False


ENGINES = {
    "inductor": Engine(InInductor, 900, _no_compiler),
    "openvino": Engine(InOpenVINO, 60, lambda: not find_spec("openvino")),
    "torch": Engine(InTorch),  # last: the others are made from the network that it changes
}


def has_bf16() -> bool:
    """Whether this machine computes in bf16; otherwise torch emulates it."""
    return torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()


NO_AMX = "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16"


def torch_is_safe() -> bool:
    """Whether torch may compute in bf16 here.

    With AMX, the bf16 convolutions of torch 2.11 write beside their memory (seen with SlowFast's, which have few
    channels); with ``NO_AMX`` in the environment they do not use it. OpenVINO is not concerned.
    """
    amx = not torch.cuda.is_available() and torch.cpu._is_amx_tile_supported()
    return not amx or os.environ.get("ONEDNN_MAX_CPU_ISA", "").startswith(("AVX", "SSE"))


def available(precision: str) -> str:
    """The precision, or fp32 with a line where bf16 cannot be had."""
    if precision == "bf16" and not has_bf16():
        print("  this CPU has no bf16: tested in fp32", file=sys.stderr)
        return "fp32"
    if precision == "bf16" and not torch_is_safe() and ENGINES["openvino"].missing():
        print(
            f"  torch's bf16 is not safe on this CPU: tested in fp32; install openvino, or set {NO_AMX}",
            file=sys.stderr,
        )
        return "fp32"
    return precision


@torch.no_grad()
def engine(net: nn.Module, clips: tuple[Tensor, ...], name: str, precision: str = "fp32") -> nn.Module:
    """A network as an engine runs it; the network itself is folded.

    Args:
        net: in eval mode, on the CPU.
        clips: a batch of them.
        name: one of ``ENGINES``.
        precision: ``fp32`` or ``bf16``.

    Raises:
        EngineError: its logits are others than torch's; an engine may raise any other error, too.
    """
    fold(net, *(clip[:1] for clip in clips))
    logits = net(*clips)
    made = ENGINES[name].make(net, clips, precision)
    difference = (made(*clips) - logits).abs().max() / logits.abs().max().clamp(min=1)
    if not difference <= (TOLERANCE if precision == "fp32" else COARSE):
        way_out = "; take test_amp out of the recipe" if precision == "bf16" else ""
        raise EngineError(f"its logits in {precision} differ by {difference:.1e} from torch's in fp32{way_out}")
    return made


@torch.no_grad()
def raced(
    net: nn.Module, clips: tuple[Tensor, ...], names: Sequence[str], precision: str = "fp32"
) -> dict[str, tuple[float, nn.Module]]:
    """Seconds of one pass by each engine, and the network as it runs it, of those that agree with torch.

    Args:
        net: in eval mode, on the CPU; it is folded, and torch's engine changes it further.
        clips: a batch of them.
        names: of engines.
        precision: ``fp32`` or ``bf16``.
    """
    found = {}
    for name in (n for n in ENGINES if n in names):
        try:
            made = engine(net, clips, name, precision)
            found[name] = min(_time(made, clips) for _ in range(3)), made
        except Exception as error:  # exporters and compilers raise any error
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"  {name} is not used: {why}", file=sys.stderr)
    return found


def _time(net: nn.Module, clips: tuple[Tensor, ...]) -> float:
    start = perf_counter()
    net(*clips)
    return perf_counter() - start


@torch.no_grad()
def chosen(
    build: Callable[[], nn.Module],
    clips: tuple[Tensor, ...],
    passes: int,
    precision: str,
    memory: Path | None,
    key: Sequence[Any],
) -> str:
    """The engine that a test is quickest with, if it computes what torch computes.

    Args:
        build: makes the network, in eval mode, on the CPU.
        clips: a batch as most of the test's.
        passes: of such batches in the test.
        precision: ``fp32`` or ``bf16``.
        memory: folder of remembered measurements.
        key: of the network and machine.
    """
    if precision == "bf16" and not torch_is_safe():
        return "openvino"
    quick = build()
    accelerate(quick, *(clip[:1] for clip in clips))
    ordered = tuple(clip.contiguous(memory_format=torch.channels_last_3d) for clip in clips)
    quick(*ordered)
    long = passes * _time(quick, ordered)
    worth = [name for name, e in ENGINES.items() if e.pays <= long]
    tried = [name for name in worth if not ENGINES[name].missing()]
    if "openvino" in tried and "inductor" in tried:
        tried.remove("inductor")  # slower, and it compiles for a minute
    if tried == ["torch"]:
        return "torch"

    def measured() -> dict[str, float]:
        return {name: seconds for name, (seconds, _) in raced(build(), clips, tried, precision).items()}

    seconds = remembered(memory, [*key, tried, precision], measured)
    best = min(seconds, key=seconds.get)
    try:
        engine(build(), clips, best, precision)  # of these weights
    except Exception as error:
        print(f"  {best} is not used: {str(error).splitlines()[0]}", file=sys.stderr)
        return "torch"
    return best
