"""Results that agree with themselves pass; the smallest disagreement is one line that names the file."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from autotsnet.registry import family
from reproduce.evidence import report, tables
from reproduce.evidence.verify import VerifyError, check_records, verify
from reproduce.records import SCHEMA, UNPROVEN, RecordError, RunRecord, sha256
from reproduce.run import execute
from reproduce.spec import RunSpec
from reproduce.suites import SUITES
from tests.reproduce.made import make

SEARCH = dict(strategy="", space="", seed=0, steps=1, architectures=1, clips=1, wall_s=1.0, devices=1)
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
    with pytest.raises(VerifyError, match=r"tsm-s0\.json: its videos or labels are not those of \S+-s0\.json"):
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
        (dict(throughput__clips_per_s=-1.0), r"throughput\.clips_per_s is -1\.0, it must be a finite number over 0"),
        (dict(throughput__spread=-1.0), r"throughput\.spread is -1\.0, it must be a finite number, 0 or more"),
        (dict(throughput__threads=64), r"throughput\.threads is 64, recomputed"),
        (dict(training__devices=-1), r"training\.devices is -1, it must be a finite number over 0"),
        (dict(training__devices=8), r"training\.devices is 8, recomputed it is 1"),
        (dict(search=SEARCH), r"search is there, it must be empty"),
        (dict(spec__suite="imagenet"), r"unknown suite 'imagenet'"),
        (dict(model__budget=0.6, model__residual=0.0), r"model\.budget is 0\.6, recomputed it is 0\.006"),
        (dict(model__net={}), r"model\.net is \{\}, recomputed"),
        (dict(spec__source="x"), r"spec\.source is x, recomputed it is "),
        (dict(data__dataset="other"), r"data\.dataset is other, recomputed"),
        (dict(provenance__test=[]), r"provenance\.test is empty, it must be there"),
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


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Path:
    """Records of searches, whose recipes say what they cost."""
    folder = tmp_path_factory.mktemp("searched")
    make(folder, "pvnas-s0", "assemblenet_searched-s0", "auto_tsnet-s0", suite=SUITES["ssv2-quick"])
    assert "3 records agree" in check_records(folder)
    return folder


def copied(source: Path, folder: Path, name: str) -> Path:
    """A record and its predictions, in another folder of results."""
    target = folder / "records" / "ssv2-quick" / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".json", ".parquet"):
        shutil.copy(source / "records" / "ssv2-quick" / f"{name}{suffix}", target.with_suffix(suffix))
    return target


@pytest.mark.parametrize(
    ("entry", "changes", "reason"),
    [
        ("pvnas", dict(steps=-1), r"steps is -1, it must be a finite number over 0.*steps is -1, recomputed it is 950"),
        ("pvnas", dict(architectures=3), "architectures is 3, recomputed it is 1400"),
        ("pvnas", dict(clips=10**6), "clips is 1000000, recomputed it is 22400"),
        ("pvnas", dict(recipe__options__diverse=False), "strategy is gradient, recomputed it is gradient, plain rates"),
        ("pvnas", dict(recipe__method="auto_tsnet"), "recipe.method is auto_tsnet, recomputed it is pvnas"),
        ("pvnas", dict(space="tiny"), "space is tiny, recomputed it is PV-NAS-style"),
        ("pvnas", dict(seed=3), "seed is 3, recomputed it is 0"),
        ("pvnas", dict(recipe={}), "recipe: the cost of the search cannot be recomputed"),
        ("assemblenet_searched", dict(recipe__batch=32), "steps is 450, recomputed it is 225"),
        ("assemblenet_searched", dict(wall_s=float("inf")), "wall_s is inf, it must be a finite number over 0"),
        ("assemblenet_searched", dict(devices=0), "devices is 0, it must be a finite number over 0"),
        ("assemblenet_searched", dict(devices=2), "devices is 2, recomputed it is 1"),
        ("auto_tsnet", dict(steps=1461), "steps is 1461, recomputed it is 1460"),
        ("auto_tsnet", dict(recipe__options__type_steps=71), "steps is 1460, recomputed it is 1462"),
        ("auto_tsnet", dict(recipe__progressive=False), "strategy is fpnas, recomputed it is fpnas, joint"),
        ("auto_tsnet", dict(architectures=0), "architectures is 0, recomputed it is 380"),
        ("auto_tsnet", dict(architectures=1041), r"clips is 52672, recomputed it is 52640"),
        ("auto_tsnet", dict(devices=3), "devices is 3, recomputed it is 1"),
    ],
)
def test_a_search_costs_what_its_recipe_says(searched, tmp_path, entry, changes, reason):
    path = copied(searched, tmp_path, f"{entry}-s0")
    edit(path, **{f"search__{name}": value for name, value in changes.items()})
    with pytest.raises(VerifyError, match=rf"(?s)search\.({reason})") as error:
        check_records(tmp_path)
    assert {line.partition(": ")[0] for line in str(error.value).splitlines()} == {str(path)}


def test_what_chance_has_a_part_in_is_bounded(searched, tmp_path):
    """Graphs that fail are trained for fewer steps, finalists that are one are judged once."""
    path = copied(searched, tmp_path, "assemblenet_searched-s0")
    evolution = dict(recipe__strategy="evolution", strategy="evolution", architectures=24)
    for steps in (24 * 23, 7 * 23):
        found = evolution | dict(steps=steps, clips=16 * (steps + 8 * 24))
        edit(path, **{f"search__{name}": value for name, value in found.items()})
        assert "1 records agree" in check_records(tmp_path)
    edit(path, search__steps=24 * 24, search__clips=16 * (24 * 24 + 8 * 24))
    with pytest.raises(VerifyError, match=r"search\.steps is 576, recomputed it is 552"):
        check_records(tmp_path)
    path = copied(searched, tmp_path, "auto_tsnet-s0")
    edit(path, search__clips=52672 - 16 * 4 * 28)  # one finalist a stage instead of eight
    edit(path.with_name("assemblenet_searched-s0.json"), search__steps=7 * 23, search__clips=16 * (7 * 23 + 8 * 24))
    assert "2 records agree" in check_records(tmp_path)


@pytest.mark.parametrize("other", ["ssv2-quick", "kinetics-quick"])
def test_records_of_one_manifest_were_trained_on_as_many_videos(tmp_path, other):
    make(tmp_path, "tsm-s0", suite=SUITES["ssv2-quick"])
    record = make(tmp_path, "x3d-s0", suite=SUITES[other])
    assert "2 records agree" in check_records(tmp_path)
    fewer = record.data.model_copy(update=dict(train_videos=1600))
    record.model_copy(update=dict(data=fewer, training=record.training.model_copy(update=dict(steps=300)))).save(
        tmp_path / "records" / other / "x3d-s0.json"
    )
    with pytest.raises(VerifyError, match=r"data\.train_videos is \d+, \S+\.json has \d+ on the same manifest$"):
        check_records(tmp_path)


def test_what_the_reference_has_lost(results, tmp_path, monkeypatch):
    """The page, and expectations that `accept` left; one that it took away is not missed."""
    monkeypatch.setattr("reproduce.evidence.verify.REFERENCE", results)
    monkeypatch.setattr("reproduce.evidence.verify.CONFIGS", tmp_path / "configs")
    page, kept = results / "report.html", tmp_path / "configs" / "quick" / "tsm.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}\n")
    noted = f"`quick/tsm.json` = {sha256(kept)[:12]}", "`quick/x3d.json` = 0123456789ab"
    (results / "CHANGES.md").write_text("\n".join(noted))
    with pytest.raises(VerifyError) as error:
        verify(results)
    lost = kept.with_name("x3d.json")
    assert str(error.value).splitlines() == [
        f"{lost} is missing, `accept` left it; restore it: git checkout {lost}",
        f"{page} is missing; restore it: git checkout {page}",
    ]
    (results / "CHANGES.md").write_text("\n".join((*noted, "`quick/x3d.json` = gone")))
    page.write_text(report.page(results))
    assert "agree" in verify(results)
