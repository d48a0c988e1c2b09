"""What is compared with what: suites and their entries. A suite is a file, see ``configs/suites``."""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any

from mmengine.config import Config

from autotsnet.architecture import Architecture
from autotsnet.registry import SCOPE, family
from reproduce.budget import Solution, cost, memory_folder, solve
from reproduce.data import kinetics, ssv2, synthetic  # noqa: F401  (registers layouts)
from reproduce.data.class_sets import class_sets
from reproduce.data.layouts import LAYOUTS
from reproduce.data.longtail import VALIDATION, Tail, cut
from reproduce.data.manifest import DataError, Manifest, Video, resizing
from reproduce.protocol import Crops, Protocol, Sampling, TwoSizeCrops
from reproduce.records import RunRecord, Tuning
from reproduce.spec import RunSpec, lasting, plain

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
FILE = ("suite", "entries", "literature", "nets", "searches", "tuning")  # of a suite's file: what is no recipe


class SuiteError(ValueError):
    """A suite's file cannot be read; the message names the file, what is wrong, and the way out."""


def _read(path: Path) -> Config:
    """A config, without the warning of the package by which mmengine finds what it inherits from."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
        return Config.fromfile(str(path))


@dataclass(frozen=True)
class Entry:
    """One line of a suite's table.

    Attributes:
        name: in tables and folders.
        config: file of the recipe, and of networks and searches by name: the suite's, or the entry's own; None: of a
            user's model that is only known from records.
        note: what the reader must know, printed beside the name.
        published: (model, variant) of the row of ``published.csv`` to stand beside it; the nearest native variant.
        net: name in the config's ``nets`` of the network; empty: its ``net``, or a user's model.
        search: name in the config's ``searches``, where the architecture is searched for or drawn from its space.
        variants: more than 1: so many architectures drawn at random, each trained like the others.
        optional: only run when asked for, by name or with ``MODELS=all``.
        architecture: once it is known.
        source: of a user's model, the text that defines the family ``name``, see ``reproduce.user_model``.
        changes: of the recipe, by place in it, where the suite's file gives this entry another one.
        values: in place of the config's, by place in it: ``optim_wrapper.optimizer.lr``, ``net.strides``.
        tuning: what choosing the values took.
    """

    name: str
    config: Path | None
    note: str = ""
    published: tuple[str, str] | None = None
    search: str | None = None
    variants: int = 1
    optional: bool = False
    architecture: Architecture | None = None
    source: str = ""
    net: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict, hash=False)
    values: Mapping[str, Any] = field(default_factory=dict, hash=False)
    tuning: Tuning | None = field(default=None, hash=False)

    def recipe(self, search: bool = False) -> Config:
        """The config of a training, or of the search, as it stands; the network in ``net`` not yet solved."""
        config = _read(self.config)
        parts = {key: config.pop(key, {}) for key in FILE}
        if search:
            config.update(parts["searches"][self.search])
        if self.net:
            config.net = parts["nets"][self.net]
        if self.source:
            config.net = dict(type=f"{SCOPE}.{self.name}")
        for place, value in () if search else (*self.changes.items(), *self.values.items()):
            *parents, last = place.split(".")
            reduce(getitem, parents, config)[last] = value
        return config

    def tuning_space(self) -> dict[str, Any]:
        """What the config says of trials, see ``reproduce.tuning``, as plain data; empty: nothing."""
        return plain(_read(self.config)).get("tuning", {})


@dataclass(frozen=True)
class Suite:
    """Models on one data set: under one budget and one protocol, or each as its authors trained and tested it.

    Attributes:
        name: on the command line.
        dataset: name in titles and records.
        layout: how the copy is laid out, a name in ``reproduce.data.layouts.LAYOUTS``: ``kinetics``, ``ssv2``.
        classes: number of classes N.
        gmacs: the budget, GMACs per view; None: native variants, nothing is scaled.
        protocol: of all entries; None: each entry's is part of its recipe, see ``of``.
        entries: what is compared.
        root: environment variable that names the copy; None: the embedded data set, generated.
        size: of the embedded data set, see ``synthetic.changed``.
        published: name of the data set in ``published.csv``; None: no literature value belongs in this table.
        file: that defines it.
        tail: makes the training videos a long tail; test videos stay as they are.
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
    file: Path | None = None
    tail: Tail | None = None

    @property
    def ref(self) -> str:
        """What the command line calls it: its name, or for a user's suite its file, with a budget of its own."""
        own = self.file and self.file.parent != CONFIGS / "suites"
        return f"{self.file}{self.name[len(_name(self.file)) :]}" if own else self.name

    @property
    def tuned(self) -> Path:
        """Where values stand that `tune` has chosen, beside the suite's file: ``kinetics_quick@0.03.tuned.json``."""
        return self.file.with_name(f"{self.file.stem}{self.name[len(_name(self.file)) :]}.tuned.json")

    @property
    def class_sets(self) -> dict[str, tuple[int, ...]]:
        """Labels of the classes that need time, and of those that do not, see ``reproduce.data.class_sets``."""
        return class_sets((self.tail and self.tail.of) or self.dataset, self.layout, self.size)

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
        config = _read(entry.config)
        return replace(self, protocol=_protocol(config, TwoSizeCrops))

    def data_root(self, cache_folder: Path) -> Path:
        """Where the videos are; the embedded ones are generated first if they are not there.

        Raises:
            DataError: the suite needs a real copy and its environment variable is not set.
        """
        if self.root is None:
            folder = cache_folder / f"synthetic-{self.layout}-{synthetic.short(self.size)}"
            synthetic.generate(f"synthetic-{self.layout}", folder, size=self.size)
            return folder
        if not os.environ.get(self.root):
            raise DataError(f"suite {self.name!r} needs {self.root}, the folder of {self.dataset}; see README")
        return Path(os.environ[self.root])

    def manifest(self, split: str, root: Path) -> Manifest:
        """The videos of a split; those of the embedded data carry the hash of their frames.

        Args:
            split: ``train``, ``val``; of some embedded videos ``holdout``; with a tail that holds out some
                ``validation``.
            root: of the copy.

        Raises:
            DataError: the copy is not there, of another form, partial without ALLOW_PARTIAL=1, or not yet resized; or
                the tail cannot be cut from it.
        """
        if self.tail is None:
            return self._all(split, root, self.dataset)
        whole = self._all("train" if split == VALIDATION else split, root, self.tail.of or self.dataset)
        whole = replace(whole, dataset=self.dataset)
        if split not in ("train", VALIDATION):
            return whole
        found = cut(whole, self.tail)[split == VALIDATION]
        if found is None:
            raise DataError(f"suite {self.name!r} holds out no videos to choose on; set `validation` of its `tail`")
        return found

    def _all(self, split: str, root: Path, dataset: str) -> Manifest:
        manifest = LAYOUTS.named(self.layout)(root, split, dataset)
        if len(manifest.classes) != self.classes:
            raise DataError(
                f"{root}: {len(manifest.classes)} classes, suite {self.name!r} is made for {self.classes}; "
                "is the annotation complete?"
            )
        if self.root is not None:
            manifest = replace(manifest, resized=resizing(root))
            return manifest.usable(allow_partial=os.environ.get("ALLOW_PARTIAL", "0") not in ("", "0"))
        pixels = {v["path"]: v["sha256"] for v in synthetic.load_manifest(root)["videos"]}
        return manifest.subset(tuple(Video(v.id, v.path, v.label, pixels[v.path]) for v in manifest.videos))

    def check(self, names: Iterable[str]) -> None:
        """Find out before hours of work whether entries that need no search can be brought to the budget.

        Raises:
            BudgetError: one cannot.
            SuiteError: the network of one cannot be built.
        """
        for entry in map(self.entry, names):
            if entry.search is None:
                try:
                    self.of(entry).solution(entry)
                except (AttributeError, KeyError, TypeError) as error:  # of a network that cannot be built
                    raise SuiteError(f"{self.file}: entry {entry.name!r} cannot be built: {error}") from error

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
        net |= entry.architecture.arguments()
        if entry.variants > 1 and not net.get("transforms"):  # drawn near the budget
            net |= entry.architecture.scales
    model = family(kind)
    sampling, crops = suite.protocol.sampling, suite.protocol.crops
    if suite.gmacs is None:
        made = dict(num_classes=suite.classes, frames=sampling.frames, crop=crops.size, **net)
        gmacs, params = cost(model.build, made, sampling.frames, crops.test_size, memory_folder())
        return Solution(net, gmacs, params, residual=0.0, matched=True, evaluations=1)
    return solve(
        model.build,
        model.knobs,
        suite.gmacs,
        frames=sampling.frames,
        crop=crops.size,
        num_classes=suite.classes,
        fixed=net,
        memory=memory_folder(),
    )


