"""Two copies of a data set: the videos that they share, and results on these videos only."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import pandas as pd

from reproduce.data.manifest import DataError
from reproduce.evidence import tables
from reproduce.records import Result, RunRecord, load_all, predictions, sha256
from reproduce.records import score as correct
from reproduce.suites import Suite
from reproduce.whole_files import write_atomic


def diff(a: Path, b: Path, split: str, out: Path | None = None) -> str:
    """Compare one split of two scans.

    Args:
        a: folder of a scan, or its ``manifest.parquet``.
        b: the other.
        split: ``train`` or ``val``.
        out: file for the ids that both can use with the same label, one per line.

    Raises:
        DataError: a folder holds no finished scan.
    """
    left, right = (_manifest(path, split) for path in (a, b))
    both = left.merge(right, left_index=True, right_index=True, suffixes=("_a", "_b"))
    usable = both[both.fault_a.isin(("", "duplicate")) & both.fault_b.isin(("", "duplicate"))]
    common = usable[usable.label_a == usable.label_b]
    same = common.content_a == common.content_b
    comparable = common.content_a.str.startswith("ends:") == common.content_b.str.startswith("ends:")
    lines = [
        f"{split}: {len(left)} videos in {a}, {len(right)} in {b}, {len(both)} ids in both",
        f"  usable in both, with the same label: {len(common)}",
        f"  of these of the same bytes: {int(same.sum())}"
        + ("" if comparable.all() else " (one scan is quick and one is full: bytes cannot be compared)"),
        f"  of another length: {int((common.frames_header_a != common.frames_header_b).sum())}",
        f"  of another label: {len(usable) - len(common)}",
        f"  only in the first: {len(left.index.difference(right.index))}",
        f"  only in the second: {len(right.index.difference(left.index))}",
        f"  in both, not usable in the first: {int((~both.fault_a.isin(('', 'duplicate'))).sum())}",
        f"  in both, not usable in the second: {int((~both.fault_b.isin(('', 'duplicate'))).sum())}",
    ]
    if out:
        write_atomic(out, lambda path: path.write_text("".join(f"{i}\n" for i in sorted(common.index))))
        lines.append(f"  the {len(common)} ids are in {out}")
    return "\n".join(lines)


def _manifest(path: Path, split: str) -> pd.DataFrame:
    file = path / "manifest.parquet" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{path} holds no finished scan (no manifest.parquet); run: python -m reproduce data scan")
    table = pd.read_parquet(file)
    return table[table.split == split].set_index("id")[["label", "fault", "content", "frames_header"]]


def score(suite: Suite, results: Path, ids: Path) -> str:
    """The suite's table on some of the test videos; nothing is written.

    Args:
        suite: the suite of the records.
        results: folder of records.
        ids: file with one id per line, as ``diff`` writes it.

    Raises:
        DataError: no record, or no video of the list among the predictions.
    """
    source = results / "records" / suite.name
    wanted = set(ids.read_text().split())
    with tempfile.TemporaryDirectory() as folder:
        records = [restricted(r, source, Path(folder), wanted) for r in load_all(source)]
        if not records:
            raise DataError(f"{source} holds no records; run the suite first")
        frame = tables.table(suite, records, Path(folder))
    title = f"## {suite.dataset}, on {records[0].result.n} of the {len(wanted)} videos of {ids.name}"
    return f"{title}\n\n{frame.to_markdown(index=False, disable_numparse=True)}\n"


def restricted(record: RunRecord, source: Path, folder: Path, wanted: set[str]) -> RunRecord:
    """The record as if only these videos had been tested; its predictions go to ``folder``.

    Args:
        record: the record.
        source: folder of its predictions.
        folder: to write to.
        wanted: ids of videos.

    Raises:
        DataError: the record was tested on none of them.
        RecordError: its predictions are missing or edited.
    """
    name = record.result.predictions
    table = predictions(record, source)
    table = table[table.id.isin(wanted)].reset_index(drop=True)
    if table.empty:
        raise DataError(f"{source / name} has none of the {len(wanted)} videos of the list; is it of another data set?")
    table.to_parquet(folder / name, index=False)
    top1, top5, failed = correct(table)
    result = Result(
        n=len(table), top1=top1, top5=top5, failed=failed, predictions=name, predictions_sha256=sha256(folder / name)
    )
    videos = hashlib.sha256("\n".join(sorted(table.id)).encode()).hexdigest()[:12]
    # Two copies have two manifests; on the videos in common their results may stand in one table.
    data = record.data.model_copy(update=dict(train_manifest=videos, test_manifest=videos))
    return record.model_copy(update=dict(result=result, data=data))
