"""The stage ``retune``: classifiers made anew on the features of a trained network, for a long tail of classes.

The features of a clip are what reaches the network's last linear layer; the network itself is trained once and serves
all classifiers. Those of Decoupling (Kang et al., arXiv 1910.09217; code: facebookresearch/classifier-balancing) are:

- ``crt``: a new layer W x + b, from random weights, on classes drawn alike.
- ``lws``: s (W x + b) with one learnt scale s per class, from 1, on classes drawn alike; W and b stay, b is scaled too.
- ``tau_norm``: x w / |w|^tau, without b; tau is chosen on held-out videos from ``TAUS``.
- ``ncm``: minus the squared distance to the mean of a class, of features less their mean over the training videos, and
  of length 1 (the means are not).

Beside them is ``logit_adjusted``: W x + b - log(n / sum n), with n training videos of a class (Menon et al., arXiv
2007.07314, at its tau of 1). It is recalled, not checked against its source.

Symbols: N videos, V views of each, D features, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from autotsnet.inputs import example
from reproduce.data.datasets import StreamSampler, TestVideos, TrainClips
from reproduce.data.longtail import VALIDATION, accuracies, counts, probabilities
from reproduce.data.manifest import DataError, Manifest
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.rebuild import config_of, for_test, trained
from reproduce.engine.recipe import videos_at_once
from reproduce.engine.runner import ignore_sigterm
from reproduce.progress import Progress
from reproduce.whole_files import write_atomic, write_json

if TYPE_CHECKING:
    from reproduce.spec import RunSpec
    from reproduce.suites import Suite

TAUS = np.linspace(0, 2, 21)
TOLERANCE = 1e-3  # of logits from averaged features to the network's own, absolute and relative
CLASSIFIERS = {
    "crt": "cRT",
    "lws": "LWS",
    "tau_norm": "τ-normalised",
    "ncm": "nearest class mean",
    "logit_adjusted": "logit adjustment (recalled)",
}
"""Name -> title."""
Scores = Callable[[Tensor], Tensor]  # features ... D -> logits ... C


@dataclass(frozen=True)
class Retuning:
    """``retune = dict(...)`` of a recipe; the defaults are Decoupling's for ImageNet-LT.

    Attributes:
        epochs: of the learnt classifiers, both alike (LWS has 5 there, on ImageNet-LT and Places-LT).
        batch: clips per step; the rate is stated for 512 and scaled with it.
        lr: of SGD, by half a cosine to zero, without a rise.
        momentum: of SGD.
        weight_decay: of weights, biases and scales.
        sampler: how often classes are drawn.
        batch_norm: ``frozen``: the network is as in a test. ``published``: it is in training mode meanwhile, so that
            batch norm uses each batch's statistics, and its running ones move to those of balanced classes; its
            dropout works, too. Weights do not move in either.
        tau_on: ``validation``: the videos that the suite's tail holds out.

    The last step's classifier is taken; the published code takes the best epoch's on validation videos.
    """

    epochs: float = 10
    batch: int = 512
    lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    sampler: str = "class"
    batch_norm: str = "frozen"
    tau_on: str = VALIDATION

    def __post_init__(self) -> None:
        probabilities(np.ones(2), self.sampler)
        if self.batch_norm not in ("frozen", "published"):
            raise ValueError(f"retune.batch_norm={self.batch_norm!r} is unknown; known: frozen, published")
        if self.tau_on != VALIDATION:
            raise ValueError(
                f"retune.tau_on={self.tau_on!r} is refused: tau is chosen on videos that are neither trained on nor "
                f"tested on; leave it out, or write {VALIDATION!r}"
            )

    @classmethod
    def of(cls, recipe: Mapping[str, Any]) -> Retuning:
        """Of a recipe.

        Raises:
            ValueError: unknown settings, or tau is to be chosen on something else than validation videos.
        """
        given = dict(recipe.get("retune") or {})
        if unknown := given.keys() - {f.name for f in fields(cls)}:
            raise ValueError(f"retune has no {', '.join(sorted(unknown))}; known: {', '.join(asdict(cls()))}")
        return cls(**given)


class Listener:
    """A network whose last linear layer is listened to.

    Args:
        model: in eval mode.
        classes: C.
        clips: a few that the network takes, one tensor for each input.

    Raises:
        ValueError: its logits are not a linear layer of C outputs, averaged over the rows of a clip at most.
    """

    def __init__(self, model: VideoClassifier, classes: int, clips: tuple[Tensor, ...]) -> None:
        self.model, self.heard = model, []
        found = [m for m in model.net.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
        order: list[nn.Linear] = []
        hooks = [m.register_forward_hook(lambda m, *_: order.append(m)) for m in found]
        with torch.no_grad():
            model.net(*clips)
            for hook in hooks:
                hook.remove()
            name = type(model.net).__name__
            if not order:
                raise ValueError(f"retune: {name} has no linear layer of {classes} outputs that its clips reach")
            self.layer = order[-1]
            with self._listening():
                logits = model.net(*clips)
            features = self._features(len(logits))
            again = F.linear(features, self.layer.weight, self.layer.bias)
        if not torch.allclose(again, logits, rtol=TOLERANCE, atol=TOLERANCE):
            raise ValueError(
                f"retune: the logits of {name} are not those of its last linear layer, so no other can take its place"
            )

    @contextmanager
    def _listening(self) -> Iterator[None]:
        hook = self.layer.register_forward_pre_hook(lambda _, inputs: self.heard.append(inputs[0].detach()))
        try:
            yield
        finally:
            hook.remove()

    def _features(self, clips: int) -> Tensor:
        rows = self.heard.pop()
        self.heard.clear()
        return rows.float().reshape(clips, -1, rows.shape[-1]).mean(1)

    @torch.no_grad()
    def __call__(self, clips: Tensor) -> Tensor:
        """Clips uint8 B V T H W C -> features B V D; views pass as in a test, or all at once in training mode."""
        views = clips.flatten(0, 1)
        at_once = len(views) if self.model.training else self.model.views_at_once(clips)
        parts = []
        with self._listening():
            for part in views.split(at_once):
                self.model.net(*self.model.prepare(part))
                parts.append(self._features(len(part)))
        return torch.cat(parts).unflatten(0, clips.shape[:2])


@dataclass(frozen=True)
class Table:
    """Features of videos.

    Attributes:
        features: N V D.
        label: N.
        ids: of the videos.
        failed: N, whether a video could not be read.
    """

    features: Tensor
    label: np.ndarray
    ids: list[str]
    failed: np.ndarray


def table_of(listen: Listener, manifest: Manifest, spec: RunSpec, suite: Suite, what: str) -> Table:
    """The features of all videos of a manifest, in the views of a test."""
    config, protocol, model = config_of(spec), suite.protocol, listen.model
    loader = DataLoader(
        TestVideos(manifest, protocol, inputs=model.inputs),
        videos_at_once(config, protocol),
        num_workers=config.workers,
        worker_init_fn=ignore_sigterm,
    )
    device = next(model.net.parameters()).device
    rows, label, ids, failed = [], [], [], []
    with Progress(f"{spec.id} features, {what}", len(manifest.videos)) as progress:
        for batch in loader:
            rows.append(listen(batch["clips"].to(device)).cpu())
            label += batch["label"].tolist()
            ids += batch["id"]
            failed += [bool(error) for error in batch["error"]]
            progress.step(len(batch["id"]))
    return Table(torch.cat(rows), np.array(label), ids, np.array(failed))


@torch.no_grad()
def answers(scores: Scores, table: Table) -> np.ndarray:
    """The class of the best score by video, N; -1 where it could not be read. Scores are means over views."""
    logits = scores(table.features)
    return np.where(table.failed, -1, logits.softmax(-1).mean(1).argmax(-1).numpy())


def tau_normalised(weight: Tensor, tau: float) -> Scores:
    """``x w / |w|^tau`` by class; weight C D."""
    scaled = weight / weight.norm(dim=1, keepdim=True) ** tau
    return lambda x: x @ scaled.T


def chosen_tau(weight: Tensor, validation: Table, train_counts: np.ndarray) -> tuple[float, list[float]]:
    """The tau of ``TAUS`` with the best macro accuracy on held-out videos, the least of equal ones; percent of each."""
    found = [
        accuracies(answers(tau_normalised(weight, tau), validation) == validation.label, validation.label, train_counts)
        for tau in TAUS
    ]
    macro = [of["macro"] for of in found]
    return float(TAUS[int(np.argmax(macro))]), macro


def nearest_mean(train: Table, classes: int) -> Scores:
    """Minus the squared distance to each class's mean (``cl2n`` and ``l2`` of the published code)."""
    there = torch.from_numpy(~train.failed)
    x, label = train.features[there], torch.from_numpy(train.label)[there]
    label, x = label.repeat_interleave(x.shape[1]), x.flatten(0, 1)
    middle = x.mean(0)

    def plain(x: Tensor) -> Tensor:
        return F.normalize(x - middle, dim=-1)

    sums = torch.zeros(classes, x.shape[1]).index_add_(0, label, plain(x))
    means = sums / torch.bincount(label, minlength=classes).clamp(min=1)[:, None]
    return lambda x: -(plain(x)[..., None, :] - means).square().sum(-1)


