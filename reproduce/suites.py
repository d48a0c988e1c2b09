"""What is compared with what: suites and their entries."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import Config

from autotsnet.architecture import TwoStreamArchitecture
from autotsnet.registry import SCOPE, family
from baselines.assemblenet import Graph
from reproduce.budget import Solution, remembered, solve
from reproduce.data import kinetics, ssv2, synthetic
from reproduce.data.manifest import DataError, Manifest, Video
from reproduce.measure.macs import count
from reproduce.protocol import Crops, Protocol, Sampling, TwoSizeCrops
from reproduce.spec import RunSpec, lasting

if TYPE_CHECKING:
    from reproduce.records import RunRecord

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
LOADERS = {"kinetics": kinetics.load, "ssv2": ssv2.load}

Architecture = TwoStreamArchitecture | Graph | tuple[str, ...]  # of Auto-TSNet, AssembleNet, PV-NAS-style


def arguments(architecture: Architecture) -> dict[str, Any]:
    """The argument of its family's build function that an architecture is."""
    if isinstance(architecture, TwoStreamArchitecture):
        return {"architecture": architecture.to_dict()}
    return {"graph": architecture.to_dict()} if isinstance(architecture, Graph) else {"ops": architecture}


@dataclass(frozen=True)
class Entry:
    """One line of a suite's table.

    Attributes:
        name: in tables and folders.
        config: Python config below ``configs/``: the recipe, and networks and searches by name.
        note: what the reader must know, printed beside the name.
        published: (model, variant) of the row of ``published.csv`` to stand beside it; the nearest native variant.
        net: name in the config's ``nets`` of the network; empty: its ``net``, or a user's model.
        search: name in the config's ``searches``, where the architecture is searched for or drawn from its space.
        variants: more than 1: so many architectures drawn at random, each trained like the others.
        optional: only run when asked for, by name or with ``MODELS=all``.
        architecture: once it is known.
        source: of a user's model, the text that defines the family ``name``, see ``reproduce.own``.
    """

    name: str
    config: str
    note: str = ""
    published: tuple[str, str] | None = None
    search: str | None = None
    variants: int = 1
    optional: bool = False
    architecture: Architecture | None = None
    source: str = ""
    net: str = ""

    def recipe(self, search: bool = False) -> Config:
        """The config of a training, or of the search, as it stands; the network in ``net`` not yet solved."""
        config = Config.fromfile(str(CONFIGS / self.config))
        nets, searches = config.pop("nets", {}), config.pop("searches", {})
        if search:
            config.update(searches[self.search])
        if self.net:
            config.net = nets[self.net]
        if self.source:
            config.net = dict(type=f"{SCOPE}.{self.name}")
        return config


