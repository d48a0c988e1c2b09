"""mmengine's Runner with what an exact, interruptible, quiet run needs."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import multiprocessing.util
import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import torch
from mmengine.config import Config
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import EMAHook, Hook, IterTimerHook, LoggerHook, ParamSchedulerHook, RuntimeInfoHook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import BaseLoop
from mmengine.runner import Runner as MMRunner
from mmengine.runner.amp import autocast
from mmengine.visualization import MLflowVisBackend, TensorboardVisBackend, Visualizer, WandbVisBackend

from autotsnet.hooks import PlainCheckpointHook
from autotsnet.layers.quick import convolve_by_triton, quicken
from autotsnet.models import recalibrate
from autotsnet.registry import HOOKS, LOOPS
from reproduce.progress import Progress
from reproduce.whole_files import write_atomic, write_json

LAST = "last.pth"
SHARED_MEMORY = Path("/dev/shm")
MORE_SHARED_MEMORY = (
    "start the container with more (--shm-size=8g, or --ipc=host), or lower `workers` in the recipe; with workers = 0 "
    "none is needed"
)
_instances = itertools.count()  # mmengine keeps loggers and visualizers by name; each Runner needs its own


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read; the message names the file and the way out."""


def load_checkpoint(filename: str, map_location="cpu") -> dict:
    """Read a checkpoint of tensors and plain data; a pickle that would run code is refused.

    Raises:
        CheckpointError: missing, truncated, or holding anything but tensors and plain data.
    """
    try:
        return torch.load(filename, map_location=map_location, weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {filename} does not exist") from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"checkpoint {filename} is refused ({reason}); delete it to start this run anew"
        ) from error


class PreemptedError(RuntimeError):
    """SIGTERM ended a run; what is done is saved."""

    exit_code = os.EX_TEMPFAIL  # the same command goes on, so a scheduler may requeue it


def ignore_sigterm(worker: int = 0) -> None:
    """For processes that decode: a scheduler's SIGTERM goes to them too, but the training wants its last batch."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end_workers() -> None:
    """Kill the decoding workers when this process ends by an error that keeps a loader alive; they ignore SIGTERM."""
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    if workers:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes their end for an accident
    for worker in workers:
        worker.kill()


multiprocessing.util.Finalize(None, _end_workers, exitpriority=1)  # before it terminates its children, and waits


class SharedMemoryError(OSError):
    """There is too little shared memory for the decoding workers; the message says what to do."""


def check_shared_memory(workers: int, batches: int, size: int, what: str) -> None:
    """Find out before hours of work whether a loader's batches, which workers hand over in shared memory, have room.

    Args:
        workers: of the loader.
        batches: that each prepares ahead.
        size: of one, in bytes.
        what: the loader is for.

    Raises:
        SharedMemoryError: they have not.
    """
    if not workers or not SHARED_MEMORY.is_dir():
        return
    free, wanted = shutil.disk_usage(SHARED_MEMORY).free, workers * batches * size
    if wanted > free:
        raise SharedMemoryError(
            f"{SHARED_MEMORY} has {free / 2**20:.1f} MB of shared memory free, {workers} decoding workers need "
            f"{wanted / 2**20:.1f} MB to {what}; {MORE_SHARED_MEMORY}"
        )


@contextlib.contextmanager
def preemptible() -> Iterator[None]:
    """SIGTERM raises PreemptedError: outside of training nothing is lost by stopping at once.

    In the main thread only, which signals reach; not in a rank, which could not leave a collective: its launcher
    knows what to do.
    """
    if threading.current_thread() is not threading.main_thread() or get_world_size() > 1:
        yield
        return

    def stop(*_) -> None:
        raise PreemptedError("stopped by SIGTERM; issue the command again to go on")

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def threads_of(recipe: Mapping) -> Iterator[None]:
    """The number of threads that a recipe states: sums over another number are rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(recipe.get("threads", before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Runner(MMRunner):
    """mmengine's Runner; checkpoints are atomic and hold only tensors and plain data, the console is left to us.

    mmengine 0.10.7 pickles its log history (``HistoryBuffer``) into every checkpoint, which torch ≥ 2.6 rightly
    refuses to load. The history is a window for smoothing the console's numbers; we do not save it.

    Attributes:
        terminated: whether SIGTERM came during training; ``RunHook`` saves and stops after the step, ``StreamLoop``
            after the pass.
    """

    terminated = False

    def train(self) -> torch.nn.Module:
        """As mmengine's; SIGTERM waits for the end of the step, or of the pass."""
        if threading.current_thread() is not threading.main_thread():
            return super().train()  # signals reach the main thread only
        previous = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "terminated", True))
        try:
            return super().train()
        finally:
            signal.signal(signal.SIGTERM, previous)

    def build_logger(self, *args, **kwargs):
        """The log file gets everything, the console errors only."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.ERROR)
        return logger

    def save_checkpoint(self, out_dir: str, filename: str, *args, **kwargs) -> None:
        """As mmengine's, through a temporary file."""
        write = super().save_checkpoint
        write_atomic(Path(out_dir, filename), lambda path: write(str(path.parent), path.name, *args, **kwargs))

    def resume(self, filename: str, *args, map_location: str = "cpu", **kwargs) -> None:
        """As mmengine's, but states of random generators stay on the CPU; weights go where the model is."""
        super().resume(filename, *args, map_location=map_location, **kwargs)

    def load_checkpoint(self, filename: str, map_location: str = "cpu") -> dict:
        """As mmengine's, but all of the model must be there, and nothing else."""
        checkpoint = load_checkpoint(filename, map_location)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        model.load_state_dict(checkpoint["state_dict"])
        self.logger.info(f"Load checkpoint from {filename}")
        return checkpoint


