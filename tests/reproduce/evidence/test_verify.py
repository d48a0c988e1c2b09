"""Results that agree with themselves pass; the smallest disagreement is one line that names the file."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from autotsnet.registry import family
from reproduce.evidence import tables
from reproduce.evidence.verify import VerifyError, check_records, verify
from reproduce.records import SCHEMA, UNPROVEN, RecordError, RunRecord, sha256
from reproduce.run import execute
from reproduce.spec import RunSpec
from reproduce.suites import SUITES
from tests.reproduce.made import make

RESULTS = Path(__file__).parents[3] / "results"


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    """Results of one suite, of old records, whose fields nothing but the answers and the suite can prove."""
    monkeypatch.setattr("reproduce.evidence.verify._frozen", lambda path: True)
    suite = SUITES["ssv2-quick"]
    make(tmp_path, *(f"{name}-s{seed}" for name in ("slowfast", "tsm") for seed in (0, 1)), suite=suite, old=True)
    tables.render(suite, tmp_path)
    return tmp_path


def edit(path: Path, **changes) -> None:
    """Change fields of a record: ``result__top1=…``."""
    data = json.loads(path.read_text())
    for name, value in changes.items():
        *parents, last = name.split("__")
        part = data
        for parent in parents:
            part = part[parent]
        part[last] = value
    path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")


def test_the_committed_results_agree():
    """Records, tables, diagnoses, throughput, expectations and the page."""
    assert (RESULTS / "report.html").exists()
    records = len(list(RESULTS.glob("records/*/*.json")))
    assert records >= 8
    assert f"{records} records and the tables of 6 suites agree" in verify(RESULTS)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (dict(result__top1=399), r"result.top1 is 399, recomputed it is \d+"),
        (dict(result__top5=401), r"result.top5 is 401, recomputed it is \d+"),
        (dict(result__n=399), "result.n is 399, recomputed it is 400"),
        (dict(result__failed=["7"]), r"result.failed is \['7'\], recomputed it is \[\]"),
        (dict(seed=1), "entry, variant and seed is tsm-s1, recomputed it is tsm-s0"),
        (dict(suite="ssv2-tiny"), "suite is ssv2-tiny, recomputed it is ssv2-quick"),
        (dict(model__residual=0.0), r"model.residual is 0.0, recomputed it is -?0\.0"),
        (dict(schema_version=SCHEMA + 1), f"schema version {SCHEMA + 1}, this code reads 1 to {SCHEMA}"),
        (dict(schema_version=[1]), r"schema version \[1\], this code"),
        (dict(surprise=1), "surprise: Extra inputs are not permitted"),
    ],
)
def test_an_edited_record(results, changes, reason):
    edit(results / "records" / "ssv2-quick" / "tsm-s0.json", **changes)
    with pytest.raises(VerifyError, match=rf"^{results}/records/ssv2-quick/tsm-s0\.json: ({reason})") as error:
        verify(results)
    assert len(str(error.value).splitlines()) == 1


def test_edited_predictions(results):
    path = results / "records" / "ssv2-quick" / "tsm-s0.parquet"
    table = pd.read_parquet(path)
    table.loc[3, "label"] = (table.label[3] + 2) % 8  # wrong before and after
    recorded = sha256(path)[:12]
    table.to_parquet(path, index=False)
    with pytest.raises(VerifyError, match=rf"^{path}: sha256 \w+ is not the record's {recorded}"):
        verify(results)
    edit(path.with_suffix(".json"), result__predictions_sha256=sha256(path))
    with pytest.raises(VerifyError, match=r"tsm-s0\.json: its videos or labels are not those of \w+-s0\.json"):
        verify(results)


def test_missing_and_surplus_files(results):
    folder = results / "records" / "ssv2-quick"
    (folder / "tsm-s0.parquet").unlink()
    (folder / "notes.txt").write_text("")
    with pytest.raises(VerifyError) as error:
        verify(results)
    surplus, missing = sorted(str(error.value).splitlines())
    assert surplus == f"{folder}/notes.txt: belongs to no record; remove it, or restore its record"
    assert missing.startswith(f"{folder}/tsm-s0.parquet cannot be read: No such file")


def test_edited_tables(results):
    path = results / "tables" / "ssv2-quick.csv"
    before, _, after = path.read_text().rpartition("]")
    path.write_text(before + "]]" + after)
    line = before.count("\n") + 1
    with pytest.raises(VerifyError, match=rf"^{path}: line {line} is not what its records say; render it: python -m"):
        verify(results)
    path.unlink()
    with pytest.raises(VerifyError, match=rf"^{path} is missing"):
        verify(results)
    (results / "tables" / "imagenet.md").write_text("")
    with pytest.raises(VerifyError, match="imagenet has records or a table, and is no suite"):
        verify(results)
    with pytest.raises(VerifyError, match=r"has no records/"):
        verify(results / "tables")


def test_a_record_of_the_first_schema_is_migrated(tmp_path):
    """As the first version wrote it: before architectures were searched for."""
    old = Path(__file__).with_name("record_v1.json")
    assert "variant" not in json.loads(old.read_text())
    record = RunRecord.load(old)
    assert (record.schema_version, record.variant, record.search, record.spec) == (SCHEMA, 0, None, None)
    assert record.provenance.threads is None, "an old record does not say"
    assert "net = " in record.recipe_text
    assert record.provenance.test == [], UNPROVEN
    record.save(tmp_path / "new.json")
    assert RunRecord.load(tmp_path / "new.json") == record
    edit(tmp_path / "new.json", schema_version=0)
    with pytest.raises(RecordError, match=rf"new\.json: schema version 0, this code reads 1 to {SCHEMA}"):
        RunRecord.load(tmp_path / "new.json")


@pytest.mark.parametrize("old", [True, False])
def test_a_record_without_specification_is_one_of_the_committed(tmp_path, old):
    make(tmp_path, "x3d-s0", suite=SUITES["ssv2-quick"], old=old)
    if not old:
        edit(tmp_path / "records" / "ssv2-quick" / "x3d-s0.json", spec=None)
    with pytest.raises(VerifyError, match=r"x3d-s0\.json: spec is empty, and it is none of the committed old records"):
        check_records(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: pd.concat([t, t]), "id: 0000 is there twice"),
        (lambda t: t[:0], "id: there are no rows"),
        (lambda t: t.assign(label=t.label - 1), "label: -1 to 6"),
        (lambda t: t.assign(label=t.label + 1), "label: 1 to 8"),
        (lambda t: t.assign(label="x"), "label: "),
        (lambda t: t.assign(error=None), "error: not all are strings"),
        (lambda t: t.assign(scores=[s[:0] for s in t.scores]), r"scores: of \[0\] classes"),
        (lambda t: t.drop(columns="error"), "its columns are"),
    ],
)
def test_predictions_that_are_not_whole(results, change, reason):
    path = results / "records" / "ssv2-quick" / "tsm-s0.parquet"
    change(pd.read_parquet(path)).to_parquet(path, index=False)
    edit(path.with_suffix(".json"), result__predictions_sha256=sha256(path))
    with pytest.raises(VerifyError, match=rf"^{path}: {reason}"):
        check_records(results)


def test_predictions_that_are_no_parquet(results):
    path = results / "records" / "ssv2-quick" / "tsm-s0.parquet"
    path.write_text("junk")
    edit(path.with_suffix(".json"), result__predictions_sha256=sha256(path))
    with pytest.raises(VerifyError, match=rf"^{path} cannot be read: "):
        check_records(results)


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory) -> Path:
    """Results of a run of today, which hold their specification."""
    suite, train, test = tiny
    folder = tmp_path_factory.mktemp("made")
    entry = suite.entry("tsm")
    execute(suite, entry, RunSpec.of(suite, entry, 0, train, test), train, test, folder / "runs", folder / "results")
    return folder / "results"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (dict(run="deadbeef"), r"run is deadbeef, recomputed it is \w{8}"),
        (dict(spec__seed=7), r"run is \w{8}, recomputed it is \w{8}"),
        (dict(model__params=1), r"model\.params is 1, recomputed it is \d+"),
        (dict(model__gmacs=0.006, model__residual=0.0), r"model\.gmacs is 0\.006, recomputed it is 0\.0"),
        (dict(training__epochs=300), r"training\.epochs is 300\.0, recomputed it is 1"),
        (dict(training__steps=300), r"training\.steps is 300, recomputed it is 6"),
        (dict(training__batch=64), r"training\.batch is 64, recomputed it is 4"),
        (dict(data__clips=10), r"data\.clips is 10, recomputed it is 2"),
        (dict(data__crop=224), r"data\.crop is 224, recomputed it is 32"),
        (dict(data__test_manifest="0123456789ab"), r"data\.test_manifest is 0123456789ab, recomputed"),
        (dict(throughput__device="H100"), r"throughput\.device is H100, recomputed it is"),
        (dict(throughput__clips_per_s=-1.0), r"throughput: a finite rate over 0 and a finite spread is False"),
        (dict(throughput__spread=-1.0), r"throughput: a finite rate over 0 and a finite spread is False"),
        (dict(throughput__threads=64), r"throughput\.threads is 64, recomputed"),
        (dict(training__devices=-1), r"training: a finite time over 0, a finite loss, devices is False"),
        (dict(model__budget=0.6, model__residual=0.0), r"model\.budget is 0\.6, recomputed it is 0\.006"),
        (dict(model__net={}), r"model\.net is \{\}, recomputed"),
        (dict(spec__source="x"), r"spec\.source is x, recomputed it is "),
        (dict(data__dataset="other"), r"data\.dataset is other, recomputed"),
        (dict(provenance__test=[]), r"number of sessions in provenance\.test is 0, recomputed it is 1"),
        (dict(spec__gmacs=1.0), r"model\.gmacs is 0\.\d+, recomputed it is 1\.0"),
        (dict(spec__net__type="os.system"), r"spec: its network cannot be counted: unknown model family 'system'"),
        (dict(spec__surprise=1), r"spec\.surprise: Extra inputs are not permitted"),
    ],
)
def test_a_record_proves_what_it_claims(made, tmp_path, changes, reason):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "records" / "kinetics-tiny" / "tsm-s0.json"
    assert "1 records agree" in check_records(tmp_path)
    edit(path, **changes)
    with pytest.raises(VerifyError, match=reason) as error:
        check_records(tmp_path)
    assert {line.partition(": ")[0] for line in str(error.value).splitlines()} == {str(path)}


def test_a_network_three_times_wider_than_its_gmacs_say(made, tmp_path):
    """All hashes recomputed: only counting it tells."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "records" / "kinetics-tiny" / "tsm-s0.json"
    record = RunRecord.load(path)
    knob = family("tsm").knobs[0].name
    wider = {knob: 3 * record.spec.net[knob]}
    net = record.spec.net | wider
    spec = record.spec.model_copy(update=dict(net=net))
    model = record.model.model_copy(update=dict(net=record.model.net | wider))
    record.model_copy(update=dict(spec=spec, run=spec.hash, model=model)).save(path)
    with pytest.raises(VerifyError, match=r"model\.gmacs is 0\.00\d+, recomputed it is 0\.0[3-6]"):
        check_records(tmp_path)