@dataclass(frozen=True)
class Suite:
    """Models on one data set: under one budget and one protocol, or each as its authors trained and tested it.

    Attributes:
        name: on the command line.
        dataset: name in titles and records.
        layout: ``kinetics`` or ``ssv2``: how the copy is laid out, which loader reads it.
        classes: number of classes N.
        gmacs: the budget, GMACs per view; None: native variants, nothing is scaled.
        protocol: of all entries; None: each entry's is part of its recipe, see ``of``.
        entries: what is compared.
        root: environment variable that names the copy; None: the embedded data set, generated.
        size: of the embedded data set.
        published: name of the data set in ``published.csv``; None: no literature value belongs in this table.
    """

    name: str
    dataset: str
    layout: str
    classes: int
    gmacs: float | None
    protocol: Protocol | None
    entries: tuple[Entry, ...]
    root: str | None = None
    size: str = ""
    published: str | None = None

    def entry(self, name: str) -> Entry:
        """The entry of that name; a ValueError lists the known ones."""
        for e in self.entries:
            if e.name == name:
                return e
        raise ValueError(f"suite {self.name!r} has no entry {name!r}; known: {', '.join(e.name for e in self.entries)}")

    def control(self, entry: Entry) -> Entry | None:
        """Random architectures to set an entry against: of its own space where it was searched, else the first ones.

        None for random architectures themselves, and in a suite without any.
        """
        controls = [e for e in self.entries if e.variants > 1]
        if not controls or entry in controls:
            return None
        return next((c for c in controls if c.search == entry.search), controls[0])

    def of(self, entry: Entry) -> Suite:
        """The suite as this entry is run in it: with the protocol of its recipe, where there is no common one."""
        if self.protocol:
            return self
        config = Config.fromfile(str(CONFIGS / entry.config))
        crops = TwoSizeCrops(**config.crops | {"jitter": tuple(config.crops.jitter)})
        return replace(self, protocol=Protocol(Sampling(**config.sampling), crops))

    def data_root(self, cache_folder: Path) -> Path:
        """Where the videos are; the embedded ones are generated first if they are not there.

        Raises:
            DataError: the suite needs a real copy and its environment variable is not set.
        """
        if self.root is None:
            folder = cache_folder / f"synthetic-{self.layout}-{self.size}"
            synthetic.generate(f"synthetic-{self.layout}", folder, size=self.size)
            return folder
        if not os.environ.get(self.root):
            raise DataError(f"suite {self.name!r} needs {self.root}, the folder of {self.dataset}; see README")
        return Path(os.environ[self.root])

    def manifest(self, split: str, root: Path) -> Manifest:
        """The videos of a split; those of the embedded data carry the hash of their frames.

        Raises:
            DataError: the copy is not there, of another form, or partial without ALLOW_PARTIAL=1.
        """
        manifest = LOADERS[self.layout](root, split, self.dataset)
        if len(manifest.classes) != self.classes:
            raise DataError(
                f"{root}: {len(manifest.classes)} classes, suite {self.name!r} is made for {self.classes}; "
                "is the annotation complete?"
            )
        if self.root is not None:
            return manifest.usable(allow_partial=os.environ.get("ALLOW_PARTIAL", "0") not in ("", "0"))
        pixels = {v["path"]: v["sha256"] for v in synthetic.load_manifest(root)["videos"]}
        return manifest.subset(tuple(Video(v.id, v.path, v.label, pixels[v.path]) for v in manifest.videos))

    def solution(self, entry: Entry) -> Solution:
        """The member of the entry's family that meets the budget; without a budget, the recipe's own."""
        return _solution(self, entry)

    def config(self, entry: Entry) -> Config:
        """The entry's recipe, with the network of ``solution``."""
        config = entry.recipe()
        sampling, crops = self.protocol.sampling, self.protocol.crops
        config.net.update(
            num_classes=self.classes, frames=sampling.frames, crop=crops.size, **self.solution(entry).kwargs
        )
        return config


@cache
def _solution(suite: Suite, entry: Entry) -> Solution:
    net = dict(entry.recipe().net)
    kind = net.pop("type")
    if entry.architecture:
        net |= arguments(entry.architecture)
        if isinstance(entry.architecture, TwoStreamArchitecture) and entry.variants > 1:  # drawn within the tolerance
            net |= dict(width=1.0, expansion=1.0)
    name = kind if isinstance(kind, str) else kind.__name__
    model = family(name.rsplit(".", 1)[-1])
    sampling, crops = suite.protocol.sampling, suite.protocol.crops
    memory = Path(os.environ.get("CACHE") or ".cache") / "budgets"
    if suite.gmacs is None:
        made = dict(num_classes=suite.classes, frames=sampling.frames, crop=crops.size, **net)

        def counted() -> dict[str, Any]:
            found = count(lambda: model.build(**made), sampling.frames, crops.test_size)
            return dict(gmacs=found.gmacs, params=found.params)

        found = remembered(memory, [name, made, crops.test_size], counted)
        return Solution(net, **found, residual=0.0, matched=True, evaluations=1)
    return solve(
        model.build,
        model.knobs,
        suite.gmacs,
        frames=sampling.frames,
        crop=crops.size,
        num_classes=suite.classes,
        fixed=net,
        memory=memory,
    )


def architecture_of(net: dict[str, Any]) -> Architecture | None:
    """The architecture in a network's config; None where it has none. The inverse of ``arguments``."""
    if net.get("architecture"):
        return TwoStreamArchitecture.from_dict(net["architecture"])
    if net.get("graph"):
        return Graph.from_dict(net["graph"])
    return tuple(net["ops"]) if net.get("ops") else None