def logit_adjusted(weight: Tensor, bias: Tensor, train_counts: np.ndarray) -> Scores:
    """``W x + b - log(n / sum n)``."""
    n = torch.from_numpy(np.maximum(1, train_counts)).float()
    prior = (n / n.sum()).log()
    return lambda x: x @ weight.T + bias - prior


class Learnt(nn.Module):
    """cRT and LWS side by side: neither touches the other.

    Args:
        weight: C D, of the trained network.
        bias: C.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.crt = nn.Linear(weight.shape[1], len(weight))
        self.scale = nn.Parameter(torch.ones(len(weight)))
        self.register_buffer("weight", weight.clone())
        self.register_buffer("bias", bias.clone())

    def lws(self, x: Tensor) -> Tensor:
        """Features ... D to logits ... C."""
        return self.scale * (x @ self.weight.T + self.bias)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """The sum of both losses."""
        return F.cross_entropy(self.crt(x), label) + F.cross_entropy(self.lws(x), label)


def learn(listen: Listener, train: Manifest, spec: RunSpec, suite: Suite, options: Retuning) -> Learnt:
    """Train cRT and LWS on clips of training videos, augmented as the network's own."""
    torch.manual_seed(spec.seed)
    weight = listen.layer.weight.detach().float()
    bias = listen.layer.bias.detach().float() if listen.layer.bias is not None else weight.new_zeros(len(weight))
    device = weight.device
    learnt = Learnt(weight, bias).to(device)
    clips = TrainClips(
        train,
        suite.protocol,
        spec.seed,
        inputs=listen.model.inputs,
        sampler=options.sampler,
        epochs=math.ceil(options.epochs),
    )
    steps = math.ceil(options.epochs * len(clips) / options.batch)
    loader = DataLoader(
        clips,
        options.batch,
        sampler=StreamSampler(clips, options.batch, steps),
        num_workers=config_of(spec).workers,
        worker_init_fn=ignore_sigterm,
    )
    lr = options.lr * options.batch / 512
    sgd = torch.optim.SGD(learnt.parameters(), lr, options.momentum, weight_decay=options.weight_decay)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, steps)
    listen.model.train(options.batch_norm == "published")
    with Progress(f"{spec.id} retune", steps) as progress:
        for i, batch in enumerate(loader):
            torch.manual_seed(spec.seed * 1_000_003 + i)  # dropout of ``published``
            sgd.zero_grad()
            loss = learnt(listen(batch["clips"].to(device))[:, 0], batch["label"].to(device))
            loss.backward()
            sgd.step()
            rate.step()
            progress.step(note=f"loss {loss.item():.3f}")
    listen.model.eval()
    return learnt.cpu()