@OPTIM_WRAPPERS.register_module()
class Bf16OptimWrapper(OptimWrapper):
    """mmengine's ``AmpOptimWrapper`` for bfloat16, which needs no loss scaler; it also runs on CPUs."""

    @contextlib.contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        """Gradients are exchanged at the last pass only; convolutions and matrix products run in bfloat16."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield


@LOOPS.register_module()
class StreamLoop(BaseLoop):
    """Train for a number of steps on a stream; resumes at any step without reading what came before.

    mmengine's ``IterBasedTrainLoop`` re-reads (decodes, augments) all batches before the one to resume at, and counts
    a step per pass; here a step is an update, of as many passes as the optimiser's wrapper accumulates.

    SIGTERM on one rank stops between two passes: on a CPU a step may take many minutes. What they have moved, batch
    norm's statistics, is put back, so that the state saved is that of the last whole step. Several ranks finish the
    step: they would have to agree at every pass, and theirs are short.

    Args:
        runner: the Runner.
        dataloader: over a ``StreamSampler``; a batch per pass.
        max_iters: steps.
        passes: per step, on each rank; the wrapper's ``accumulative_counts``.
    """

    def __init__(self, runner: MMRunner, dataloader, max_iters: int, passes: int = 1) -> None:
        super().__init__(runner, dataloader)
        self._max_iters, self._iter, self._epoch, self.passes = max_iters, 0, 0, passes
        self.stop_training = False

    max_iters = property(lambda self: self._max_iters)
    max_epochs = property(lambda self: 1)
    iter = property(lambda self: self._iter)
    epoch = property(lambda self: self._epoch)

    def run(self) -> torch.nn.Module:
        """Train from the current step to the last."""
        runner = self.runner
        runner.call_hook("before_train")
        runner.call_hook("before_train_epoch")
        runner.model.train()
        runner.optim_wrapper.initialize_count_status(
            runner.model, self._iter * self.passes, self._max_iters * self.passes
        )
        self.dataloader.sampler.step = self._iter
        batches = iter(self.dataloader)
        while self._iter < self._max_iters and not self.stop_training:
            batch = next(batches)
            may_stop = self.passes > 1 and runner.world_size == 1
            buffers = [b.clone() for b in runner.model.buffers()] if may_stop else []
            runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=batch)
            outputs = [runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)]
            for i in range(1, self.passes):
                if may_stop and runner.terminated:
                    self._undo(buffers)
                runner.call_hook("before_train_pass", step=self._iter, number=i)
                outputs.append(runner.model.train_step(next(batches), optim_wrapper=runner.optim_wrapper))
            means = {k: torch.stack([o[k] for o in outputs]).mean() for k in outputs[0]}
            runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=batch, outputs=means)
            self._iter += 1
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")
        return runner.model

    @torch.no_grad()
    def _undo(self, buffers: list[torch.Tensor]) -> None:
        """Go back to the end of the last step, and stop there."""
        for now, before in zip(self.runner.model.buffers(), buffers, strict=True):
            now.copy_(before)
        self.runner.optim_wrapper.zero_grad()
        self._iter -= 1  # as after a step, until the next begins
        self.runner.call_hook("after_undone_step", step=self._iter + 1)


class DivergedError(RuntimeError):
    """The loss is not finite any more."""


def _finite(model: torch.nn.Module) -> bool:
    """Whether all parameters are: a bad update is not saved, the next loss will stop the run."""
    return all(bool(p.isfinite().all()) for p in model.parameters())


@HOOKS.register_module()
class RunHook(Hook):
    """Exactness, safety and progress of a training run.

    Seeds torch from (seed, step, pass) before every pass, counted over all ranks, so that dropout depends neither on
    what ran before nor, with the same clips per pass, on the number of ranks; stops when the loss is not finite; keeps
    one checkpoint, ``last.pth``, never older than ``seconds``. There is no best one: no videos are held out to choose
    it by, and the test videos must not. SIGTERM saves and stops, see ``StreamLoop``.

    Args:
        seed: of the run.
        label: for the progress line.
        interval: steps between checkpoints at the most.
        seconds: between checkpoints at the most.
    """

    priority = "LOWEST"

    def __init__(self, seed: int, label: str, interval: int = 1000, seconds: float = 300.0) -> None:
        self.seed, self.label, self.interval, self.seconds = seed, label, interval, seconds
        self.seconds_total, self.loss = 0.0, float("nan")
        self._progress: Progress | None = None
        self._saved = self._clock = time.monotonic()

    def before_train(self, runner: MMRunner) -> None:
        """Start the clock and the progress line."""
        clock = Path(runner.work_dir, "clock.json")
        if runner.iter and clock.exists():
            self.seconds_total, self.loss = json.loads(clock.read_text()).values()
        self._clock = time.monotonic()
        if runner.rank == 0:
            self._progress = Progress(self.label, runner.max_iters, runner.iter)

    def before_train_iter(self, runner: MMRunner, batch_idx: int, data_batch=None) -> None:
        """Seed the first pass."""
        self.before_train_pass(runner, batch_idx, 0)

    def before_train_pass(self, runner: MMRunner, step: int, number: int) -> None:
        """Make this pass's random numbers a function of the seed, the step and the pass's place in the whole batch."""
        passes = getattr(runner.train_loop, "passes", 1)
        place = runner.rank * passes + number
        if self._progress and number:
            self._progress.step(0, f"pass {number}/{passes}")
        torch.manual_seed((self.seed * 1_000_003 + step) * 4099 + place)

    def after_train_iter(self, runner: MMRunner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Check the loss, show progress, save when due."""
        both = torch.tensor([outputs["loss"].item(), float(runner.terminated)], dtype=torch.float64)
        all_reduce(both, "mean")  # so that all ranks stop after the same step
        self.loss, terminated = both.tolist()
        loss, step = self.loss, batch_idx + 1
        if loss != loss or loss in (float("inf"), float("-inf")):
            if runner.rank:
                barrier()  # until the launcher stops this rank: one complains, not all
            last = Path(runner.work_dir, LAST)
            raise DivergedError(
                f"{self.label}: the loss is {loss} at step {step}; lower the learning rate or clip gradients; "
                + (f"the last good checkpoint is {last}" if last.exists() else "there is no checkpoint yet")
            )
        if self._progress:
            self._progress.step(note=f"loss {loss:.3f}")
        due = step % self.interval == 0 or time.monotonic() - self._saved > self.seconds or terminated
        if runner.rank == 0 and (due or step == runner.max_iters) and _finite(runner.model):
            self._save(runner)
        if terminated and step < runner.max_iters:
            barrier()  # the launcher stops the others when one rank has left
            self._stop(step)

    def after_undone_step(self, runner: MMRunner, step: int) -> None:
        """Save what is done, and stop: SIGTERM has come in the middle of the next step."""
        if step and _finite(runner.model):
            self._save(runner)
        self._stop(step)

    def _save(self, runner: MMRunner) -> None:
        now = self._saved = time.monotonic()
        self.seconds_total, self._clock = self.seconds_total + now - self._clock, now
        write_json(Path(runner.work_dir, "clock.json"), dict(a_seconds=self.seconds_total, b_loss=self.loss))
        runner.save_checkpoint(runner.work_dir, LAST, by_epoch=False)

    def _stop(self, step: int) -> NoReturn:
        raise PreemptedError(f"{self.label}: stopped by SIGTERM after step {step}; issue the command again to go on")

    def after_train(self, runner: MMRunner) -> None:
        """End the progress line."""
        if self._progress:
            self._progress.__exit__()