def difference(record: RunRecord, suite: Suite, entry: Entry) -> str:
    """How a run differs from what the suite would run now under its entry, seed and videos; empty if it does not.

    An architecture that was searched for or drawn is taken as the record has it; a user's model, as it is now.
    """
    spec = record.spec
    if spec is None:
        return "an old record, which does not hold its specification"
    entry = replace(entry, architecture=entry.architecture or architecture_of(spec.net) if entry.search else None)
    now = RunSpec.of(suite.of(entry), entry, spec.seed, spec.train_manifest, spec.test_manifest, spec.variant)
    if now.model_copy(update={"ranks": spec.ranks}).hash == spec.hash:
        return ""
    for what in RunSpec.model_fields:
        old, new = (lasting(x) if what == "recipe" else x for x in (getattr(spec, what), getattr(now, what)))
        if old != new:
            keys = [k for k in {**old, **new} if old.get(k) != new.get(k)] if isinstance(old, dict) else []
            return f"another {what}" + (f" ({', '.join(sorted(keys))})" if keys else "")
    raise AssertionError(f"{spec.hash} and {now.hash} differ in nothing")


def _entries(folder: str, dataset: str) -> tuple[Entry, ...]:
    published = {
        "Kinetics-400": {
            "slowfast": ("SlowFast", "R50 4x16"),
            "x3d": ("X3D", "X3D-M"),
            "tsm": ("TSM", "TSM ResNet50 uniform"),
            "auto_tsnet": ("Auto-TSNet", "Auto-TSNet-L"),
            "pvnas": ("PV-NAS", "PV-NAS-L"),
            "mvit": ("MViTv1", "MViT-B 16x4"),
        },
        "Something-Something-V2": {
            "slowfast": ("SlowFast", "R50 16x8 standard schedule"),
            "x3d": ("X3D (VoV3D re-train)", "X3D-M 100e"),
            "tsm": ("TSM (mmaction2 re-train)", "TSM ResNet50"),
            "pvnas": ("PV-NAS", "PV-NAS-L"),
        },
    }.get(dataset, {})
    plain = ("slowfast", "x3d", "tsm", "auto_tsnet_uniform")
    notes = {"auto_tsnet_uniform": "uniform, not searched"}
    config = f"{folder}/suite.py"

    def entry(name: str, note: str = "", published: tuple[str, str] | None = None, net: str = "", **how: Any) -> Entry:
        return Entry(name, config, note, published, net=net or name, **how)

    auto, graph, ops = "auto_tsnet", "assemblenet", "pvnas"
    random = "random, same space and GMACs"
    return (
        *(entry(name, notes.get(name, ""), published.get(name)) for name in plain),
        entry("auto_tsnet_random", "random architectures of equal GMACs", net=auto, search=auto, variants=3),
        entry("auto_tsnet", "searched", published.get("auto_tsnet"), search=auto),
        entry("mvit", "", published.get("mvit"), optional=True),
        entry("assemblenet", "the authors' graph", optional=True),
        entry("assemblenet_random", random, net="assemblenet_searched", search=graph, variants=3, optional=True),
        entry("assemblenet_searched", "AssembleNet-style, searched", search=graph, optional=True),
        entry("pvnas_random", random, net=ops, search=ops, variants=3, optional=True),
        entry("pvnas", "PV-NAS-style, searched", published.get("pvnas"), search=ops, optional=True),
    )


@dataclass(frozen=True)
class _Size:
    """What a size of the embedded data is run with: chosen for its machine, a CPU for the first two, a GPU for full."""

    classes: int
    frames: int
    crop: int
    gmacs: float


EMBEDDED = {
    "tiny": _Size(classes=4, frames=8, crop=32, gmacs=0.006),  # seconds: for tests
    "quick": _Size(classes=8, frames=8, crop=48, gmacs=0.016),  # minutes
    "full": _Size(classes=24, frames=16, crop=112, gmacs=0.5),  # hours
}


def _embedded(layout: str, size: str) -> Suite:
    s = EMBEDDED[size]
    jitter = (round(s.crop * 1.03), round(s.crop * 1.31))  # as 256-320 would be to a crop of 248
    return Suite(
        f"{layout}-{size}",
        f"synthetic-{layout} {size}",
        layout,
        s.classes,
        s.gmacs,
        # No flip: several motions (clockwise, to the left) change their class with it.
        Protocol(Sampling("segment", s.frames, clips=2), Crops(s.crop, round(s.crop * 1.125), jitter, flip=0.0)),
        _entries(size, ""),
        size=size,
    )


