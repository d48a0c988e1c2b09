"""A video as a stream: a causal network sees it frame by frame, and says at each what it has seen so far.

What is kept between two frames is of constant size, see ``baselines.movinet.StreamState``, and one frame is decoded at
a time: a video may be of any length.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import baselines
from autotsnet.inputs import RGB, example
from baselines import checkpoints
from baselines.movinet import INPUTS, MoViNet, TemporalEnsemble
from reproduce.data.decode import opened, reason, straight_frames, upright
from reproduce.data.kinetics import CLASSES
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.inference import accelerate
from reproduce.engine.rebuild import trained
from reproduce.measure.macs import count
from reproduce.progress import Progress
from reproduce.protocol import Crops, Sampling
from reproduce.spec import RunSpec

TOP = 5


class StreamError(ValueError):
    """A video cannot be streamed through these networks; the message says why, and the way out."""


@dataclass(frozen=True)
class Watcher:
    """A network and what it sees of a video.

    Attributes:
        model: with its normalisation.
        crops: one of each frame.
        every: it sees every so many frames.
    """

    model: VideoClassifier
    crops: Crops
    every: int

    @property
    def sees(self) -> tuple[float, ...]:
        """What networks of an ensemble have in common."""
        model = self.model
        return model.mean, model.std, self.crops.size, self.crops.short_side, model.net.fc.out_features


def watcher(path: Path, trust: bool = False) -> Watcher:
    """The network of a run folder, or of a file that ``import-weights`` wrote.

    Raises:
        StreamError: it is not trained, or cannot stream.
        ValueError: it cannot be read.
    """
    if path.is_dir():
        spec = RunSpec.load(path, trust)
        if not (path / "model.safetensors").exists():
            raise StreamError(f"{path} is not trained yet: it has no model.safetensors; finish its run")
        model, crops, sampling = trained(spec, path), spec.protocol["crops"], Sampling(**spec.protocol["sampling"])
        side, short_side = crops.get("test_size", crops["size"]), crops["short_side"]
        every = sampling.stride if sampling.kind == "dense" else 1
    else:
        _, header = checkpoints.open_file(path)
        mean, std = (float(text) * 255 for text in re.findall(r"(?:mean|std) ([\d.]+)", header["input"])[:2])
        model = VideoClassifier(checkpoints.load(path), mean, std).eval()
        size = baselines.VARIANTS[header["variant"]][1].get("size", "a0")
        _, side, every, short_side = INPUTS[size]
    if not isinstance(model.net, MoViNet) or not model.net.causal:
        kind = type(model.net).__name__
        raise StreamError(f"{path}: this {kind} sees whole clips; only a movinet with causal=True is a stream")
    return Watcher(model, Crops(side, short_side, (short_side, short_side)), every)


def stream(video: Path, models: Sequence[Path], every: int = 0, labels: Path | None = None, trust: bool = False) -> str:
    """Stream a video through a network, or through a temporal ensemble of several, and say what is seen.

    Args:
        video: file.
        models: see ``watcher``; several take turns.
        every: see only every so many frames; 0: as the network was trained.
        labels: text file with the names of the classes, one a line.
        trust: see ``RunSpec.load``.

    Returns:
        Number of frames, speed, cost and the top classes after the last frame.

    Raises:
        StreamError: a network cannot stream, they differ in what they see, or the labels are too few or many.
        DecodeError: the video cannot be read.
    """
    watchers = [watcher(path, trust) for path in models]
    first = watchers[0]
    apart = next((path for path, of in zip(models, watchers, strict=True) if of.sees != first.sees), None)
    if apart:
        raise StreamError(f"{apart} has other pixels or classes than {models[0]}: they make no ensemble")
    every = every or max(1, first.every // len(models))  # each at the rate that it was trained for
    names = _names(labels, first.model.net.fc.out_features)
    mmacs = sum(count(of.model.net, 1, first.crops.size).gmacs for of in watchers) / len(watchers) * 1e3
    for of in watchers:
        accelerate(of.model.net, *example(RGB, 1, first.crops.size, device="cpu"))
    net = TemporalEnsemble(*(of.model.net for of in watchers)) if len(watchers) > 1 else first.model.net

    state, logits, seen, busy, start = None, None, 0, 0.0, time.perf_counter()
    with Progress(f"stream {video.name}", -(-_frames(video) // every)) as progress:
        for picture in _pictures(video, every):
            (clip,) = first.model.prepare(torch.from_numpy(first.crops.test(picture[None])[0][None]))  # 1 3 1 H W
            began = time.perf_counter()
            logits, state = net.stream(clip, state)
            busy, seen = busy + time.perf_counter() - began, seen + 1
            speed = f"{seen / busy:.1f} frames/s, {mmacs:.1f} MMACs/frame"
            progress.step(note=f"{speed}: {', '.join(_top(logits, names, 3))}")
    if logits is None:
        raise StreamError(f"{video}: no frames")
    took = time.perf_counter() - start
    said = f"{video}: {seen} frames seen, one of every {every}; {speed}, {seen / took:.1f} frames/s with decoding; "
    said += f"{_kept(state) / 1e6:.2f} MB kept between frames"
    return "\n".join([said, *(f"  {line}" for line in _top(logits, names, TOP))])


def _pictures(video: Path, every: int) -> Iterator[np.ndarray]:
    """Every so many frames of a video, H W 3."""
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    for i, frame in enumerate(straight_frames(video)):
        if i % every == 0:
            rgb = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            yield upright(rgb, frame)


def _frames(video: Path) -> int:
    """How many frames the header announces; 0 if it does not."""
    try:
        with opened(video) as (_, stream):
            return stream.frames
    except Exception as error:  # any error here is one of this file
        raise StreamError(f"{video}: cannot be read as a video: {reason(error)}") from error


def _names(labels: Path | None, classes: int) -> Sequence[str]:
    if not labels:
        return CLASSES if classes == len(CLASSES) else [f"class {i}" for i in range(classes)]
    names = labels.read_text().splitlines()
    if len(names) != classes:
        raise StreamError(f"{labels} has {len(names)} lines, the network {classes} classes")
    return names


def _top(logits: Tensor, names: Sequence[str], k: int) -> list[str]:
    scores, index = logits[0].softmax(0).topk(min(k, len(names)))
    return [f"{names[i]} {100 * s:.1f} %" for s, i in zip(scores.tolist(), index.tolist(), strict=True)]


def _kept(state: object) -> int:
    """Bytes of a stream's state, or of those of an ensemble."""
    return state.bytes if hasattr(state, "bytes") else sum(_kept(of) for of in state[1] if of is not None)