def retune(spec: RunSpec, suite: Suite, train: Manifest, test: Manifest, folder: Path) -> None:
    """Make all classifiers of a trained run; leave ``retuned.json`` and ``retuned.parquet``, their answers by video.

    Args:
        spec: the run.
        suite: with the run's protocol; its tail holds out the videos that tau is chosen on.
        train: training videos.
        test: test videos.
        folder: of the run.

    Raises:
        ValueError: see ``Retuning.of`` and ``Listener``.
        DataError: the suite holds out no videos, or some of them are trained on or tested on.
    """
    options = Retuning.of(spec.recipe)
    validation = suite.manifest(VALIDATION, train.root)
    check_apart(validation, train, test)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    protocol, n = suite.protocol, counts(train)

    def listener(model: VideoClassifier) -> Listener:
        model = model.to(device).eval()
        clips = example(model.inputs, protocol.sampling.frames, protocol.crops.test_size, 2, device)
        return Listener(model, suite.classes, clips)

    listen = listener(for_test(spec, folder, protocol))
    tested, held_out, seen = (
        table_of(listen, manifest, spec, suite, manifest_name)
        for manifest, manifest_name in ((test, "test"), (validation, VALIDATION), (train, "train"))
    )
    # In training mode batch norms must be there; as it is tested, they are folded away.
    moved = listener(trained(spec, folder)) if options.batch_norm == "published" else listen
    learnt = learn(moved, train, spec, suite, options)
    tested_moved = table_of(moved, test, spec, suite, "test") if moved is not listen else tested
    weight, bias = learnt.weight, learnt.bias
    tau, macro = chosen_tau(weight, held_out, n)
    found = dict(
        crt=answers(learnt.crt, tested_moved),
        lws=answers(learnt.lws, tested_moved),
        tau_norm=answers(tau_normalised(weight, tau), tested),
        ncm=answers(nearest_mean(seen, suite.classes), tested),
        logit_adjusted=answers(logit_adjusted(weight, bias, n), tested),
    )
    write_json(
        folder / "retuned.json",
        dict(
            settings=asdict(options),
            train_counts=n.tolist(),
            validation_manifest=validation.hash,
            validation_videos=len(validation.videos),
            tau=tau,
            validation_macro=macro,
        ),
    )
    answered = pd.DataFrame(dict(id=tested.ids, label=tested.label, **found)).sort_values("id", ignore_index=True)
    write_atomic(folder / "retuned.parquet", lambda path: answered.to_parquet(path, index=False))


def check_apart(validation: Manifest, train: Manifest, test: Manifest) -> None:
    """Raise a DataError where videos to choose on are trained on or tested on."""
    mine = {video.id for video in validation.videos}
    for what, other in (("tested", test), ("trained", train)):
        if shared := mine & {video.id for video in other.videos}:
            raise DataError(
                f"{len(shared)} validation videos are {what} on, the first is {min(shared)}; tau is not chosen on them"
            )