def _native(layout: str, dataset: str, classes: int, entries: dict[str, tuple[str, str]]) -> Suite:
    return Suite(
        f"{layout}-native",
        dataset,
        layout,
        classes,
        gmacs=None,
        protocol=None,
        entries=tuple(Entry(name, f"native/{name}.py", published=source) for name, source in entries.items()),
        root=f"{layout.upper()}_ROOT",
        published=dataset,
    )


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "kinetics",
            "Kinetics-400",
            "kinetics",
            classes=400,
            gmacs=4.7,  # X3D-M's and Auto-TSNet-M's
            protocol=Protocol(
                Sampling("dense", frames=16, stride=5, clips=10), Crops(224, 256, (256, 320), flip=0.5, crops=3)
            ),
            entries=_entries("kinetics", "Kinetics-400"),
            root="KINETICS_ROOT",
            published="Kinetics-400",
        ),
        Suite(
            "ssv2",
            "Something-Something-V2",
            "ssv2",
            classes=174,
            gmacs=4.7,
            protocol=Protocol(Sampling("segment", frames=16, clips=1), Crops(224, 256, (256, 320), flip=0.5, crops=3)),
            entries=_entries("ssv2", "Something-Something-V2"),
            root="SSV2_ROOT",
            published="Something-Something-V2",
        ),
        _native(
            "kinetics",
            "Kinetics-400",
            400,
            {
                "slow_4x16_r50": ("Slow", "R50 4x16"),
                "slow_8x8_r50": ("Slow", "R50 8x8"),
                "slowfast_4x16_r50": ("SlowFast", "R50 4x16"),
                "slowfast_8x8_r50": ("SlowFast", "R50 8x8"),
                "slowfast_8x8_r101": ("SlowFast (PyTorchVideo)", "R101 8x8"),
                "slowfast_16x8_r101_50_50": ("SlowFast (PyTorchVideo)", "R101_50_50 16x8"),
                "x3d_xs": ("X3D", "X3D-XS"),
                "x3d_s": ("X3D", "X3D-S"),
                "x3d_m": ("X3D", "X3D-M"),
                "x3d_l": ("X3D", "X3D-L"),
                "tsm_r50_8f": ("TSM (mmaction2 re-train)", "TSM ResNet50 50e"),
                "tsm_r50_16f": ("TSM (mmaction2 re-train)", "TSM ResNet50 50e"),
                "mvit_b_16x4": ("MViTv1", "MViT-B 16x4"),
                "mvit_b_32x3": ("MViTv1", "MViT-B 32x3"),
            },
        ),
        _native(
            "ssv2",
            "Something-Something-V2",
            174,
            {
                "slowfast_8x8_r50_ssv2": ("SlowFast (PyTorchVideo)", "R50 8x8"),
                "slowfast_16x8_r50_ssv2": ("SlowFast", "R50 16x8 standard schedule"),
                "tsm_r50_8f_ssv2": ("TSM (mmaction2 re-train)", "TSM ResNet50"),
                "tsm_r50_16f_ssv2": ("TSM (mmaction2 re-train)", "TSM ResNet50"),
                "tsm_r101_8f_ssv2": ("TSM (mmaction2 re-train)", "TSM ResNet101"),
            },
        ),
        *(_embedded(layout, size) for size in EMBEDDED for layout in LOADERS),
    )
}


def suite(name: str) -> Suite:
    """The suite of that name; ``kinetics-quick@0.03`` is the same at another budget, with records of its own.

    Raises:
        ValueError: no such suite, the message lists them; or no such budget.
    """
    base, at, budget = name.partition("@")
    if base not in SUITES:
        raise ValueError(f"unknown suite {name!r}; known: {', '.join(SUITES)}")
    return at_budget(SUITES[base], budget) if at else SUITES[base]


def at_budget(suite: Suite, budget: str | float) -> Suite:
    """A suite at another budget, GMACs per view to six digits, under a name of its own; at its own, itself.

    Raises:
        ValueError: no positive number, or a suite in which nothing is scaled.
    """
    if suite.gmacs is None:
        raise ValueError(f"suite {suite.name!r} has no budget, its models are as their authors made them")
    try:
        gmacs = float(f"{float(budget):g}")
    except ValueError:
        gmacs = math.nan
    if not 0 < gmacs < math.inf:
        raise ValueError(f"a budget of {budget} is no positive number of GMACs per view, such as {suite.gmacs:g}")
    return suite if gmacs == suite.gmacs else replace(suite, name=f"{suite.name}@{gmacs:g}", gmacs=gmacs)
