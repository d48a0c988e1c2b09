"""Suites are files: ours repeat nothing, a user's runs like ours, and a wrong one is one clear line."""

import ast
import re
from itertools import combinations

import pytest
from typer.testing import CliRunner

from reproduce.cli import app
from reproduce.evidence import report, temporal, update, verify
from reproduce.run import STAGES, Stage
from reproduce.search import stage
from reproduce.suites import CONFIGS, SUITES, SuiteError, named, suite

SIZES = ("tiny", "quick", "full")
OURS = ("kinetics", "ssv2", *(f"{layout}-{size}" for layout in ("kinetics", "ssv2") for size in SIZES))
EXAMPLE = CONFIGS / "examples" / "my_suite.py"


def test_ours_are_few_files_and_none_repeats_another():
    files = [*(CONFIGS / "suites").glob("*.py"), *(CONFIGS / "recipes").glob("*.py"), CONFIGS / "_base_" / "entries.py"]
    assert len(files) <= 20
    ours = {name for name in SUITES if not name.startswith("runtime-")}  # those are made for a table of times
    assert ours - set(OURS) == {"kinetics-native", "ssv2-native", "kinetics-quick-lt", "ssv2-lt"}
    statements = {}
    for file in files:
        body = [
            ast.unparse(s) for s in ast.parse(file.read_text()).body if not isinstance(s, ast.ImportFrom | ast.With)
        ]
        statements[file.name, file.parent.name] = {s for s in body if len(s) > 60}
    for a, b in combinations(statements, 2):
        assert not statements[a] & statements[b], (a, b)


@pytest.mark.parametrize("name", ["ssv2", "kinetics-tiny"])
def test_recipes_hold_one_network_and_nothing_of_the_suite(name):
    for entry in SUITES[name].entries:
        recipe = entry.recipe()
        assert "type" in recipe.net
        assert not {"nets", "searches", "options", "suite", "entries", "literature"} & recipe.keys()
        if entry.search:
            config = stage.search_config(entry)
            assert config.method == ("supernet" if entry.search == "auto_x3d" else entry.search)
            assert config.net == recipe.net


