"""Ours as trained and as tested, beside the peers in their own default: ratios of one run, on this machine.

A peer's network is eager, contiguous and fp32, as its package builds it. Ours is channels-last, with the layers, the
allocator and the engine that a run of ours has. Each network lives in a process of its own and they take turns, a few
passes each, so that what slows the machine slows all; of a peer's times over ours, the median is reported. What no
network can exceed is measured in the same run: the matrix product, and the memory's copy.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F

from autotsnet.inputs import example, inputs_of
from autotsnet.layers.quick import quicken
from autotsnet.registry import MODELS
from autotsnet.spaces import preset
from baselines import VARIANTS
from baselines.peers import PEERS
from reproduce.engine.engines import NO_AMX, has_bf16, raced
from reproduce.launch.parallel import keep_memory
from reproduce.measure.macs import count
from reproduce.measure.throughput import Mode, matmul_rate, time_passes
from reproduce.progress import Progress
from reproduce.records import device_name, session
from reproduce.suites import named
from reproduce.whole_files import write_atomic, write_json

TURNS, PASSES = 5, 2
TORCH = "torch's layers"  # the same network, channels-last, as it was trained before there were kernels
SUPERNET, STATIC = "supernet", "static models"  # of the same architectures
CORES = min(8, os.cpu_count() or 1)  # of a training and a test by the recipe of real data
TESTED = "x3d_m", "slow_8x8_r50", "slowfast_4x16_r50", "tsm_r50_8f", "tsm_mobilenetv2_8f", "mvit_b_16x4"


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        variant: a native variant, an entry of the suite, or ``SUPERNET``: eight subnets one after the other.
        training: whether a step of training is timed, or a forward pass as tested.
        batch: clips.
        threads: of torch.
        suite: whose entry it is.
        precision: of ours, ``fp32`` or ``bf16``; peers stay in fp32.
    """

    variant: str
    training: bool
    batch: int
    threads: int = 1
    suite: str = "kinetics-quick"
    precision: str = "fp32"

    @property
    def peers(self) -> tuple[str, ...]:
        """What ours is set against."""
        if self.variant == SUPERNET:
            return (STATIC,)
        return tuple(source for source, variant in PEERS if variant == self.variant) or (TORCH,)

    def build(self, source: str) -> tuple[nn.Module, int, int]:
        """The network, frames and crop."""
        if self.variant in VARIANTS:
            build, arguments = VARIANTS[self.variant]
            size = arguments["frames"], arguments["crop"]
            if source in ("ours", TORCH):
                return build(**arguments), *size
            given = dict(num_classes=arguments["num_classes"], frames=size[0], crop=size[1])
            return PEERS[source, self.variant](**given), *size
        suite = named(self.suite)
        net = suite.config(suite.entry(self.variant)).net
        return MODELS.build(net), net.frames, net.crop

    def gmacs(self) -> float:
        """GMACs of a clip; of ``SUPERNET``, of all subnets of a step."""
        if self.variant == SUPERNET:
            space = preset("tiny")
            return space.cost(8).gmacs(space.sample(8, torch.Generator().manual_seed(0))).sum().item()
        return count(*self.build("ours")).gmacs

    def search_step(self, source: str) -> Callable[[], object]:
        """A training step of eight subnets of the tiny space, on shared weights or each on its own."""
        space = preset("tiny")
        architectures = [space.decode(code) for code in space.sample(8, torch.Generator().manual_seed(0))]
        clips = space.example(self.batch).contiguous(memory_format=torch.channels_last_3d)
        keep_memory()
        if source == "ours":
            net = Mode().prepared(space.supernet(8)).train()
            return partial(_each, [(net, partial(net, clips, a)) for a in architectures])
        nets = [quicken(Mode().prepared(space.static_model(a, 8))).train() for a in architectures]
        return partial(_each, [(net, partial(net, clips)) for net in nets])

    def step(self, source: str) -> tuple[Callable[[], object], str]:
        """One pass of a network, ready to be timed, and what runs it."""
        torch.manual_seed(0)
        torch.set_num_threads(self.threads)
        if self.variant == SUPERNET:
            return self.search_step(source), "torch"
        net, frames, crop = self.build(source)
        clips = example(inputs_of(net), frames, crop, self.batch, "cpu")
        if source in ("ours", TORCH):
            net = Mode().prepared(net)
            clips = tuple(clip.contiguous(memory_format=torch.channels_last_3d) for clip in clips)
        bf16 = source == "ours" and self.precision == "bf16"
        if source == "ours":
            keep_memory()
        if self.training:
            net = quicken(net) if source == "ours" else net
            optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9)
            return partial(_trained, net.train(), clips, optimizer, bf16), "torch"
        name = "torch"
        if source == "ours":
            found = raced(net.eval(), clips, ("torch", "openvino"), self.precision)
            name = min(found, key=lambda name: found[name][0])
            net = found[name][1]
            clips = clips if name == "torch" else tuple(clip.contiguous() for clip in clips)
        return partial(_tested, net.eval(), clips), name


CASES = (
    *(Case(entry, True, 16) for entry in ("auto_tsnet_uniform", "x3d", "slowfast", "tsm")),
    *(Case(entry, True, 16, precision="bf16") for entry in ("slowfast", "tsm")),
    Case(SUPERNET, True, 16),
    Case("x3d_m", True, 2, CORES),
    *(Case(variant, False, 1, CORES) for variant in TESTED),
    *(Case(variant, False, 1, CORES, precision="bf16") for variant in TESTED[:-1]),
)


