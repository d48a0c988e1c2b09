"""A user's model beside the suite's own: counted, solved, trained and tested like them, then set against them."""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from mmengine.dist import get_rank

from reproduce.data.manifest import Manifest
from reproduce.evidence import tables
from reproduce.evidence.copies import restricted
from reproduce.evidence.reference import REFERENCE
from reproduce.records import RecordError, RunRecord, Tuning, predictions
from reproduce.run import run
from reproduce.spec import run_id
from reproduce.suites import Entry, Suite, check_equal_care, difference
from reproduce.tuning import tune
from reproduce.user_model import own_entry


def compare(
    path: Path,
    suite: Suite,
    against: list[str],
    seeds: list[int],
    cache: Path,
    runs: Path,
    results: Path,
    common: bool = False,
    tuned: bool = False,
    at_a_time: int = 1,
) -> str:
    """Do what is missing of a user's model and of those that it is set against.

    Args:
        path: the file of the user's model, see ``reproduce.user_model``.
        suite: gives data, budget, protocol and recipe.
        against: entries of the suite. Their records are used where these are of the same videos, budget, protocol and
            recipe.
        seeds: of all models.
        cache: folder of the embedded videos.
        runs: folder of run folders.
        results: folder of records; the suite's table there gets a line for the user's model.
        common: of records made on other videos, take the videos in common.
        tuned: first choose values of the recipe, by as many trials for each of them, see ``reproduce.tuning``.
        at_a_time: trials, a process each.

    Returns:
        The table, in at most 100 columns.

    Raises:
        OwnModelError: the model cannot take part.
        RecordError: a record was made on other videos, and ``common`` is not set.
        ValueError: an unknown entry.
    """
    if suite.protocol is None:
        raise ValueError(f"suite {suite.name!r} has no protocol in common, each model has its authors'; choose another")
    others = [suite.entry(name) for name in dict.fromkeys(against)]
    if not others:
        raise ValueError(f"--against names no model; known: {', '.join(e.name for e in suite.entries)}")
    mine = own_entry(path, suite)
    if tuned:
        mine, *others = _tuned(suite, [mine, *others], cache, runs, results, at_a_time)
    root = suite.data_root(cache)
    train, test = suite.manifest("train", root), suite.manifest("val", root)
    todo = [(entry, seed, v) for seed in seeds for entry in (mine, *others) for v in range(entry.variants)]
    # All records are looked for before the first training: what cannot be compared is said at once.
    stored = [_stored(suite, *what, train, test, results, common) for what in todo]
    found = []
    for i, ((entry, seed, variant), place) in enumerate(zip(todo, stored, strict=True), 1):
        name = run_id(entry.name, variant, seed)
        if get_rank() == 0:
            how = f" (recorded in {place})" if place else ""
            print(f"[{i}/{len(todo)}] {suite.name}: {name}{how}", file=sys.stderr)
        if not place:
            run(suite, entry, seed, variant, train, test, runs, results)
        found.append((place or results) / "records" / suite.name / f"{name}.json")
    if get_rank() != 0:
        return ""
    with tempfile.TemporaryDirectory() as temporary:
        together = Path(temporary, "records", suite.name)  # of one's own and of the reference
        together.mkdir(parents=True)
        for path in found:
            shutil.copy(path.with_suffix(".parquet"), together)
        text = _side_by_side(suite, mine, others, [RunRecord.load(p) for p in found], Path(temporary), common)
    try:
        tables.render(suite, results)
    except ValueError as error:  # records of other videos beside these; the comparison stands all the same
        text += f"\nThe table of {suite.name} was not renewed: {error}"
    return text


def _tuned(suite: Suite, entries: list[Entry], cache: Path, runs: Path, results: Path, at_a_time: int) -> list[Entry]:
    """The entries with values that as many trials have chosen for each; those that the suite has tuned stay so."""
    trials = next((entry.tuning.trials for entry in entries if entry.tuning), 0)
    studies = tune(suite, [e for e in entries if not e.tuning], cache, runs, results, trials, at_a_time=at_a_time)
    chosen = {name: Tuning(**study["tuning"]) for name, study in studies.items()}
    found = [
        replace(e, values=chosen[e.name].values, tuning=chosen[e.name]) if e.name in chosen else e for e in entries
    ]
    check_equal_care({entry.name: entry.tuning for entry in found}, results / "tuning" / suite.name)
    return found


def _stored(
    suite: Suite,
    entry: Entry,
    seed: int,
    variant: int,
    train: Manifest,
    test: Manifest,
    results: Path,
    common: bool,
) -> Path | None:
    """The folder of results, one's own before the reference, that has the record of a run as it would be made now."""
    for place in (results, REFERENCE):
        path = place / "records" / suite.name / f"{run_id(entry.name, variant, seed)}.json"
        if not path.exists():
            continue
        record = RunRecord.load(path)
        if difference(record, suite, entry) or record.tuning != entry.tuning:
            continue
        videos, here = (record.data.train_manifest, record.data.test_manifest), (train.hash, test.hash)
        if videos == here or (common and not entry.source):
            return place
        if not entry.source:  # a user's own is simply run again
            raise RecordError(
                f"{path} was made on manifests {' and '.join(videos)}, these videos are {' and '.join(here)}; "
                "remove it to train anew, or compare on the videos in common (--common)"
            )
    return None


def _side_by_side(
    suite: Suite, mine: Entry, others: list[Entry], records: list[RunRecord], results: Path, common: bool
) -> str:
    """One table of these records, with the differences between the user's model and each of the others."""
    folder = results / "records" / suite.name
    with tempfile.TemporaryDirectory() as temporary:
        if common:
            tested = [predictions(r, folder) for r in records]
            ids = {i for i, _ in set.intersection(*(set(zip(t.id, t.label, strict=True)) for t in tested))}
            records = [restricted(r, folder, Path(temporary), ids) for r in records]
            folder = Path(temporary)
        chosen = replace(suite, entries=(mine, *others))
        rows = tables.rows_of(chosen, records, folder, against=mine.name)
    flipped = [  # rows are set against the user's model; the reader wants it set against them
        replace(
            r,
            difference=r.difference and -r.difference,
            verdict={**tables.FLIPPED, tables.CONTROL: "your model"}.get(r.verdict, r.verdict),
        )
        for r in rows
    ]
    notes = [
        f"{mine.name} − it: its top-1 minus that of the line's model, on the same videos; interval over videos and "
        f"runs. ▲ {mine.name} is better, ▼ it is worse: holds at 5 % after Holm's correction over the lines.",
        *(
            f"{r.name}: {r.gmacs:.4g} GMACs/view ({100 * r.residual:+.2f} % of the budget), {r.params / 1e6:.3g} M "
            f"parameters, {r.speed.clips_per_s:.3g} clips/s."
            for r in rows
        ),
    ]
    if common:
        notes.append(f"On the {records[0].result.n} test videos in common.")
    return tables.narrow(chosen, flipped, tables.brief(mine.name, 16) + " − it", mine.name, notes)