def test_what_a_suite_changes_stays_out_of_the_one_it_inherits():
    epochs = [SUITES[name].entry("assemblenet_searched").recipe(search=True).epochs for name in ("ssv2", "kinetics")]
    assert epochs == [30, 60]
    assert [SUITES[f"{layout}-tiny"].layout for layout in ("kinetics", "ssv2")] == ["kinetics", "ssv2"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a suite of one's own, the example with parts replaced; returns its file."""
    monkeypatch.setattr("reproduce.suites.SUITES", type(SUITES)())

    def write(*parts: tuple[str, str], name: str = "mine.py"):
        text = EXAMPLE.read_text()
        for old, new in parts:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_the_example_runs_from_videos_to_a_table(kinetics_root, tmp_path, monkeypatch):
    monkeypatch.setattr("reproduce.suites.SUITES", type(SUITES)())
    monkeypatch.setenv("MY_VIDEOS", str(kinetics_root))
    monkeypatch.setenv("ALLOW_PARTIAL", "1")
    folders = [f"--{name}={tmp_path / name}" for name in ("runs", "results", "cache")]
    done = CliRunner().invoke(app, ["run", str(EXAMPLE), *folders], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = re.findall(r"(?m)^ *\d+  (\w+) ", done.stdout)
    assert sorted(rows) == ["auto_tsnet_random", "x3d", "x3d_narrow"]
    assert "My videos" in done.stdout
    records = {path.name for path in (tmp_path / "results" / "records" / "my-suite").glob("*.json")}
    assert records == {"x3d-s0.json", "x3d_narrow-s0.json", "auto_tsnet_random-s0.json", "auto_tsnet_random-a1-s0.json"}
    command = ["--suite", str(EXAMPLE), "verify", str(tmp_path / "results")]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0


def test_a_recipe_lists_its_stages(own, kinetics_root, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_VIDEOS", str(kinetics_root))
    monkeypatch.setenv("ALLOW_PARTIAL", "1")
    look = Stage("look", "look.txt", lambda of: (of.folder / "look.txt").write_text(of.entry.name), ranks=False)
    monkeypatch.setitem(STAGES, "look", look)
    arguments = ["--entries=x3d", *(f"--{name}={tmp_path / name}" for name in ("runs", "results", "cache"))]
    for number, (stages, said) in enumerate(
        (
            ('["train", "test", "look", "measure", "record"]', ""),
            (
                '["train", "fly", "record"]',
                "x3d: unknown stage 'fly' in `stages`; known: train, retune, test, measure, ",
            ),
            (
                '["train", "test"]',
                "x3d: `stages` are train, test; others may stand between train, test, measure, record",
            ),
            ('["test", "train", "measure", "record"]', "x3d: `stages` are test, train, measure, record; others may"),
        )
    ):
        file = own(("epochs = 1", f"epochs = 0.3\nstages = {stages}"), name=f"stages{number}.py")
        done = CliRunner().invoke(app, ["run", str(file), *arguments])
        assert said in str(done.exception or "")
        assert bool(said) == bool(done.exception), done.output
    assert next((tmp_path / "runs").rglob("look.txt")).read_text() == "x3d"


def test_a_suite_of_ones_own_is_known_by_file_then_by_name_and_at_other_budgets(own):
    found = suite(f"{own()}@0.01")
    assert (found.name, found.gmacs) == ("mine@0.01", 0.01)
    assert suite(found.ref) == found
    assert suite("mine") == suite(str(own()))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([('layout="kinetics"', 'layout="ucf101"')], "unknown data layout 'ucf101'; known: kinetics, ssv2"),
        ([('dict(name="x3d_narrow"', 'dict(name="x3d"')], "entry 'x3d' is there twice"),
        ([('dict(name="x3d")', 'dict(name="resnet")')], "entry 'resnet' has no network in `nets`"),
        ([('search="auto_tsnet"', 'search="luck"')], "entry 'auto_tsnet_random' has no search in `searches`"),
        ([("classes=4", "clases=4")], "clases"),
        ([('kind="segment"', 'kind="random"')], "sampling kind 'random' is neither 'dense' nor 'segment'"),
        ([("suite = dict(", "suite = dic(")], "NameError: name 'dic' is not defined"),
        ([("gmacs=0.006", 'gmacs="0.006"')], "gmacs='0.006' is no positive number of GMACs per view"),
        ([("gmacs=0.006", "gmacs=True")], "gmacs=True is no positive number of GMACs per view"),
        ([("classes=4", 'classes="4"')], "classes='4' is no number of classes"),
        ([('root="MY_VIDEOS",', "")], "neither `root`, the variable that names the copy, nor the `size`"),
        ([("variants=2", "variants=0")], "entry 'auto_tsnet_random' has variants=0"),
        ([("dict(type=x3d, blocks", "dict(blocks")], "the network of entry 'x3d_narrow' has no type"),
        ([("dict(type=x3d, blocks", "dict(type=3, blocks")], "the network of entry 'x3d_narrow' has no type"),
        ([('dict(name="x3d")', '"x3d"')], "`entries` are dicts, with 'x3d' among them"),
        (
            [("entries = [", 'del searches["auto_tsnet"]["method"]\nentries = [')],
            "the search of entry 'auto_tsnet_random' has no `method`",
        ),
        ([('name="x3d_narrow"', 'name="x3d/narrow"')], "'x3d/narrow' is no name of letters, digits, - and _"),
        ([('dict(name="x3d")', 'dict(name="x3d", config="gone.py")')], "gone.py"),
    ],
)
def test_a_wrong_file_is_one_clear_line(own, parts, said):
    with pytest.raises(SuiteError, match=re.escape(said)) as error:
        suite(str(own(*parts)))
    assert "mine.py" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_of_ours_is_refused(own):
    with pytest.raises(SuiteError, match="is suite 'ssv2-quick' already, records would mix; rename the file"):
        suite(str(own(name="ssv2_quick.py")))


def test_no_file_that_data_names_is_executed(own, tmp_path):
    file = own(("epochs = 1", f"open({str(tmp_path / 'hacked')!r}, 'w').close()"))
    for name in (str(file), f"{file}@0.01", str(file.with_suffix(""))):
        with pytest.raises(ValueError, match=r"unknown suite .*--suite my_suite\.py"):
            named(name)
    for module in (report, temporal, update, verify):
        assert not hasattr(module, "suite"), "what reads data knows suites by name only"
    assert not (tmp_path / "hacked").exists()


def test_a_network_that_cannot_be_built_and_a_space_out_of_reach_are_said_first(own, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_VIDEOS", str(tmp_path))
    folders = [f"--{name}={tmp_path / name}" for name in ("runs", "results", "cache")]
    budget = [("gmacs=0.006", "gmacs=0.1")]
    transforms = [("entries = [", 'nets["auto_tsnet"]["transforms"] = [dict(type="luck")]\nentries = [')]

    def of_search(key: str, value: str) -> list[tuple[str, str]]:
        return [("entries = [", f'searches["auto_tsnet"]["{key}"] = {value}\nentries = [')]

    for number, (parts, entry, said) in enumerate(
        (
            ([("head_width=64", "hed_width=64")], "x3d_narrow", "entry 'x3d_narrow' cannot be built"),
            (of_search("judge", "dict(type='luck')"), "auto_tsnet_random", "unknown judge 'luck'; known: "),
            (of_search("judge", "'supernet'"), "auto_tsnet_random", "unknown judge 'supernet'; known: "),
            (of_search("options", "dict(stepz=1)"), "auto_tsnet_random", "unknown option stepz of a search; known: "),
            (transforms, "auto_tsnet_random", "unknown transform 'luck'; known: "),
            (budget, "auto_tsnet_random", "auto_tsnet_random: a budget of 0.1 GMACs is outside of space 'tiny'"),
        )
    ):
        file = own(*parts, name=f"built{number}.py")
        done = CliRunner().invoke(app, ["run", str(file), "--entries", entry, *folders])
        assert said in str(done.exception)


def test_a_budget_out_of_reach_and_absent_videos_are_said_before_the_first_step(own, tmp_path, monkeypatch):
    monkeypatch.delenv("MY_VIDEOS", raising=False)
    folders = [f"--{name}={tmp_path / name}" for name in ("runs", "results", "cache")]
    for budget, said in (
        ("gmacs=4.7", "x3d: 4.7 GMACs at 8x32x32 is out of reach"),
        ("gmacs=0.006", "needs MY_VIDEOS"),
    ):
        file = own(("gmacs=0.006", budget), name=f"own{len(budget)}.py")
        done = CliRunner().invoke(app, ["run", str(file), *folders])
        assert said in str(done.exception)
        assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").rglob("*.json"))