def difference(record: RunRecord, suite: Suite, entry: Entry) -> str:
    """How a run differs from what the suite would run now under its entry, seed and videos; empty if it does not.

    An architecture that was searched for or drawn is taken as the record has it; a user's model, as it is now.
    """
    spec = record.spec
    if spec is None:
        return "an old record, which does not hold its specification"
    if entry.search and not entry.architecture and (known := family(spec.family).architecture):
        entry = replace(entry, architecture=known.of(spec.net))
    now = RunSpec.of(suite.of(entry), entry, spec.seed, spec.train_manifest, spec.test_manifest, spec.variant)
    if now.model_copy(update={"ranks": spec.ranks}).hash == spec.hash:
        return ""
    for what in RunSpec.model_fields:
        old, new = (lasting(x) if what == "recipe" else x for x in (getattr(spec, what), getattr(now, what)))
        if old != new:
            keys = [k for k in {**old, **new} if old.get(k) != new.get(k)] if isinstance(old, dict) else []
            return f"another {what}" + (f" ({', '.join(sorted(keys))})" if keys else "")
    raise AssertionError(f"{spec.hash} and {now.hash} differ in nothing")


def _protocol(config: Mapping[str, Any], crops: type[Crops] = Crops) -> Protocol:
    """The protocol of a config's ``sampling`` and ``crops``."""
    given = config["crops"] | {"jitter": tuple(config["crops"]["jitter"])}
    return Protocol(Sampling(**config["sampling"]), crops(**given))