@HOOKS.register_module()
class PreciseBNHook(Hook):
    """Recalibrate batch norm at the end of a training: statistics of the final weights, equal on all ranks.

    PySlowFast's recipes do so with 200 batches; mmaction2 1.x has lost it.

    Args:
        batches: training batches, as large as a step's; each rank takes its part, in the passes of a step.
        ema: recalibrate the averaged model of this hook instead.
        compiled: the model's network is: a norm's cumulative mean would break its graph, so it runs as it is.
    """

    def __init__(self, batches: int, ema: EMAHook | None = None, compiled: bool = False) -> None:
        self.batches, self.ema, self.compiled = batches, ema, compiled

    def after_train(self, runner: MMRunner) -> None:
        """Run the batches through the model that will be tested."""
        model = self.ema.ema_model.module if self.ema else runner.model
        model = getattr(model, "module", model)
        loader = runner.train_dataloader
        size, data, part = loader.batch_size, loader.dataset, loader.sampler.batch
        firsts = [(i * runner.world_size + runner.rank) * part for i in range(self.batches)]

        def clips():
            for first in (f + pass_ for f in firsts for pass_ in range(0, part, size)):
                batch = loader.collate_fn([data[first + j] for j in range(size)])
                yield model.data_preprocessor(batch, True)["clips"]

        with torch.compiler.set_stance("force_eager") if self.compiled else contextlib.nullcontext():
            recalibrate(model, clips())


