"""The reference is changed by its own command; an archive of one's own results needs no trust."""

import argparse
import json
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer.testing

from reproduce.cli import app
from reproduce.evidence import reference as reference_module
from reproduce.evidence import update as update_module
from reproduce.evidence.reference import REFERENCE, ReferenceError, apart, own_option
from reproduce.evidence.update import LISTING, opened, submit, update
from reproduce.evidence.verify import VerifyError, check_records
from tests.bench.conftest import pytest_configure
from tests.reproduce.made import make


@pytest.fixture
def own(tmp_path) -> Path:
    """Results of one's own: two records."""
    make(tmp_path / "own", "x3d-s0", "tsm-s0")
    return tmp_path / "own"


def edit(path: Path) -> None:
    """Let a record claim one right answer more."""
    data = json.loads(path.read_text())
    data["result"]["top1"] += 1
    path.write_text(json.dumps(data))


def content(folder: Path) -> dict[Path, bytes]:
    """All files below a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
        with pytest.raises(ReferenceError, match=r"is in the reference, to which only `make update-reference"):
            apart(inside)
    (tmp_path / "link").symlink_to(REFERENCE)
    made = dict(run=["kinetics-tiny"], report=[], natives=[], temporal=["runs/x"], check=[], accept=["--reason", "why"])
    for command in ([name, *arguments] for name, arguments in made.items()):
        done = typer.testing.CliRunner().invoke(app, [*command, "--results", str(tmp_path / "link")])
        assert isinstance(done.exception, ReferenceError), command


def test_no_study_writes_into_the_reference(tmp_path, monkeypatch, capsys):
    parser = argparse.ArgumentParser()
    assert own_option(parser, "--out", "studies/x.json") == Path("my-results/studies/x.json")
    assert parser.parse_args([]).out == Path("my-results/studies/x.json")
    assert parser.parse_args(["--out", str(tmp_path / "x")]).out == tmp_path / "x"
    with pytest.raises(SystemExit):
        parser.parse_args(["--out", str(REFERENCE / "studies" / "x.json")])
    assert "is in the reference" in capsys.readouterr().err
    monkeypatch.setenv("RESULTS", str(REFERENCE))
    own_option(parser := argparse.ArgumentParser(), "--results")
    with pytest.raises(SystemExit):
        parser.parse_args([])
    for storage, refused in ((tmp_path, False), (REFERENCE / "benchmarks", True)):
        options = dict(benchmark_save="x", benchmark_storage=str(storage))
        config = SimpleNamespace(getoption=lambda name, default=None, options=options: options.get(name, default))
        if refused:
            with pytest.raises(pytest.UsageError, match="is in the reference"):
                pytest_configure(config)
        else:
            pytest_configure(config)


def test_a_reference_that_cannot_be_read_is_found_before_the_first_step(own, tmp_path, monkeypatch):
    path = own / "records" / "kinetics-quick" / "tsm-s0.json"
    path.write_text(path.read_text()[:-9])
    monkeypatch.setattr(reference_module, "REFERENCE", own)
    monkeypatch.delenv("KINETICS_ROOT", raising=False)
    folders = [f"--{name}={tmp_path / name}" for name in ("runs", "results", "cache")]
    done = typer.testing.CliRunner().invoke(app, ["run", "kinetics-quick", *folders])
    assert isinstance(done.exception, ReferenceError)
    assert str(path) in str(done.exception)
    assert "restore the reference (git checkout results), or update the code" in str(done.exception)
    assert not any((tmp_path / "cache").iterdir())


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
    one = "records/kinetics-quick/x3d-s0.json"

    def listed(**more):
        return lambda name, data: json.dumps(json.loads(data) | more).encode() if name == LISTING else data

    for change, message in (
        (lambda n, d: d[:-1] + b" " if n == one else d, rf"{one} is not what the list says; it was changed"),
        (lambda n, d: None if n == one else d, rf"{one} is in the archive or in its list only"),
        (lambda n, d: None if n == LISTING else d, r"no archive that `submit` made, or damaged"),
        (listed(**{"../evil.json": "0"}), r"evil\.json is in the archive or in its list only"),
        (listed(**{one: 5}), rf"{one} is not what the list says"),
        (lambda n, d: b"null" if n == LISTING else d, r"is no list of files and hashes"),
        (lambda n, d: b"5" if n == LISTING else d, r"is no list of files and hashes"),
        (lambda n, d: b"[" * 100_000 if n == LISTING else d, r"no archive that `submit` made, or damaged"),
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


def test_a_changed_byte_is_refused_or_changes_nothing(own, tmp_path):
    out, changed = tmp_path / "submission.zip", tmp_path / "changed.zip"
    submit(own, tmp_path / "runs", out)
    data, said = out.read_bytes(), []
    with opened(out) as folder:
        whole = content(folder)
    offsets = {*range(0, len(data), len(data) // 150), *range(60), *range(len(data) - 450, len(data), 2)}
    for offset in sorted(offsets):
        changed.write_bytes(data[:offset] + bytes([data[offset] ^ 0xFF]) + data[offset + 1 :])
        try:
            with opened(changed) as folder:
                assert content(folder) == whole, f"byte {offset}"
        except ReferenceError as error:
            said.append(str(error))
    assert len(said) > len(offsets) / 2
    assert all(text.startswith(str(changed)) and "\n" not in text for text in said)


@pytest.mark.parametrize("limit", ["MOST_FILES", "LONGEST_LIST", "LARGEST", "LARGEST_SUM"])
def test_an_archive_that_is_too_large_is_not_unpacked(own, tmp_path, monkeypatch, limit):
    submit(own, tmp_path / "runs", tmp_path / "submission.zip")
    monkeypatch.setattr(update_module, limit, 4)
    opening = opened(tmp_path / "submission.zip")
    with pytest.raises(ReferenceError, match=r"submission\.zip has \d+ (files|bytes).*, over 4"), opening:
        pass


def test_an_error_in_an_archive_names_the_archive(own, tmp_path):
    out = tmp_path / "submission.zip"
    submit(own, tmp_path / "runs", out)

    def check_edited() -> None:
        with opened(out) as folder:
            edit(folder / "records" / "kinetics-quick" / "tsm-s0.json")
            check_records(folder)

    with pytest.raises(VerifyError, match=f"^{re.escape(str(out))}/records/kinetics-quick/tsm-s0.json: "):
        check_edited()


def test_an_archive_of_an_edited_record_passes_its_list_and_fails_its_check(own, tmp_path):
    edit(own / "records" / "kinetics-quick" / "tsm-s0.json")
    with pytest.raises(VerifyError, match=r"result\.top1 is \d+, recomputed it is"):
        submit(own, tmp_path, tmp_path / "out.zip")
    with pytest.raises(VerifyError, match=r"result\.top1 is \d+, recomputed it is"):
        update(own, "a wish", tmp_path, tmp_path / "reference")
    assert not (tmp_path / "reference").exists()


@pytest.mark.slow
def test_the_reference_is_updated_for_a_reason(own, tmp_path):
    reference = tmp_path / "reference"
    stale = reference / "temporal" / "kinetics-quick" / "tsm-s0.json"
    stale.parent.mkdir(parents=True)
    stale.write_text(json.dumps(dict(run="00000000")))
    with pytest.raises(ReferenceError, match=r"moves for a reason; give one: make update-reference REASON='why'"):
        update(own, " ", tmp_path, reference)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReferenceError, match=r"holds no records"):
        update(tmp_path / "empty", "why", tmp_path, reference)
    (own / "studies").mkdir()
    (own / "studies" / "planted.json").write_text("{}")
    said = update(own, "first two", tmp_path, reference)
    assert "2 records and the tables of" in said
    assert (reference / "tables" / "kinetics-quick.md").exists()
    assert (reference / "studies" / "planted.json").exists()
    assert (reference / "report.html").exists()
    line = (reference / "CHANGES.md").read_text().splitlines()[-1]
    assert (
        "reference: records/kinetics-quick, studies (5 files): first two; "
        "removed, of runs that are no more: kinetics-quick/tsm-s0" in line
    )
    assert not stale.exists()


def test_a_reference_that_would_disagree_stays_as_it_was(own, tmp_path):
    reference = tmp_path / "reference"
    make(reference, "mvit-s0", "x3d-s0", wrong=0.5)
    edit(reference / "records" / "kinetics-quick" / "mvit-s0.json")
    before = content(tmp_path)
    with pytest.raises(VerifyError, match=r"reference/records/kinetics-quick/mvit-s0\.json: result\.top1 is"):
        update(own, "why", tmp_path, reference)
    assert content(tmp_path) == before