def load(path: Path) -> Suite:
    """The suite of a file: ``suite`` (see ``Suite``), ``entries`` (see ``Entry``), a recipe, ``nets``, ``searches``.

    The suite's name is the file's. ``literature`` names rows of ``published.csv`` by entry.

    Raises:
        SuiteError: the file is not there or is not Python, or something in it is unknown, missing or twice there.
    """
    try:
        config = _read(path)
        if wrong := [e for e in config.entries if not isinstance(e, Mapping)]:
            raise SuiteError(f"`entries` are dicts, with {wrong[0]!r} among them")
        found, entries = config.suite.to_dict(), [dict(e) for e in config.entries]
        published = config.get("literature", {})
        if found.get("protocol"):
            found["protocol"] = _protocol(found["protocol"])
        if found.get("tail"):
            found["tail"] = Tail(**found["tail"])
        for entry in entries:
            if "config" in entry:
                entry["config"] = (path.parent / entry["config"]).resolve()
            else:
                entry |= dict(config=path, net=entry.get("net", entry["name"]))
            if entry["name"] in published:
                entry["published"] = tuple(published[entry["name"]])
        made = [Entry(**entry) for entry in entries]
        names = [entry.name for entry in made]
        loaded = Suite(**dict(gmacs=None, protocol=None) | found, name=_name(path), file=path, entries=tuple(made))
        LAYOUTS.named(loaded.layout)
        wrong = [*_faults(loaded), *(f"literature of {n!r}, which is no entry" for n in published if n not in names)]
    except Exception as error:  # whatever a file of Python may raise
        said = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else error
        raise SuiteError(f"{path} is no suite: {said}; see configs/examples/my_suite.py") from error
    if wrong:
        raise SuiteError(f"{path}: {'; '.join(wrong)}")
    return _with_tuned(loaded)


def _with_tuned(suite: Suite) -> Suite:
    """The suite with the values that stand beside its file, and with no others: they are for one budget."""
    found: dict[str, Tuning] = {}
    if suite.file and suite.tuned.exists():
        try:
            found = {name: Tuning(**of) for name, of in json.loads(suite.tuned.read_text()).items()}
            for name in found:
                suite.entry(name)
        except (AttributeError, TypeError, ValueError) as error:
            said = str(error).splitlines()[0]
            raise SuiteError(f"{suite.tuned} is not what `tune` writes: {said}; remove it, or tune again") from error
        check_equal_care(found, suite.tuned)
    values = {name: of.values for name, of in found.items()}
    entries = [replace(e, values=values.get(e.name, {}), tuning=found.get(e.name)) for e in suite.entries]
    return replace(suite, entries=tuple(entries))


def check_equal_care(found: Mapping[str, Tuning], where: Path) -> None:
    """Raise a SuiteError where entries were tuned by other numbers of trials, spaces, lengths, seeds or videos."""
    first = next(iter(found), "")
    for name, of in found.items():
        what = ("trials", "plan", "train_manifest", "held_out_manifest")
        if other := [part for part in what if getattr(of, part) != getattr(found[first], part)]:
            raise SuiteError(
                f"{where}: {first} and {name} were not tuned alike, by another {', '.join(other)}; "
                "tune all of them by one command"
            )