def resume_from(folder: Path) -> dict:
    """Arguments of ``build_runner`` that continue an interrupted job, or nothing."""
    path = folder / LAST
    return dict(load_from=str(path), resume=True) if path.exists() else {}


def loggers(names: str, folder: Path) -> list[dict]:
    """mmengine's backends for ``tensorboard``, ``wandb`` and ``mlflow``, comma-separated.

    W&B and MLflow are set up by their own variables (WANDB_PROJECT, WANDB_MODE, MLFLOW_TRACKING_URI, ...).

    Raises:
        ValueError: an unknown name, or a package that is not installed.
    """
    run = folder.parent.name
    known = dict(
        tensorboard=dict(type=TensorboardVisBackend),
        wandb=dict(type=WandbVisBackend, init_kwargs=dict(id=run, name=run, resume="allow")),
        mlflow=dict(type=MLflowVisBackend, run_name=run, tracking_uri=os.environ.get("MLFLOW_TRACKING_URI")),
    )
    for name in names.split(","):
        if name not in known:
            raise ValueError(f"log={names!r}: {name!r} is unknown; known: {', '.join(known)}")
        if find_spec(name) is None:
            raise ValueError(f"log={names!r} needs {name}: pip install {name}, or take it out of the recipe")
    return [known[name] for name in names.split(",")]


def by_triton(config: Config) -> bool:
    """Whether a recipe asks for depthwise convolutions by Triton, on GPUs.

    Raises:
        ValueError: it asks for something unknown, or for Triton where there is a GPU without it.
    """
    asked = config.get("depthwise")
    if asked not in (None, "triton"):
        raise ValueError(f"depthwise={asked!r} is unknown; known: 'triton', or leave it out for torch's")
    if asked and torch.cuda.is_available() and find_spec("triton") is None:
        raise ValueError("depthwise='triton' needs triton: pip install triton, or take it out of the recipe")
    return asked is not None


def build_runner(config: Config, folder: Path, name: str, quick: bool = True, **kwargs) -> Runner:
    """A Runner with this project's hooks, and for training with the layers of the recipe; all else as mmengine's.

    Args:
        config: the recipe.
        folder: to work in.
        name: of the experiment.
        quick: in a training on a CPU, layers by loops of ours; a compiled network has its own.
        kwargs: mmengine's.
    """
    if "train_cfg" in kwargs and quick:
        quicken(kwargs["model"])
    if "train_cfg" in kwargs and by_triton(config):
        convolve_by_triton(kwargs["model"])
    hooks = dict(
        runtime_info=dict(type=RuntimeInfoHook),
        timer=dict(type=IterTimerHook),
        sampler_seed=None,  # the stream needs none
        logger=dict(type=LoggerHook, interval=20, log_metric_by_epoch=False),
        param_scheduler=dict(type=ParamSchedulerHook),
        checkpoint=None,  # RunHook's
        state=dict(type=PlainCheckpointHook),
    )
    config = config.copy()
    config.work_dir = str(folder)  # mmengine's MLflow backend reads it
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="mmengine")
        return Runner(
            work_dir=str(folder),
            default_hooks=hooks,
            visualizer=dict(type=Visualizer, vis_backends=loggers(config.get("log", "tensorboard"), folder)),
            experiment_name=f"{name}-{next(_instances)}",
            default_scope="mmengine",
            cfg=config,
            **kwargs,
        )
