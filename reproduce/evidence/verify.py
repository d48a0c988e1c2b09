"""Do the results agree with themselves? Every number that can be recomputed from what lies beside it is recomputed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache, reduce
from math import ceil, inf, isclose, isfinite
from operator import getitem
from pathlib import Path
from statistics import median

import pandas as pd
from mmengine.config import Config

from autotsnet.registry import family
from reproduce.budget import cost, memory_folder
from reproduce.data.longtail import of_classifiers
from reproduce.engine.retune import TAUS, Retuning
from reproduce.evidence import longtail, natives, report, tables
from reproduce.evidence.reference import REFERENCE
from reproduce.evidence.temporal import diagnose, partners
from reproduce.records import (
    UNPROVEN,
    RecordError,
    RunRecord,
    Search,
    predictions,
    ranks,
    retuned_answers,
    score,
    sha256,
)
from reproduce.spec import RunSpec, run_id
from reproduce.suites import CONFIGS, SUITES, Entry, Suite, named

FROZEN = Path(__file__).with_name("old_records.json")  # suite/name.json -> sha256 of the committed old records


class VerifyError(ValueError):
    """Results disagree with themselves; one line each, naming the file."""


def verify(results: Path) -> str:
    """Check all records and tables of a folder.

    Returns:
        What was checked, in one line.

    Raises:
        VerifyError: something disagrees, or there is nothing to check; all findings, one a line.
    """
    paths, found = sorted(results.glob("records/*/*")), _all_records(results)
    found += [line for path in sorted(results.glob("throughput/*.json")) for line in _whole(_throughput, path)]
    found += [line for path in sorted(results.glob("peers/*.json")) for line in _whole(_peers, path)]
    found += _natives(results) if (results / "tables" / "natives.md").exists() else []
    found += _of_the_reference(results) if results.resolve() == REFERENCE.resolve() else []
    # A table of unreadable records cannot be rendered; the records are the news then.
    found = found or [line for path in sorted(results.glob("temporal/*/*")) for line in _whole(_temporal, path)]
    found = found or [line for path in sorted(results.glob("longtail/*.md")) for line in _whole(_longtail, path)]
    found = found or [line for name in _suites(results) for line in _table(name, results)]
    stale = None if found else report.disagreement(results)
    found += [stale] if stale else []
    if found:
        raise VerifyError("\n".join(found))
    records = [RunRecord.load(p) for p in paths if p.suffix == ".json"]
    return f"{results}: {len(records)} records and the tables of {len(_suites(results))} suites agree{_doubts(records)}"


def check_records(results: Path) -> str:
    """Check the records of a folder only, one's own or a stranger's; what was checked, in a line.

    Raises:
        VerifyError: see ``verify``; or a record is old and does not hold its specification.
    """
    found = _all_records(results)
    records = {} if found else {p: RunRecord.load(p) for p in sorted(results.glob("records/*/*.json"))}
    found += [
        f"{path}: an old record, which does not hold its specification; run it again"
        for path, r in records.items()
        if r.spec is None
    ]
    if found:
        raise VerifyError("\n".join(found))
    return f"{results}: {len(records)} records agree{_doubts(list(records.values()))}"


def _all_records(results: Path) -> list[str]:
    paths = sorted(results.glob("records/*/*"))
    if not paths:
        raise VerifyError(f"{results} has no records/; name the folder of results")
    first: dict[str, tuple[object, Path]] = {}
    return [line for folder in sorted({p.parent for p in paths}) for line in _records(folder, first)]


def _doubts(records: list[RunRecord]) -> str:
    """What of them cannot be recomputed here."""
    old = sum(r.spec is None for r in records)
    own = sum(r.spec is not None and bool(r.spec.source) for r in records)
    text = f"; {old} old records cannot prove {UNPROVEN}" if old else ""
    return text + (f"; {own} are of models of somebody's own, whose GMACs are not counted here" if own else "")


def _suites(results: Path) -> list[str]:
    """Those that have records or a table."""
    names = {p.stem for p in results.glob("tables/*")} | {p.name for p in results.glob("records/*")}
    return sorted(names - {"natives"})  # a table of sizes and costs, of no suite and no records


def _records(folder: Path, first: dict[str, tuple[object, Path]]) -> Iterator[str]:
    """Of a folder; ``first`` holds, by manifest, what its first record says of the videos, and is added to."""
    used = set()
    for path in sorted(folder.glob("*.json")):
        used |= {path.name, path.with_suffix(".parquet").name}
        try:
            record = RunRecord.load(path)
            table = predictions(record, folder)
            if record.retuned:
                used.add(f"{path.stem}.retuned.parquet")
                retuned_answers(record, folder)
        except RecordError as error:
            yield str(error)
            continue
        yield from (f"{path}: {line}" for line in _disagreements(record, path, table))
        listed = table.set_index("id").label.sort_index()
        known, other = first.setdefault(f"test {record.data.test_manifest}", (listed, path))
        if not listed.equals(known):
            yield f"{path}: its videos or labels are not those of {other}, on the same manifest"
        trained = record.data.train_videos
        known, other = first.setdefault(f"train {record.data.train_manifest}", (trained, path))
        if trained != known:
            yield f"{path}: data.train_videos is {trained}, {other} has {known} on the same manifest"
    for path in sorted(folder.iterdir()):
        if path.name not in used:
            yield f"{path}: belongs to no record; remove it, or restore its record"


def _disagreements(record: RunRecord, path: Path, table: pd.DataFrame) -> Iterator[str]:
    model, result = record.model, record.result
    name = run_id(record.entry, record.variant, record.seed)
    top1, top5, failed = score(table)
    claims = [
        ("suite", record.suite, path.parent.name),
        ("entry, variant and seed", name, path.stem),
        ("result.predictions", result.predictions, path.with_suffix(".parquet").name),
        ("result.n", result.n, len(table)),
        ("result.top1", result.top1, top1),
        ("result.top5", result.top5, top5),
        ("result.failed", result.failed, failed),
        ("model.residual", model.residual, model.gmacs / model.budget - 1),
        ("model.matched", model.matched, abs(model.residual) <= 0.02),
    ]
    if not record.spec and not _frozen(path):
        yield "spec is empty, and it is none of the committed old records; restore the file, or run again"
    if record.retuned:
        try:
            claims += _retuned(record, path)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            yield f"retuned: it cannot be recomputed ({str(error).splitlines()[0]}); restore the file, or run again"
    if record.spec:
        spec, search = record.spec, record.search
        try:
            yield from (f"{what} is {said}, it must be {need}" for what, said, need, met in _bounds(record) if not met)
            claims += _specified(record, spec, table)
        except (ValueError, TypeError, RuntimeError) as error:  # an edited network cannot be built
            yield f"spec: its network cannot be counted: {str(error).splitlines()[0]}"
        except KeyError as error:
            yield f"spec: {error} is missing; restore the file, or run again"
        try:
            mine = named(spec.suite)
            claims += _searched(search, mine, mine.entry(spec.entry), record.data.train_videos) if search else ()
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            yield f"search.recipe: the cost of the search cannot be recomputed ({error}); restore the file"
    for what, said, is_ in claims:
        if said != is_:
            yield f"{what} is {said}, recomputed it is {is_}"


def _retuned(record: RunRecord, path: Path) -> Iterator[tuple[str, object, object]]:
    """What a record says of classifiers beside what follows from their answers: (name, said, recomputed)."""
    found = record.retuned
    yield "retuned.predictions", found.predictions, f"{path.stem}.retuned.parquet"
    yield "retuned.train_counts, in all", sum(found.train_counts), record.data.train_videos
    best = [
        round(tau, 9) for tau, of in zip(TAUS, found.validation_macro, strict=True) if of == max(found.validation_macro)
    ]
    yield "retuned.tau", round(found.tau, 9), best[0]
    again = of_classifiers(retuned_answers(record, path.parent), found.train_counts)
    for name in sorted(again.keys() | found.classifiers.keys()):
        said, is_ = ({k: round(v, 6) for k, v in of.get(name, {}).items()} for of in (found.classifiers, again))
        yield f"retuned.classifiers.{name}", said, is_
    if record.spec:
        yield "retuned.settings", found.settings, asdict(Retuning.of(record.spec.recipe))


@cache
def _listed() -> dict[str, str]:
    return json.loads(FROZEN.read_text())


def _frozen(path: Path) -> bool:
    """Whether a record without a specification is a committed one, byte for byte."""
    return _listed().get(f"{path.parent.name}/{path.name}") == sha256(path)


def _specified(record: RunRecord, spec: RunSpec, table: pd.DataFrame) -> Iterator[tuple[str, object, object]]:
    """What a record says beside what follows from its specification: (name, said, recomputed)."""
    model, data, training, recipe = record.model, record.data, record.training, spec.recipe
    yield "run", record.run, spec.hash
    for part in ("suite", "entry", "variant", "seed"):
        yield part, getattr(record, part), getattr(spec, part)
    for part in ("train_manifest", "test_manifest", "protocol"):
        yield f"data.{part}", getattr(data, part), getattr(spec, part)
    sampling, crops = spec.protocol["sampling"], spec.protocol["crops"]
    side = crops.get("test_size", crops["size"])
    yield "data.frames", data.frames, sampling["frames"]
    yield "data.crop", data.crop, side
    yield "data.clips", data.clips, sampling["clips"]
    yield "data.crops", data.crops, crops["crops"]
    yield "model.gmacs", model.gmacs, spec.gmacs
    yield "model.params", model.params, spec.params
    given = ("type", "num_classes", "frames", "crop")
    yield "model.net", model.net, {key: value for key, value in spec.net.items() if key not in given}
    mine = named(spec.suite)
    entry = next((e for e in mine.entries if e.name == spec.entry), None)
    yield "model.budget", model.budget, mine.gmacs or model.gmacs
    yield "data.dataset", data.dataset, mine.dataset
    if entry:
        yield "spec.source", spec.source, ""
    yield "model.family", model.family, spec.family if not spec.source else spec.entry
    if not spec.source:  # whose text is not run here
        made = dict(spec.net)
        build = family(made.pop("type").rpartition(".")[2]).build
        gmacs, params = cost(build, made, sampling["frames"], side, memory_folder())
        yield "model.gmacs", model.gmacs, gmacs
        yield "model.params", model.params, params
    yield "training.batch", training.batch, recipe["batch"]
    yield "training.epochs", training.epochs, recipe["epochs"]
    yield "training.steps", training.steps, ceil(recipe["epochs"] * data.train_videos / recipe["batch"])
    if not recipe.get("sub_batch"):  # ranks are the processes of a step then
        yield "training.devices", training.devices, spec.ranks
    known = {len(scores) for scores, error in zip(table.scores, table.error, strict=True) if not error}
    yield "classes of the predictions", sorted(known or {spec.net["num_classes"]}), [spec.net["num_classes"]]
    for stage, sessions in (("train", record.provenance.train), ("test", record.provenance.test)):
        for session in sessions if "threads" in recipe else ():
            yield f"provenance.{stage}.threads", session.threads, recipe["threads"]
    measured, speed = record.provenance.measure, record.throughput
    yield "throughput.device", speed.device, measured and measured.device
    yield "throughput.threads", speed.threads, measured and measured.threads
    if record.search:
        yield "search.seed", record.search.seed, spec.seed
    for place, value in (record.tuning.values if record.tuning else {}).items():
        yield f"tuning.values.{place}", value, reduce(getitem, place.split("."), recipe | dict(net=spec.net))


def _bounds(record: RunRecord) -> Iterator[tuple[str, object, str, bool]]:
    """What cannot be recomputed, and has bounds: (name, said, what it must be, whether it is)."""
    training, speed, made, search = record.training, record.throughput, record.provenance, record.search
    entry = next((e for e in named(record.spec.suite).entries if e.name == record.spec.entry), None)
    searched = bool(entry and entry.search and entry.variants == 1)

    def over_0(name: str, value: float) -> tuple[str, object, str, bool]:
        return name, value, "a finite number over 0", 0 < value < inf

    def there(name: str, value: object, wanted: bool = True) -> tuple[str, object, str, bool]:
        words = {True: "there", False: "empty"}
        return name, words[bool(value)], words[wanted], bool(value) == wanted

    yield over_0("training.wall_s", training.wall_s)
    yield "training.final_loss", training.final_loss, "a finite number", isfinite(training.final_loss)
    yield over_0("training.devices", training.devices)
    yield over_0("throughput.clips_per_s", speed.clips_per_s)
    yield "throughput.spread", speed.spread, "a finite number, 0 or more", 0 <= speed.spread < inf
    yield "throughput.repeats", speed.repeats, "20 or more", speed.repeats >= 20
    yield "throughput.precision", speed.precision, "fp32 or tf32", speed.precision in ("fp32", "tf32")
    for stage in ("train", "test", "measure"):
        yield there(f"provenance.{stage}", getattr(made, stage))
    yield there("search", search, searched)
    if search:
        trained = search.steps or search.clips  # a score may need no training; its cost is recomputed
        for name in ("architectures", "wall_s", "devices", *(("steps", "clips") if trained else ())):
            yield over_0(f"search.{name}", getattr(search, name))
    if record.tuning:
        yield "tuning.trials", record.tuning.trials, "2 or more", record.tuning.trials >= 2
        yield over_0("tuning.seconds", record.tuning.seconds)


def _searched(search: Search, mine: Suite, entry: Entry, videos: int) -> Iterator[tuple[str, object, object]]:
    """What a search says of its cost beside what follows from its recipe: (name, said, recomputed)."""
    from reproduce.search.stage import method, search_config  # its trainers take seconds to import

    recipe = Config(search.recipe)
    yield "search.recipe.method", recipe.method, (known := search_config(entry).method)
    if recipe.method == known:
        for name, value in method(mine, recipe).cost(search, videos).items():
            yield f"search.{name}", getattr(search, name), value


def _throughput(path: Path) -> Iterator[str]:
    from reproduce.evidence import bench  # the peers' packages take seconds to import

    data, table = json.loads(path.read_text()), path.with_suffix(".md")
    for row in data["rows"]:
        if "error" in row:
            continue
        gmacs_per_s = row["clips_per_s"] * row["gmacs"]
        for what, is_ in (
            ("clips_per_s", max(row["sweep"].values())),
            ("clips_per_s", row["sweep"][str(row["batch"])]),
            ("latency_ms", 1000 / row["sweep"]["1"]),
            ("gmacs_per_s", gmacs_per_s),
            ("share_of_matmul", gmacs_per_s / row["matmul_gmacs_per_s"]),
        ):
            if not isclose(row[what], is_):
                yield (
                    f"{path}: {row['variant']} of {row['source']}, {row['mode']}: {what} is {row[what]}, "
                    f"recomputed it is {is_}"
                )
    if not table.exists() or table.read_text() != bench.rendered(data):
        yield f"{table} is not what {path.name} says; render it: make bench"


def _peers(path: Path) -> Iterator[str]:
    from reproduce.evidence import peers

    data, table = json.loads(path.read_text()), path.with_suffix(".md")
    for row in data["rows"]:
        ours = row["seconds"]["ours"]
        for source, ratio in row["ratios"].items():
            is_ = median(theirs / mine for theirs, mine in zip(row["seconds"][source], ours, strict=True))
            if not isclose(ratio, is_):
                yield f"{path}: {row['variant']} beside {source}: the ratio is {ratio}, recomputed it is {is_}"
    if not table.exists() or table.read_text() != peers.rendered(data):
        yield f"{table} is not what {path.name} says; render it: make bench-peers"


def _natives(results: Path) -> Iterator[str]:
    table = results / "tables" / "natives.md"
    if not table.with_suffix(".csv").exists() or table.read_text() != natives.rendered(results):
        yield f"{table} is not what natives.csv says; render it: make table-natives"


def _of_the_reference(results: Path) -> list[str]:
    """What belongs to this checkout's own results: the page, and the files beside the recipes as `accept` left them."""
    from reproduce.evidence import gate  # its trainer takes seconds to import

    changes = results / "CHANGES.md"
    paths = sorted(CONFIGS.glob("*/*.json"))
    noted = dict(re.findall(r"`(\w+/\w+\.json)` = (\w+)", changes.read_text())) if changes.exists() else {}
    lost = {CONFIGS / name for name, hash_ in noted.items() if hash_ != "gone"} - set(paths)
    found = gate.edited(paths, changes)
    found += [f"{path} is missing, `accept` left it; restore it: git checkout {path}" for path in sorted(lost)]
    page = results / report.PAGE
    return found if page.exists() else [*found, f"{page} is missing; restore it: git checkout {page}"]


