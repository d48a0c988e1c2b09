"""One real search step at the size of each preset: does it run, how long does it take, how much memory does it need?

    python -m reproduce.studies.presets

A step is what ``ProgressiveSearchLoop`` does: K = 2 architectures drawn from the whole space, forward and backward on
one training clip each, forward on one held-out clip each, an update of the weights and one of alpha. Each preset runs
in a process of its own, so that the peak is its own. The record also has the memory that the graph of one pass of 8
clips keeps for its backward, which a batch of any size needs (``sub_batch``), and that of 64 clips at once.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from tempfile import TemporaryDirectory

import torch
from torch.utils.data import DataLoader, Dataset

from autotsnet.inputs import RGB, example
from autotsnet.meta import on_meta
from autotsnet.search import FPNASOptions
from autotsnet.search.progressive import ProgressiveSearchLoop, SearchOptions
from autotsnet.spaces import SearchSpace, preset
from reproduce.data.datasets import StreamSampler
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.runner import Runner
from reproduce.records import session
from reproduce.studies.options import study_parser
from reproduce.whole_files import write_json

PRESETS = ("tiny", "s", "m", "l")
CLASSES = 400


class Noise(Dataset):
    """Random clips of a preset's size; the cost of a step does not depend on what they show."""

    metainfo: dict = {}  # noqa: RUF012  (mmengine asks for it)

    def __init__(self, frames: int, crop: int) -> None:
        self.shape = (1, frames, crop, crop, 3)

    def __len__(self) -> int:
        """Enough for a step."""
        return 8

    def __getitem__(self, n: int) -> dict:
        """Clip n."""
        generator = torch.Generator().manual_seed(n)
        return dict(clips=torch.randint(256, self.shape, generator=generator, dtype=torch.uint8), label=n % CLASSES)


def saved_gib(space: SearchSpace, clips: int, alone: str | None = None) -> float:
    """GiB that the graph of one forward pass saves for its backward, fp32; counted on the meta device.

    Args:
        space: its architecture of the middle candidates and the most expensive types is run.
        clips: in the pass.
        alone: the only stream that is run, or None for both.
    """
    code = (space.counts - 1) // 2
    types = space.positions("fusion", "attention")
    code[types] = space.counts[types] - 1
    architecture = space.decode(code, alone)
    net = on_meta(lambda: space.static_model(architecture, CLASSES))
    there = {t.untyped_storage()._cdata for t in (*net.parameters(), *net.buffers())}
    saved: dict[int, int] = {}  # storage: bytes

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in there:
            saved[storage._cdata] = storage.nbytes()
        return tensor  # the graph holds it, so that no other storage takes its place

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = net(*example(RGB, space.macro.frames, space.macro.crop, clips))
    assert logits.requires_grad
    return sum(saved.values()) / 2**30


def one_step(name: str) -> dict:
    """Run one step of a preset in this process.

    Returns:
        Seconds of the step, peak resident memory of the process in MiB, size of the supernet, GMACs of the subnets, and
        how far alpha moved.
    """
    space = preset(name)
    data = Noise(space.macro.frames, space.macro.crop)
    loaders = [DataLoader(data, 1, sampler=StreamSampler(data, 1, 9)) for _ in range(2)]
    model = VideoClassifier(space.supernet(CLASSES))
    options = SearchOptions(
        warmup=0, steps=1, type_steps=1, progressive=False, theta=None, fpnas=FPNASOptions(fixed_samples=2)
    )
    with TemporaryDirectory() as folder:
        runner = Runner(
            model=model,
            work_dir=folder,
            train_dataloader=loaders[0],
            train_cfg=dict(
                type=ProgressiveSearchLoop,
                held_out=loaders[1],
                space=space,
                num_classes=CLASSES,
                gmacs=space.target,
                options=options,
            ),
            optim_wrapper=dict(optimizer=dict(type=torch.optim.SGD, lr=0.1)),
            experiment_name=f"step-{name}",
            log_level="ERROR",
        )
        loop = runner.build_train_loop(runner._train_loop)
        runner._train_loop = loop
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        before = loop.strategy.distribution.alpha.detach().clone()
        batch = next(iter(loaders[0]))
        start = time.perf_counter()
        loop.step(batch)
        seconds = time.perf_counter() - start
    return dict(
        preset=name,
        seconds=seconds,
        peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        supernet_params=sum(p.numel() for p in model.parameters()),
        saved_gib_8_clips=saved_gib(space, 8),
        saved_gib_64_clips=saved_gib(space, 64),
        gmacs=loop.journals()[0].gmacs.tolist(),
        alpha_moved=(loop.strategy.distribution.alpha - before).abs().max().item(),
    )


def main() -> None:
    """Run every preset in a process of its own and write the record."""
    parser = study_parser(__doc__, "studies/presets.json")
    out = parser.parse_args().out
    rows = []
    for name in PRESETS:
        code = f"import json; from reproduce.studies.presets import one_step; print(json.dumps(one_step({name!r})))"
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{name}: {rows[-1]['seconds']:.1f} s, peak {rows[-1]['peak_rss_mib']:.0f} MiB", file=sys.stderr)
    write_json(out, dict(rows=rows, provenance=session("none").model_dump()))


if __name__ == "__main__":
    main()
