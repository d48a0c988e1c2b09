"""The reference, ``results/``, and what goes into it: by one command only, verified, with a reason.

Runs of a user are recorded apart, in ``my-results``. An archive of them can be sent to a maintainer, who needs to trust
nothing in it: it holds data, every file is listed with its hash, and every number is recomputed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from hashlib import sha256
from pathlib import Path

from reproduce.files import write_atomic
from reproduce.records import RunRecord, git_commit, load_all, session
from reproduce.suites import CONFIGS, suite

REFERENCE = CONFIGS.parent / "results"
OWN = Path("my-results")
FOLDERS = ("temporal", "throughput", "studies", "benchmarks")  # that go over beside the records
LISTING = "MANIFEST.json"
NAMES = re.compile(r"(records/[\w@.-]+/[\w@.-]+\.(json|parquet)|logs/[\w@.-]+/[\w@.-]+\.log|machine\.json)")
LARGEST = 2**30  # bytes of a file in an archive: predictions of 25,000 videos × 174 classes are 17 MB


class ReferenceError(ValueError):
    """Something may not go into the reference, or into an archive; the message says what and the way out."""


def apart(results: Path) -> Path:
    """A folder for results of one's own, found to be no part of the reference.

    Raises:
        ReferenceError: it is the reference, or lies inside.
    """
    if REFERENCE.resolve() in (results.resolve(), *results.resolve().parents):
        raise ReferenceError(
            f"RESULTS={results} is the reference, to which only `make update-reference REASON='why'` writes; "
            f"choose another folder, such as {OWN}"
        )
    return results


def submit(results: Path, runs: Path, out: Path) -> str:
    """Pack all records of one's own with predictions, machine and training logs.

    Args:
        results: folder of records.
        runs: folder of run folders, for the logs; those that are gone are left out.
        out: the archive.

    Returns:
        What was packed, in a line.

    Raises:
        VerifyError: the records disagree with themselves.
        ReferenceError: there are none.
    """
    from reproduce.verify import check_records

    check_records(results)
    files = {str(p.relative_to(results)): p.read_bytes() for p in sorted(results.glob("records/*/*"))}
    records = [RunRecord.load(p) for p in sorted(results.glob("records/*/*.json"))]
    for r in records:
        logs = sorted(r.spec.folder(runs).glob("train/*/*.log")) if r.spec else []
        if logs:
            files[f"logs/{r.suite}/{r.spec.id}.log"] = b"".join(p.read_bytes() for p in logs)
    machine = session().model_dump() | {
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    }
    files["machine.json"] = json.dumps(machine, indent=1, sort_keys=True).encode()
    listing = {name: sha256(data).hexdigest() for name, data in files.items()}

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in {LISTING: json.dumps(listing, indent=1).encode(), **files}.items():
                archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)

    write_atomic(out, write)
    size = f"{out.stat().st_size / 2**20:.1f} MiB"
    return f"{out}: {len(records)} records, {size}; a maintainer checks it: python -m reproduce verify {out}"


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """A folder of results; of an archive, its content in a folder that goes away, found to be what its list says.

    Raises:
        ReferenceError: no archive of ``submit``, or changed since.
    """
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            with zipfile.ZipFile(path) as archive:
                _unpack(archive, folder, path)
        except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, json.JSONDecodeError, KeyError) as error:
            raise ReferenceError(f"{path} is no archive that `submit` made, or damaged: {error}") from error
        yield folder


def _unpack(archive: zipfile.ZipFile, folder: Path, path: Path) -> None:
    listing = json.loads(archive.read(LISTING))
    names = [i.filename for i in archive.infolist() if i.filename != LISTING]
    if sorted(names) != sorted(listing):
        odd = sorted(set(names) ^ set(listing)) or sorted(n for n in names if names.count(n) > 1)
        raise ReferenceError(f"{path}: {odd[0]} is in the archive or in its list only, or twice; ask for it anew")
    for info in archive.infolist():
        name = info.filename
        if name == LISTING:
            continue
        if not NAMES.fullmatch(name) or ".." in name:
            raise ReferenceError(f"{path}: {name!r} does not belong into an archive of records")
        if info.file_size > LARGEST:
            raise ReferenceError(f"{path}: {name} has {info.file_size} bytes, over {LARGEST}")
        data = archive.read(info)
        if sha256(data).hexdigest() != listing[name]:
            raise ReferenceError(f"{path}: {name} is not what the list says; it was changed: ask for it anew")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def update(source: Path, reason: str, runs: Path, reference: Path = REFERENCE) -> str:
    """Take results over into the reference, render it anew, and note why in CHANGES.md.

    Args:
        source: folder of results, or an archive of ``submit``.
        reason: why the reference changes.
        runs: folder of run folders, for the pictures of searches.
        reference: the folder that changes.

    Returns:
        What was taken over, and what ``verify`` says of the whole.

    Raises:
        ReferenceError: no reason, or nothing to take over.
        VerifyError: the source, or afterwards the reference, disagrees with itself.
    """
    from reproduce import natives, report, tables
    from reproduce.verify import check_records, verify

    if not reason.strip():
        raise ReferenceError("the reference moves for a reason; give one: make update-reference REASON='why'")
    with opened(source) as folder:
        if (folder / "records").is_dir():
            check_records(folder)
        found = [p for top in ("records", *FOLDERS) for p in sorted(folder.glob(f"{top}/**/*")) if p.is_file()]
        if not found:
            raise ReferenceError(f"{source} holds no records, diagnoses, throughput or studies to take over")
        for path in found:
            target = reference / path.relative_to(folder)
            write_atomic(target, lambda p, path=path: shutil.copyfile(path, p))
        moved = sorted({str(p.relative_to(folder).parent) for p in found})
    gone = _outdated(reference)
    if (reference / "tables" / "natives.csv").exists():
        natives.render(reference)
    for path in (reference / "tables").glob("*.md"):
        if path.stem != "natives":
            tables.render(suite(path.stem), reference)
    report.report(reference, runs)
    changes = reference / "CHANGES.md"
    what = f"{', '.join(moved)} ({len(found)} files)"
    line = f"- {date.today().isoformat()}, {git_commit()[:8]}, reference: {what}: {reason.strip()}"
    line += f"; removed, of runs that are no more: {', '.join(gone)}" if gone else ""
    text = (changes.read_text() if changes.exists() else "# Changes\n\n") + line + "\n"
    write_atomic(changes, lambda p: p.write_text(text))
    return f"{line}\n{verify(reference)}"


def _outdated(reference: Path) -> list[str]:
    """Remove the diagnoses of runs whose records were replaced by others."""
    gone = []
    for path in sorted(reference.glob("temporal/*/*.json")):
        record = reference / "records" / path.parent.name / path.name
        if not record.exists() or RunRecord.load(record).run != json.loads(path.read_text())["run"]:
            for file in (path, path.with_suffix(".parquet")):
                file.unlink(missing_ok=True)
            gone.append(f"{path.parent.name}/{path.stem}")
    return gone


def has_records(results: Path, suite_name: str) -> bool:
    """Whether a folder of results has any of a suite."""
    return bool(load_all(results / "records" / suite_name))
