"""Native variants: their printed digits come out, their recipes are theirs, and one of them runs end to end."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from autotsnet.meta import on_meta
from baselines import VARIANTS
from reproduce.engine.recipe import schedule
from reproduce.evidence import natives, tables
from reproduce.measure.macs import count
from reproduce.records import RunRecord
from reproduce.run import execute
from reproduce.suites import CONFIGS, SUITES, Entry, RunSpec

RESULTS = Path(__file__).parents[3] / "results"
ENTRIES = [(suite, entry) for suite in ("kinetics-native", "ssv2-native") for entry in SUITES[suite].entries]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Folder of results with the table, rendered now."""
    folder = tmp_path_factory.mktemp("natives")
    natives.render(folder)
    return folder


def test_the_committed_table_is_what_the_code_counts(rendered):
    for name in ("natives.md", "natives.csv"):
        assert (rendered / "tables" / name).read_text() == (RESULTS / "tables" / name).read_text()


def test_every_row_has_the_printed_digits_or_an_explanation():
    table = natives.pd.read_csv(RESULTS / "tables" / "natives.csv", keep_default_na=False)
    equal = table.agreement.map(lambda text: all(" equal" in part for part in text.split("; ")))
    assert (equal | (table.note != "")).all()
    assert set(VARIANTS) <= set(table.variant)


@pytest.mark.parametrize("native", [n for n in natives.NATIVES if natives.NO_HEAD in n.note], ids=lambda n: n.name)
def test_the_classifier_is_what_is_missing_where_a_note_says_so(native):
    arguments = native.arguments | {"crop": native.crop}
    frames = arguments["frames"]
    counted = count(lambda: native.build(**arguments), frames, native.crop)
    norms = natives.norm_elements(lambda: native.build(**arguments), frames, native.crop)
    head = on_meta(lambda: native.build(**arguments)).fc.weight.numel() * frames
    digits = natives.printed(native).gflops_per_view
    assert natives._rounded((counted.macs + native.norm * norms - head) / 1e9, digits) == digits


def test_a_wrong_source_is_an_error():
    wrong = replace(natives.NATIVES[0], source=("X3D", "X3D-XXL"))
    with pytest.raises(ValueError, match=r"published.csv has 0 rows with a cost of .*X3D-XXL"):
        natives.printed(wrong)


@pytest.mark.parametrize(("suite", "entry"), ENTRIES, ids=lambda value: getattr(value, "name", value))
def test_native_recipes_are_of_the_native_variants(suite, entry):
    suite = SUITES[suite].of(entry)
    build, arguments = VARIANTS[entry.name]
    config = Config.fromfile(str(entry.config))
    net = dict(config.net)
    assert net.pop("type") is build
    assert arguments == {
        "num_classes": suite.classes,
        "frames": suite.protocol.sampling.frames,
        "crop": suite.protocol.crops.size,
        **net,
    }
    assert config.reference_batch == config.batch
    assert config.batch % config.get("sub_batch", config.batch) == 0
    assert tables.literature(suite, entry)[0] != "–"


def test_the_rate_falls_to_a_tenth_at_each_milestone():
    config = Config(dict(epochs=50, batch=10, warmup=5 / 50, milestones=(25 / 50, 45 / 50)))
    steps, (warmup, fall) = schedule(config, videos=200)
    assert (steps, warmup["end"], fall["milestones"]) == (1000, 100, [500, 900])


def test_pyslowfasts_cosine_begins_with_the_warm_up():
    config = Config.fromfile(str(CONFIGS / "native" / "slowfast_8x8_r50.py"))
    steps, schedulers = schedule(config, videos=64 * 10)
    assert steps == 1960
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedulers = [s.pop("type")(optimiser, **s) for s in schedulers]
    rates = []
    for _ in range(steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        for s in schedulers:
            s.step()
    cosine = [0.05 * (1 + math.cos(math.pi * i / steps)) for i in range(steps)]
    assert rates[340:] == pytest.approx(cosine[340:], rel=1e-6)
    assert max(rates) == pytest.approx(0.0928, abs=1e-4)


@pytest.mark.parametrize("name", ["kinetics-native", "ssv2-native"])
def test_native_tables_say_what_differs(name, tmp_path):
    suite = SUITES[name]
    text = tables.render(replace(suite, entries=suite.entries[-2:]), tmp_path)
    assert "by the authors' own recipes" in text
    assert "not matched" in text
    assert "native protocol" in text
    assert "missed" not in text


def test_a_native_recipe_runs_end_to_end(tiny, tmp_path):
    """X3D-XS's, with a smaller net and smaller crops, for 2 of its 300 epochs."""
    _, train, test = tiny
    config = Config.fromfile(str(CONFIGS / "native/x3d_xs.py"))
    config.merge_from_dict(
        dict(epochs=2, batch=8, sub_batch=4, workers=0, precise_bn=2, checkpoint=1)
        | {"net.width": 8, "net.blocks": (1, 1, 1, 1), "net.head_width": 32}
        | {"crops.size": 32, "crops.short_side": 48, "crops.jitter": (36, 46), "crops.test_size": 48}
    )
    config.dump(tmp_path / "toy.py")
    entry = Entry("x3d_xs", tmp_path / "toy.py")
    suite = replace(SUITES["kinetics-native"], dataset="synthetic", classes=len(train.classes), entries=(entry,))
    as_run = suite.of(entry)
    spec = RunSpec.of(as_run, entry, 0, train, test)
    execute(as_run, entry, spec, train, test, tmp_path / "runs", tmp_path / "results")
    record = RunRecord.load(tmp_path / "results" / "records" / "kinetics-native" / "x3d_xs-s0.json")
    assert (record.data.crop, record.data.clips, record.data.crops) == (48, 10, 3)
    assert record.model.budget == record.model.gmacs
    assert record.training.epochs == 2
    folder = tmp_path / "results" / "records" / "kinetics-native"
    row = tables.table(replace(suite, published=None), [record], folder).iloc[0]
    assert (row["frames×crop"], row["views"]) == ("4×48²", "10×3")
    assert row["native protocol"] == "dense, stride 12; trained at 32²"
