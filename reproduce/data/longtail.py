"""Long tails: training sets of few frequent and many rare classes, cut from a data set, and how classes are drawn.

After "Decoupling Representation and Classifier for Long-Tailed Recognition" (Kang et al., arXiv 1910.09217; code:
facebookresearch/classifier-balancing). Symbols: C classes, n training videos by class, factor = max n / min n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from reproduce.data.manifest import DataError, Manifest, Video

VALIDATION = "validation"  # the split that a tail holds out of the training videos
SSV2_LT = tuple(map(int, Path(__file__).with_name("ssv2_lt_counts.txt").read_text().split()))
"""Training videos of SSv2-LT by class of Something-Something-V2, in its alphabetical order.

Source: tobyperrett/lmr-release, configs/SSV2LT/init_224_16x4.yaml. The order of classes is inferred there, not stated:
the largest are those that are largest in the whole data set. Which videos of a class it has is not public here; we
draw as many, so this is a reconstruction.
"""

MANY, FEW = 100, 20  # classes of more training videos are many, of fewer are few; medium has both ends
GROUPS = ("many", "medium", "few")
SAMPLERS = ("instance", "class", "square_root", "progressive")


@dataclass(frozen=True)
class Tail:
    """Which part of the training videos is kept. Test videos stay as they are.

    Attributes:
        kind: ``exponential``, ``step``, or ``ssv2_lt``: the counts of SSv2-LT.
        factor: of imbalance, the most frequent class over the rarest; not of ``ssv2_lt``.
        largest: videos of the most frequent class; 0: as many as there are.
        validation: videos of each class that are held out to choose on; they are in no training.
        seed: of which videos. With one seed, the smaller of two tails is a part of the larger.
        of: name by which the layout knows the data set, where the suite's is another.

    Raises:
        DataError: an unknown kind, or a factor that is none.
    """

    kind: str
    factor: float = 0.0
    largest: int = 0
    validation: int = 0
    seed: int = 0
    of: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("exponential", "step", "ssv2_lt"):
            raise DataError(f"tail kind {self.kind!r} is unknown; known: exponential, step, ssv2_lt")
        if self.kind != "ssv2_lt" and not 1 < self.factor < math.inf:
            raise DataError(f"imbalance factor {self.factor:g}: the most frequent class over the rarest is more than 1")


def exponential(classes: int, largest: int, factor: float) -> list[int]:
    """``int(largest * factor^(-c / (C - 1)))``, most frequent first.

    Source: wjun0830/MOVE, Imbalanced-MiniKinetics200/dataset/imbalance_minikinetics.py.
    """
    return [int(largest * (1 / factor) ** (c / (classes - 1))) for c in range(classes)]


def step(classes: int, largest: int, factor: float) -> list[int]:
    """The first half has ``largest`` videos, the rest ``int(largest / factor)``; same source as ``exponential``."""
    return [largest if c < classes // 2 else int(largest * (1 / factor)) for c in range(classes)]


def counts_of(available: np.ndarray, tail: Tail, names: tuple[str, ...] = ()) -> np.ndarray:
    """Training videos of each class, by label.

    Classes are ranked by what is available, ties by label. Between the ends a class gets no more than it has; the ends
    must be as the factor says.

    Args:
        available: videos of each class, by label.
        tail: the tail.
        names: of the classes, for errors.

    Raises:
        DataError: a class would have no video, or the data cannot give the tail.
    """
    named = names or tuple(map(str, range(len(available))))
    order = np.argsort(-available, kind="stable")
    if tail.kind == "ssv2_lt":
        if len(available) != len(SSV2_LT):
            raise DataError(f"SSv2-LT has {len(SSV2_LT)} classes, these videos are of {len(available)}")
        wanted, ends = np.array(SSV2_LT), range(len(available))
    else:
        made = dict(exponential=exponential, step=step)[tail.kind]
        largest = tail.largest or int(available.max())
        wanted, ends = np.empty(len(available), int), order[[0, -1]]
        wanted[order] = made(len(available), largest, tail.factor)
        if wanted.min() < 1:
            raise DataError(
                f"imbalance factor {tail.factor:g} leaves class {named[order[-1]]!r} without a video, the most "
                f"frequent has {largest}; the factor can be {largest} at most"
            )
    short = next((c for c in ends if available[c] < wanted[c]), None)
    if short is not None:
        what = f"imbalance factor {tail.factor:g}" if tail.factor else "SSv2-LT"
        raise DataError(
            f"{what} needs {wanted[short]} training videos of class {named[short]!r}, there are {available[short]} "
            f"beside {tail.validation} held out; complete the copy, or choose another factor, `largest` or `validation`"
        )
    return np.minimum(wanted, available)


def cut(manifest: Manifest, tail: Tail) -> tuple[Manifest, Manifest | None]:
    """The training videos of a tail, and those that are held out (None: none are). They have no video in common.

    Raises:
        DataError: see ``counts_of``.
    """
    by_label: list[list[Video]] = [[] for _ in manifest.classes]
    for video in manifest.videos:
        by_label[video.label].append(video)
    available = np.array([len(of) - tail.validation for of in by_label])
    kept, apart = [], []
    for label, count in enumerate(counts_of(available, tail, manifest.classes)):
        mine = by_label[label]
        order = np.random.default_rng((tail.seed, label)).permutation(len(mine))
        kept += [mine[i] for i in order[:count]]
        apart += [mine[i] for i in order[len(mine) - tail.validation :]]
    return manifest.subset(tuple(kept)), manifest.subset(tuple(apart)) if apart else None


def counts(manifest: Manifest) -> np.ndarray:
    """Videos of each class, by label."""
    return np.bincount([video.label for video in manifest.videos], minlength=len(manifest.classes))


def groups(train_counts: np.ndarray) -> np.ndarray:
    """``many``, ``medium`` or ``few`` by label: over 100 training videos, 20 to 100, under 20 (Decoupling's code).

    LMR counts a class of 20 as few.
    """
    n = np.asarray(train_counts)
    return np.where(n > MANY, "many", np.where(n < FEW, "few", "medium"))


def weights(label: np.ndarray, train_counts: np.ndarray) -> dict[str, np.ndarray]:
    """Weights of test videos, n each: the mean of weight × right is an accuracy.

    ``many``, ``medium`` and ``few`` are means of class accuracies in a group, ``macro`` over all classes, ``micro`` is
    over videos. A group without test videos is left out (the published code prints 0).
    """
    tested = np.bincount(label, minlength=len(train_counts))
    group, there = groups(train_counts), tested > 0
    parts = {name: (group == name) & there for name in GROUPS} | {"macro": there}
    share = len(label) / np.maximum(1, tested)
    found = {name: (part * share)[label] / part.sum() for name, part in parts.items() if part.any()}
    return found | {"micro": np.ones(len(label))}


def accuracies(right: np.ndarray, label: np.ndarray, train_counts: np.ndarray) -> dict[str, float]:
    """Percent by the names of ``weights``.

    Args:
        right: n, 1 where the video is right.
        label: n.
        train_counts: training videos by class.
    """
    return {name: float(100 * (w * right).mean()) for name, w in weights(label, train_counts).items()}


def of_classifiers(answers: pd.DataFrame, train_counts: Sequence[int]) -> dict[str, dict[str, float]]:
    """The ``accuracies`` of each classifier of a table: ``id``, ``label``, and a column of answers for each."""
    label, n = answers.label.to_numpy(), np.asarray(train_counts)
    return {name: accuracies(answers[name].to_numpy() == label, label, n) for name in answers.columns[2:]}


def probabilities(train_counts: np.ndarray, sampler: str, epoch: int = 0, epochs: int = 1) -> np.ndarray:
    """How probably a class is drawn, by label.

    Args:
        train_counts: n by class.
        sampler: p ~ n^q with q = 1 (``instance``), 1/2 (``square_root``), 0 (``class``); ``progressive`` goes in a
            line from the first to the last: share ``linspace(0, 1, epochs)[epoch]`` of ``class``.
        epoch: from 0.
        epochs: of the training.

    Raises:
        ValueError: an unknown sampler.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler={sampler!r} is unknown; known: {', '.join(SAMPLERS)}")
    n = np.asarray(train_counts, float)
    by_video, by_class = n / n.sum(), (n > 0) / (n > 0).sum()
    if sampler == "progressive":
        share = np.linspace(0, 1, epochs)[min(epoch, epochs - 1)]
        return (1 - share) * by_video + share * by_class
    p = dict(instance=by_video, square_root=np.sqrt(by_video)).get(sampler, by_class)
    return p / p.sum()


def drawn(labels: np.ndarray, sampler: str, seed: int, epoch: int, epochs: int) -> np.ndarray:
    """The videos of an epoch, as many as there are, a function of seed and epoch only.

    ``instance`` is a permutation. The others draw a class, then its videos in turn, shuffled anew after each round and
    at each epoch (the published code goes on with a round over epochs, which no resumed training can).

    Args:
        labels: of the videos.
        sampler: see ``probabilities``.
        seed: of the order.
        epoch: from 0.
        epochs: of the training, rounded up.
    """
    rng = np.random.default_rng((seed, 0, epoch))
    if sampler == "instance":
        return rng.permutation(len(labels))
    p = probabilities(np.bincount(labels), sampler, epoch, epochs)
    classes = rng.choice(len(p), len(labels), p=p)
    out = np.empty(len(labels), int)
    for c in np.unique(classes):
        mine, places = np.flatnonzero(labels == c), np.flatnonzero(classes == c)
        rounds = [rng.permutation(mine) for _ in range(-(-len(places) // len(mine)))]
        out[places] = np.concatenate(rounds)[: len(places)]
    return out
