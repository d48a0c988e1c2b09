"""Torch data sets over a manifest. Clips leave as uint8 V T H W C; the model normalises them on its device."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from autotsnet.inputs import RGB, made
from autotsnet.registry import DATA_SAMPLERS, DATASETS
from reproduce.data.decode import DecodeError
from reproduce.data.frames import Frames
from reproduce.data.longtail import drawn, probabilities
from reproduce.data.manifest import DataError, Manifest
from reproduce.protocol import Protocol

logger = logging.getLogger("reproduce")
RETRIES = 20  # undecodable videos in a row before a training gives up


@DATASETS.register_module()
class TrainClips(Dataset):
    """An endless stream of training clips in which item n is a pure function of (seed, n).

    Epoch e is a permutation of the videos drawn from (seed, e), or what a sampler draws; augmentation is drawn from
    (seed, n). So a resumed run continues with exactly the clips that it would have seen, for any number of workers or
    ranks.

    Args:
        manifest: what to read.
        protocol: sampling and crops.
        seed: of order and augmentation.
        decoder: see ``decode``.
        skipped: file that takes the id of each video that cannot be decoded, a line each; it is shared by all workers
            and sessions of a run, so that each is reported once.
        inputs: names of what a clip holds, side by side.
        sampler: how often classes are drawn, see ``longtail.probabilities``.
        epochs: of the training, rounded up, for a sampler that changes with them.

    Raises:
        DataError: a class has no training video, and the copy is not marked as partial.
        ValueError: an unknown sampler.
    """

    def __init__(
        self,
        manifest: Manifest,
        protocol: Protocol,
        seed: int,
        decoder: str = "",
        skipped: Path | None = None,
        inputs: tuple[str, ...] = RGB,
        sampler: str = "instance",
        epochs: int = 1,
    ) -> None:
        if manifest.empty_classes and not manifest.partial:
            raise DataError(
                f"{manifest.dataset}: class {manifest.empty_classes[0]!r} has no training video in {manifest.root}; "
                "complete the copy or remove the class from the annotations"
            )
        self.manifest, self.protocol, self.seed, self.frames = manifest, protocol, seed, Frames(manifest, decoder)
        self.skipped, self.inputs, self.sampler, self.epochs = skipped, inputs, sampler, epochs
        self._labels = np.array([video.label for video in manifest.videos])
        probabilities(np.bincount(self._labels), sampler)  # an unknown one is refused before the first step
        self.metainfo = dict(dataset=manifest.dataset, manifest=manifest.hash)
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, int))
        self._reported: set[str] = set()

    def __len__(self) -> int:
        """Videos per epoch."""
        return len(self.manifest.videos)

    def __getitem__(self, n: int) -> dict:
        """Item n of the stream: ``clips`` 1 T H W C and its ``label``."""
        epoch, i = divmod(n, len(self))
        if self._epoch[0] != epoch:
            self._epoch = epoch, drawn(self._labels, self.sampler, self.seed, epoch, self.epochs)
        rng = np.random.default_rng((self.seed, 1, n))
        index = self._epoch[1][i]
        for _ in range(RETRIES):
            video = self.manifest.videos[index]
            try:
                frames, index, _ = self.frames.distinct(
                    video, lambda total: self.protocol.sampling.train(total, rng)[0]
                )
            except DecodeError as error:
                self._report(video.id, error)
                index = rng.integers(len(self))  # another one, also determined by (seed, n)
                continue
            partner = self.manifest.partners[video.label] if self.manifest.partners else video.label
            clip, flipped = self.protocol.crops.train(frames, rng, may_flip=partner >= 0)
            if not np.array_equal(index, range(len(clip))):  # of a short video, frames are repeated
                clip = clip[index]
            return dict(
                clips=torch.from_numpy(made(clip[None], self.inputs)), label=partner if flipped else video.label
            )
        raise DataError(
            f"{RETRIES} videos in a row cannot be decoded, the last is {self.manifest.path(video)}; "
            f"check the copy of {self.manifest.dataset} in {self.manifest.root}"
        )

    def _report(self, identity: str, error: DecodeError) -> None:
        if self.skipped:
            self._reported |= set(skipped_videos(self.skipped))
        if identity in self._reported:
            return
        self._reported.add(identity)
        logger.warning("skipped in training: %s", error)
        if self.skipped:
            self.skipped.parent.mkdir(parents=True, exist_ok=True)
            with open(self.skipped, "a") as file:
                file.write(identity + "\n")


def skipped_videos(path: Path) -> list[str]:
    """Ids of the training videos that could not be decoded, sorted."""
    return sorted(set(path.read_text().splitlines())) if path.exists() else []


@DATASETS.register_module()
class TestVideos(Dataset):
    """The videos of a test split, each decoded once for all its views. A failed video gives zeros and an ``error``."""

    __test__ = False  # for pytest: not a test case

    def __init__(
        self, manifest: Manifest, protocol: Protocol, decoder: str = "", inputs: tuple[str, ...] = RGB
    ) -> None:
        self.manifest, self.protocol, self.inputs, self.frames = manifest, protocol, inputs, Frames(manifest, decoder)

    def __len__(self) -> int:
        """Videos of the split."""
        return len(self.manifest.videos)

    def __getitem__(self, n: int) -> dict:
        """Video n: ``clips`` V T H W C, ``label``, ``id``, ``frames`` in the file, ``error`` ('' when all is well)."""
        video = self.manifest.videos[n]
        p = self.protocol
        try:
            frames, index, total = self.frames.distinct(video, p.sampling.test)
            crops = p.crops.test(frames)  # each frame once, however many clips show it
            clips = np.empty((len(index), len(crops), p.sampling.frames, *crops[0].shape[1:]), np.uint8)
            for i, clip in enumerate(index):
                for j, crop in enumerate(crops):
                    for t, frame in enumerate(clip):
                        clips[i, j, t] = crop[frame]
            clips = clips.reshape(-1, *clips.shape[2:])
            error = ""
        except DecodeError as failure:
            clips = np.zeros((p.views, p.sampling.frames, p.crops.test_size, p.crops.test_size, 3), np.uint8)
            total, error = 0, str(failure).replace(str(self.manifest.root), "").lstrip("/")
        clips = torch.from_numpy(made(clips, self.inputs))
        return dict(clips=clips, label=video.label, id=video.id, frames=total, error=error)


@DATA_SAMPLERS.register_module()
class StreamSampler(Sampler):
    """Positions ``start, start + 1, …`` of a stream, divided among the ranks batch by batch.

    Args:
        dataset: only for the interface.
        batch: clips per rank and step.
        steps: length of the whole training in steps.
        rank: of this process.
        world: number of processes.

    Attributes:
        step: first step; set it before iterating to resume.
    """

    def __init__(self, dataset, batch: int, steps: int, rank: int = 0, world: int = 1) -> None:
        self.batch, self.steps, self.rank, self.world = batch, steps, rank, world
        self.step = 0

    def __iter__(self) -> Iterator[int]:
        """Global batch s holds items s·B … (s + 1)·B - 1; rank r takes the r-th part of it."""
        for step in range(self.step, self.steps):
            first = (step * self.world + self.rank) * self.batch
            yield from range(first, first + self.batch)

    def __len__(self) -> int:
        """Items still to come on this rank."""
        return (self.steps - self.step) * self.batch