def _faults(suite: Suite) -> Iterator[str]:
    """What is wrong with a suite, as far as it is seen without building a network."""
    names = [entry.name for entry in suite.entries]
    for name in (suite.name, *names):
        if not re.fullmatch(r"\w[\w-]*", name):
            yield f"{name!r} is no name of letters, digits, - and _"
    yield from (f"entry {n!r} is there twice" for n in dict.fromkeys(names) if names.count(n) > 1)
    gmacs = suite.gmacs
    if gmacs is not None and (isinstance(gmacs, bool) or not (isinstance(gmacs, int | float) and 0 < gmacs < math.inf)):
        yield f"gmacs={gmacs!r} is no positive number of GMACs per view"
    if not isinstance(suite.classes, int) or suite.classes < 2:
        yield f"classes={suite.classes!r} is no number of classes"
    if not suite.root and not suite.size:
        yield "neither `root`, the variable that names the copy, nor the `size` of embedded videos is given"
    if not suite.entries:
        yield "`entries` is empty"
    configs = {path: _read(path) for path in {entry.config for entry in suite.entries}}
    for entry in suite.entries:
        config = configs[entry.config]
        nets, searches = config.get("nets", {}), config.get("searches", {})
        net = nets.get(entry.net) if entry.net else config.get("net")
        if net is None:
            yield f"entry {entry.name!r} has no network in `nets`"
        elif not (isinstance(net.get("type"), str) or callable(net.get("type"))):
            yield f"the network of entry {entry.name!r} has no type"
        if entry.search and entry.search not in searches:
            yield f"entry {entry.name!r} has no search in `searches`"
        elif entry.search and not isinstance(searches[entry.search].get("method"), str):
            yield f"the search of entry {entry.name!r} has no `method`"
        if not isinstance(entry.variants, int) or entry.variants < 1:
            yield f"entry {entry.name!r} has variants={entry.variants!r}"
        if "retune" in config.get("stages", ()) and not (suite.tail and suite.tail.validation):
            yield f"entry {entry.name!r} has the stage retune, and the suite no `tail` with `validation` videos"
        if suite.protocol is None and not {"sampling", "crops"} <= config.keys():
            yield f"neither the suite has a `protocol`, nor the recipe of {entry.name!r} `sampling` and `crops`"


def _name(path: Path) -> str:
    return path.stem.replace("_", "-")


class _Suites(dict):
    """The suites of ``configs/suites`` by name, each read when it is first asked for."""

    def __init__(self) -> None:
        super().__init__({_name(path): path for path in sorted((CONFIGS / "suites").glob("*.py"))})

    def __getitem__(self, name: str) -> Suite:
        found = super().__getitem__(name)
        if isinstance(found, Path):
            self[name] = found = load(found)
        return found

    def values(self) -> list[Suite]:
        """All of them."""
        return [self[name] for name in self]

    def items(self) -> list[tuple[str, Suite]]:
        """All of them, with their names."""
        return [(name, self[name]) for name in self]


SUITES = _Suites()


def named(name: str) -> Suite:
    """The suite of that name; ``kinetics-quick@0.03`` is at another budget, with records of its own.

    The name may come from data: no file is executed.

    Raises:
        ValueError: no such suite, the message lists them; or no such budget.
    """
    base, at, budget = name.partition("@")
    if base not in SUITES:
        raise ValueError(
            f"unknown suite {name!r}; known: {', '.join(SUITES)}; name the file of yours: --suite my_suite.py"
        )
    return at_budget(SUITES[base], budget) if at else SUITES[base]


def suite(name: str) -> Suite:
    """The suite that a user names: see ``named``, or the file of one's own, from then on known by its name.

    Raises:
        ValueError: see ``named``.
        SuiteError: see ``load``, or another suite has the name.
    """
    base, at, budget = name.rpartition("@")  # a folder's name may have an @, too
    if not at or name.endswith(".py"):
        base, at, budget = name, "", ""
    if not base.endswith(".py"):
        return named(name)
    path = Path(base).resolve()
    known = _name(path)
    if known not in SUITES:
        SUITES[known] = load(path)
    if SUITES[known].file != path:
        raise SuiteError(f"{path}: {SUITES[known].file} is suite {known!r} already, records would mix; rename the file")
    return at_budget(SUITES[known], budget) if at else SUITES[known]


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
    return suite if gmacs == suite.gmacs else _with_tuned(replace(suite, name=f"{suite.name}@{gmacs:g}", gmacs=gmacs))