class BenchError(RuntimeError):
    """A network of the bench cannot be timed."""


@torch.inference_mode()
def _tested(net: nn.Module, clips: tuple[Tensor, ...]) -> None:
    net(*clips)


def _trained(net: nn.Module, clips: tuple[Tensor, ...], optimiser: torch.optim.Optimizer, bf16: bool) -> None:
    optimiser.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = net(*clips)
    F.cross_entropy(logits.float(), torch.arange(len(logits)) % logits.shape[1]).backward()
    optimiser.step()


def _each(forwards: list[tuple[nn.Module, Callable[[], Tensor]]]) -> None:
    for net, forward in forwards:
        net.zero_grad()
        logits = forward()
        F.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1]).backward()


def _serve(case: Case, source: str, pipe: Connection) -> None:
    """In its own process: build, warm up, then time a few passes whenever asked."""
    if case.training and case.precision == "bf16":
        os.environ.update([NO_AMX.split("=")])
    step, name = case.step(source)
    step()
    pipe.send(name)
    while pipe.recv():
        seconds = []
        for _ in range(PASSES):
            start = perf_counter()
            step()
            seconds.append(perf_counter() - start)
        pipe.send(min(seconds))


def measure(case: Case, turns: int = TURNS) -> dict:
    """Seconds of ours and of each peer, turn by turn, and what bounds ours."""
    spawn, sources = multiprocessing.get_context("spawn"), ("ours", *case.peers)
    with ExitStack() as stack:
        pipes, engines = {}, {}
        for source in sources:
            mine, its = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(case, source, its), daemon=True)
            process.start()
            stack.callback(process.terminate)
            its.close()  # that of a process that died ends here, too
            try:
                engines[source] = mine.recv()
            except EOFError as error:
                raise BenchError(f"{case.variant}: the process of {source} has ended; its error is above") from error
            pipes[source] = mine
        seconds: dict[str, list[float]] = {source: [] for source in sources}
        for _ in range(turns):
            for source, pipe in pipes.items():
                pipe.send(True)
                seconds[source].append(pipe.recv())
    gmacs = case.gmacs() * case.batch * (3 if case.training else 1)
    ratios = {
        source: median(theirs / ours for theirs, ours in zip(seconds[source], seconds["ours"], strict=True))
        for source in case.peers
    }
    torch.set_num_threads(case.threads)
    bound = matmul_rate(torch.device("cpu"), case.precision, 1024)
    return dict(
        variant=case.variant,
        training=case.training,
        batch=case.batch,
        threads=case.threads,
        precision=case.precision,
        engine=engines["ours"],
        seconds=seconds,
        ratios=ratios,
        gmacs=gmacs,
        share_of_matmul=gmacs / median(seconds["ours"]) / bound,
        matmul_gmacs_per_s=bound,
    )


def copy_rate() -> float:
    """GB per second of a copy on one thread, reading and writing counted."""
    torch.set_num_threads(1)
    a = torch.zeros(2**26)  # no cache holds it
    b = torch.zeros_like(a)
    return 2 * a.nbytes / time_passes(lambda: b.copy_(a), torch.device("cpu")).median / 1e9


def bench(results: Path, cases: tuple[Case, ...] = CASES) -> str:
    """Measure all cases, those of bf16 where the CPU has it; write and return ``peers/<device>.json``'s table."""
    path, rows = file_of(results, device_name()), []
    cases = tuple(case for case in cases if case.precision == "fp32" or has_bf16())
    bare = dict(copy_gb_per_s=copy_rate(), device=device_name(), provenance=session().model_dump())
    with Progress("beside the peers", len(cases)) as progress:
        for case in cases:
            rows.append(measure(case))
            data = bare | dict(rows=rows)
            write_json(path, data)
            write_atomic(path.with_suffix(".md"), lambda p, data=data: p.write_text(rendered(data)))
            progress.step(note=f"{case.variant} {'training' if case.training else 'test'} {case.precision}")
    return rendered(data)


def file_of(results: Path, device: str) -> Path:
    """``peers/amd-epyc-2-cores.json``."""
    from reproduce.evidence.bench import file_of as bench_file

    return results / "peers" / bench_file(results, device).name


def rendered(data: dict) -> str:
    """The record as Markdown: times as often as ours, and how near ours is to the matrix product."""
    sources = sorted({source for row in data["rows"] for source in row["ratios"]})
    table = [
        [
            row["variant"],
            "training step" if row["training"] else "test",
            f"{row['engine']} {row['precision']}",
            row["batch"],
            row["threads"],
            *(f"{row['ratios'][s]:.2f} ×" if s in row["ratios"] else "–" for s in sources),
            f"{100 * row['share_of_matmul']:.0f} %",
        ]
        for row in data["rows"]
    ]
    head = ["network", "what", "ours in", "clips", "threads", *sources, "of the matrix product"]
    return (
        f"Time of the peers' own networks, eager, contiguous and in fp32, over the time of ours, {data['device']}. "
        f"A copy moves {data['copy_gb_per_s']:.0f} GB/s.\n\n{tabulate(table, head, 'pipe', disable_numparse=True)}\n"
    )