def _whole(check: Callable[[Path], Iterator[str]], path: Path) -> Iterator[str]:
    """What a check says of a file; or that the file is not what the check reads."""
    try:
        yield from check(path)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        yield f"{path} is not whole ({type(error).__name__}: {error}); make it anew"


def _longtail(path: Path) -> Iterator[str]:
    mine = named(path.stem)
    if path.read_text() != longtail.rendered(mine, path.parents[1]):
        yield f"{path} is not what its records say; render it: python -m reproduce longtail {mine.ref}"


def _temporal(path: Path) -> Iterator[str]:
    """A diagnosis against the record of its run and its own predictions."""
    if path.suffix != ".json":
        if not path.with_suffix(".json").exists():
            yield f"{path}: belongs to no diagnosis; remove it"
        return
    beside = path.parents[2] / "records" / path.parent.name / path.name
    if not beside.exists():
        yield f"{path}: belongs to no record; remove it, or restore {beside}"
        return
    found, record = json.loads(path.read_text()), RunRecord.load(beside)
    if found["run"] != record.run:
        yield f"{path}: run {found['run']} is not the record's {record.run}; diagnose the run of the record"
        return
    if not path.with_suffix(".parquet").exists():
        yield f"{path.with_suffix('.parquet')} is missing; diagnose the run of the record"
        return
    table = pd.read_parquet(path.with_suffix(".parquet"))
    tested = predictions(record, beside.parent).sort_values("id", ignore_index=True)
    same = table.id.equals(tested.id) and ((table.natural == table.label) == (ranks(tested) == 0)).all()
    if not same or not table.label.equals(tested.label):
        yield f"{path.with_suffix('.parquet')}: labels, or what is right in natural order, are not the record's"
        return
    mine = named(record.suite)
    sets = mine.class_sets if "sets" in found else None  # of older ones there are none
    again = _flat(diagnose(table, report.class_names(mine), partners(mine), sets))
    names = ("suite", "dataset", "run", "id", "test_manifest")
    known = _flat({key: of for key, of in found.items() if key not in names})
    for what in sorted(known.keys() | again.keys()):
        said, is_ = known.get(what), again.get(what)
        near = isinstance(said, float) and isinstance(is_, float) and isclose(said, is_, rel_tol=1e-6)
        if said != is_ and not near:
            yield f"{path}: {what} is {said}, recomputed it is {is_}"


def _flat(data: object, name: str = "") -> dict[str, object]:
    """Leaves of nested data by their path: ``classes.0.n``."""
    if not isinstance(data, dict | list):
        return {name: data}
    items = data.items() if isinstance(data, dict) else enumerate(data)
    return {k: v for key, part in items for k, v in _flat(part, f"{name}.{key}" if name else str(key)).items()}


def _table(name: str, results: Path) -> Iterator[str]:
    try:
        mine = named(name)
    except ValueError:
        yield f"{results}: {name} has records or a table, and is no suite; known: {', '.join(SUITES)}"
        return
    try:
        rendered = tables.rendered(mine, results)
    except ValueError as error:
        yield f"{results / 'records' / name}: {error}"
        return
    for suffix, text in rendered.items():
        path = results / "tables" / f"{name}{suffix}"
        there = path.read_text() if path.exists() else None
        if there is None:
            yield f"{path} is missing; render it: python -m reproduce table {mine.ref}"
        elif there != text:
            pairs = zip(there.splitlines(), text.splitlines(), strict=False)
            line = next((i for i, (old, new) in enumerate(pairs, 1) if old != new), "the last")
            yield f"{path}: line {line} is not what its records say; render it: python -m reproduce table {mine.ref}"
