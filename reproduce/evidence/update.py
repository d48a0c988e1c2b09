"""What goes into the reference, ``results/``: by one command only, verified, with a reason.

An archive of a user's runs can be sent to a maintainer, who needs to trust nothing in it: it holds data, every file is
listed with its hash, and every number is recomputed.
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

from reproduce.evidence import natives, report, tables
from reproduce.evidence.reference import REFERENCE, ReferenceError, has_records, note
from reproduce.evidence.verify import check_records, verify
from reproduce.records import RunRecord, git_commit, session
from reproduce.suites import named
from reproduce.whole_files import write_atomic

# Beside the records.
FOLDERS = ("temporal", "longtail", "throughput", "peers", "studies", "tuning", "videonas", "benchmarks")
LISTING = "MANIFEST.json"
NAMES = re.compile(r"(records/\w[\w@.-]*/\w[\w@.-]*\.(json|parquet)|logs/\w[\w@.-]*/\w[\w@.-]*\.log|machine\.json)")
# Limits of an archive: files, bytes of its list, of a file (predictions of 25,000 videos × 174 classes: 17 MB), of all.
MOST_FILES, LONGEST_LIST, LARGEST, LARGEST_SUM = 10_000, 2**22, 2**30, 2**33


def submit(results: Path, runs: Path, out: Path) -> str:
    """Pack all records of a user with predictions, machine and training logs.

    Args:
        results: folder of records.
        runs: folder of run folders, for the logs; those that are gone are left out.
        out: the archive.

    Returns:
        What was packed, in one line.

    Raises:
        VerifyError: the records disagree with themselves.
        ReferenceError: there are none.
    """
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
    """A folder of results, or the content of an archive in a temporary folder, checked against the archive's list.

    Errors inside the context name the archive.

    Raises:
        ReferenceError: the file is not an archive of ``submit``, or was changed.
    """
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            with zipfile.ZipFile(path) as archive:
                _unpack(archive, folder, path)
        except ReferenceError:
            raise
        except Exception as error:  # on damaged bytes, zipfile and its decoders raise many types
            raise ReferenceError(
                f"{path} is no archive that `submit` made, or damaged ({type(error).__name__}: {error}); ask anew"
            ) from error
        try:
            yield folder
        except ValueError as error:
            error.args = (str(error).replace(str(folder), str(path)),)
            raise


def _unpack(archive: zipfile.ZipFile, folder: Path, path: Path) -> None:
    infos = archive.infolist()
    for what, size, most in (
        ("files", len(infos), MOST_FILES),
        (f"bytes in {LISTING}", archive.getinfo(LISTING).file_size, LONGEST_LIST),
        ("bytes in a file", max(i.file_size for i in infos), LARGEST),
        ("bytes in all", sum(i.file_size for i in infos), LARGEST_SUM),
    ):
        if size > most:
            raise ReferenceError(f"{path} has {size} {what}, over {most}")
    listing = json.loads(archive.read(LISTING))
    if not isinstance(listing, dict):
        raise ReferenceError(f"{path}: {LISTING} is no list of files and hashes; ask for it anew")
    names = [i.filename for i in infos if i.filename != LISTING]
    if sorted(names) != sorted(listing):
        odd = sorted(set(names) ^ set(listing)) or sorted(n for n in names if names.count(n) > 1)
        raise ReferenceError(f"{path}: {odd[0]} is in the archive or in its list only, or twice; ask for it anew")
    for name in names:
        if not NAMES.fullmatch(name):
            raise ReferenceError(f"{path}: {name!r} does not belong into an archive of records")
        data = archive.read(name)
        if sha256(data).hexdigest() != listing[name]:
            raise ReferenceError(f"{path}: {name} is not what the list says; it was changed: ask for it anew")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def update(source: Path, reason: str, runs: Path, reference: Path = REFERENCE) -> str:
    """Copy records, diagnoses, throughput, studies and benchmarks to the reference, render it again, note the reason.

    If anything fails, the reference does not change.

    Args:
        source: folder of results, or an archive of ``submit``.
        reason: why the reference changes.
        runs: folder of run folders, for the pictures of searches.
        reference: the folder that changes.

    Returns:
        What was taken over, and the report of ``verify`` on the new reference.

    Raises:
        ReferenceError: no reason, or nothing to take over.
        VerifyError: the source, or the new reference, disagrees with itself.
    """
    if not reason.strip():
        raise ReferenceError("the reference moves for a reason; give one: make update-reference REASON='why'")
    with opened(source) as folder:
        if (folder / "records").is_dir():
            check_records(folder)
        found = [p for top in ("records", *FOLDERS) for p in sorted(folder.glob(f"{top}/**/*")) if p.is_file()]
        if not found:
            raise ReferenceError(f"{source} holds no records, diagnoses, throughput or studies to take over")
        with _restored_on_error(reference):
            for path in found:
                target = reference / path.relative_to(folder)
                write_atomic(target, lambda p, path=path: shutil.copyfile(path, p))
            gone = _outdated(reference)
            _render(reference, runs)
            said = verify(reference)
            what = f"{', '.join(sorted({str(p.relative_to(folder).parent) for p in found}))} ({len(found)} files)"
            line = f"- {date.today().isoformat()}, {git_commit()[:8]}, reference: {what}: {reason.strip()}"
            line += f"; removed, of runs that are no more: {', '.join(gone)}" if gone else ""
            note(reference / "CHANGES.md", line)
    return f"{line}\n{said}"


@contextmanager
def _restored_on_error(folder: Path) -> Iterator[None]:
    """Restore a folder from a copy if the context fails; changes happen in place, since tables are read from there."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        before = Path(temporary) / "before"
        if folder.exists():
            shutil.copytree(folder, before)
        try:
            yield
        except BaseException:
            if folder.exists():
                os.replace(folder, Path(temporary) / "after")
            if before.exists():
                os.replace(before, folder)
            raise


def _render(reference: Path, runs: Path) -> None:
    if (reference / "tables" / "natives.csv").exists():
        natives.render(reference)
    for path in (reference / "tables").glob("*.md"):
        if path.stem != "natives" and not has_records(reference, path.stem):
            tables.render(named(path.stem), reference)
    report.report(reference, runs)  # and the tables of suites with records


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
