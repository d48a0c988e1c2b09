"""The reference is changed by its own command; an archive of one's own results needs no trust."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import typer.testing

from reproduce.cli import app
from reproduce.reference import LISTING, REFERENCE, ReferenceError, apart, opened, submit, update
from reproduce.verify import VerifyError, check_records


@pytest.fixture
def own(tmp_path) -> Path:
    """Results of one's own: two records of the reference."""
    folder = tmp_path / "own" / "records" / "ssv2-quick"
    folder.mkdir(parents=True)
    for name in ("x3d-s0", "tsm-s0"):
        for suffix in (".json", ".parquet"):
            shutil.copy(REFERENCE / "records" / "ssv2-quick" / f"{name}{suffix}", folder)
    return tmp_path / "own"


def rewritten(archive: Path, change) -> Path:
    """A copy of an archive whose files went through ``change(name, data)``; None leaves one out."""
    out = archive.with_name("changed.zip")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return out


def test_nobody_writes_into_the_reference_by_the_way(tmp_path):
    assert apart(tmp_path) == tmp_path
    for inside in (REFERENCE, REFERENCE / "mine", REFERENCE / "records" / ".." / "x"):
        with pytest.raises(ReferenceError, match=r"is the reference, to which only `make update-reference"):
            apart(inside)
    (tmp_path / "link").symlink_to(REFERENCE)
    for command in (["run", "kinetics-tiny"], ["report"], ["natives"], ["temporal", "runs/x"]):
        done = typer.testing.CliRunner().invoke(app, [*command, "--results", str(tmp_path / "link")])
        assert isinstance(done.exception, ReferenceError), command


def test_an_archive_is_checked_without_trust(own, tmp_path):
    out = tmp_path / "submission.zip"
    assert submit(own, tmp_path / "runs", out).startswith(f"{out}: 2 records, ")
    with opened(out) as folder:
        assert "2 records agree" in check_records(folder)
        assert json.loads((folder / "machine.json").read_text())["memory_gib"] > 0
    done = typer.testing.CliRunner().invoke(app, ["verify", str(out)])
    assert done.stdout.startswith(f"{out}: 2 records agree")


def test_a_changed_archive_is_refused_by_one_line(own, tmp_path):
    out = tmp_path / "submission.zip"
    submit(own, tmp_path / "runs", out)
    one = "records/ssv2-quick/x3d-s0.json"

    def listed(**more):
        return lambda name, data: json.dumps(json.loads(data) | more).encode() if name == LISTING else data

    for change, message in (
        (lambda n, d: d[:-1] + b" " if n == one else d, rf"{one} is not what the list says; it was changed"),
        (lambda n, d: None if n == one else d, rf"{one} is in the archive or in its list only"),
        (lambda n, d: None if n == LISTING else d, r"no archive that `submit` made, or damaged"),
        (listed(**{"../evil.json": "0"}), r"evil\.json is in the archive or in its list only"),
    ):
        with pytest.raises(ReferenceError, match=message), opened(rewritten(out, change)):
            pass
    for name in ("../evil.json", "records/x/../../evil.json", "/tmp/evil.json", "records/x/evil.py"):
        with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
            archive.writestr(LISTING, json.dumps({name: "0"}))
            archive.writestr(name, b"")
        with pytest.raises(ReferenceError, match=r"does not belong into an archive"), opened(tmp_path / "evil.zip"):
            pass
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(ReferenceError, match=r"text\.zip is no archive"), opened(tmp_path / "text.zip"):
        pass


def test_an_archive_of_an_edited_record_passes_its_list_and_fails_its_check(own, tmp_path):
    path = own / "records" / "ssv2-quick" / "tsm-s0.json"
    data = json.loads(path.read_text())
    data["result"]["top1"] += 1
    path.write_text(json.dumps(data))
    with pytest.raises(VerifyError, match=r"result\.top1 is \d+, recomputed it is"):
        submit(own, tmp_path, tmp_path / "out.zip")
    with pytest.raises(VerifyError, match=r"result\.top1 is \d+, recomputed it is"):
        update(own, "a wish", tmp_path, tmp_path / "reference")
    assert not (tmp_path / "reference").exists()


def test_the_reference_is_updated_for_a_reason(own, tmp_path):
    reference = tmp_path / "reference"
    stale = reference / "temporal" / "ssv2-quick" / "tsm-s0.json"
    stale.parent.mkdir(parents=True)
    stale.write_text(json.dumps(dict(run="00000000")))
    with pytest.raises(ReferenceError, match=r"moves for a reason; give one: make update-reference REASON='why'"):
        update(own, " ", tmp_path, reference)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReferenceError, match=r"holds no records"):
        update(tmp_path / "empty", "why", tmp_path, reference)
    said = update(own, "first two", tmp_path, reference)
    assert "2 records and the tables of" in said
    assert (reference / "tables" / "ssv2-quick.md").exists()
    assert (reference / "report.html").exists()
    line = (reference / "CHANGES.md").read_text().splitlines()[-1]
    assert (
        "reference: records/ssv2-quick (4 files): first two; removed, of runs that are no more: ssv2-quick/tsm-s0"
        in line
    )
    assert not stale.exists()
