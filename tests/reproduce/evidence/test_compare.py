"""A user's model, by the README's commands, beside the suite's own; and everything that can be wrong with one."""

import os
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from autotsnet.registry import FAMILIES
from baselines.mmaction2 import Channels
from reproduce.budget import BudgetError
from reproduce.cli import app
from reproduce.engine.rebuild import trained
from reproduce.evidence.compare import _side_by_side, compare
from reproduce.evidence.verify import verify
from reproduce.records import RecordError, RunRecord, load_all
from reproduce.suites import RunSpec, suite
from reproduce.user_model import OwnModelError, own_entry
from tests.reproduce.made import make

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "configs" / "examples"
MODELS = sorted({path.name for path in EXAMPLES.glob("*.py")} - {"my_suite.py"})
TINY = suite("kinetics-tiny")
NET = """
from torch import nn
from autotsnet.registry import Knob, register_family
class Pool(nn.Module):
    def forward(self, x):
        return x.mean((2, 3, 4))
"""
PLAIN = """
def {name}(*, num_classes, frames, crop, width=8):
    return nn.Sequential(nn.Conv3d(3, width, 3, 2, 1), nn.BatchNorm3d(width), Pool(), nn.Linear(width, {outputs}))
"""
CONFIG = """
model = dict(
    type="Recognizer3D",
    backbone=dict(type="ResNet3d", depth=18, pretrained2d=False, pretrained=None),
    cls_head=dict(type="I3DHead", num_classes=400, in_channels=512),
)
"""


def written(folder: Path, *parts: str) -> Path:
    """A user's file of these parts."""
    path = folder / "mine.py"
    path.write_text("".join(parts))
    return path


def plain(name: str = "mine", outputs: str = "num_classes", knobs: str = 'Knob("width", 1, 64, 1)') -> str:
    """A registered network of one convolution."""
    return NET + f"@register_family({knobs})" + PLAIN.format(name=name, outputs=outputs)


def readme_commands() -> list[list[str]]:
    """Arguments of the README's commands that compare an example."""
    lines = re.findall(r"^python -m reproduce (compare configs/.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture(scope="module", autouse=True)
def families():
    """Other tests find the families that they expect."""
    before = set(FAMILIES)
    yield
    for name in set(FAMILIES) - before:
        del FAMILIES[name]


@pytest.fixture(scope="module")
def done(cache, tmp_path_factory):
    """The README's commands on tiny data, against the first baseline only: (folder of outputs, commands, outputs)."""
    folder = tmp_path_factory.mktemp("compare")
    commands = readme_commands()
    for command in commands:
        command[-1] = command[-1].split(",")[0]
    return folder, commands, invoke(commands, cache, folder)


def invoke(commands: list[list[str]], cache: Path, folder: Path) -> list:
    """What the commands print."""
    env = dict(EMBEDDED="tiny", CACHE=str(cache), RUNS=str(folder / "runs"), RESULTS=str(folder / "results"))
    env |= dict(KINETICS_ROOT=None, SSV2_ROOT=None)
    here = Path.cwd()
    os.chdir(ROOT)
    try:
        return [CliRunner().invoke(app, command, env=env, catch_exceptions=False) for command in commands]
    finally:
        os.chdir(here)


def rows(text: str) -> list[list[str]]:
    """Cells of the lines of a table: rank, model, top-1, difference, how sure, verdict."""
    lines = [line for line in text.splitlines() if re.match(r" ?\d+  \S", line)]
    return [re.split(r"  +", line.strip()) for line in lines]


def test_the_readme_shows_a_module_and_a_config():
    assert {command[1] for command in readme_commands()} == {f"configs/examples/{name}" for name in MODELS}


def test_the_readmes_commands_make_tables(done):
    folder, commands, outputs = done
    check_tables(commands, outputs)
    assert "is one of 0.006 for these small clips" in outputs[0].stderr, "the twin's budget for the suite's"
    assert "agree" in verify(folder / "results")


@pytest.mark.slow
def test_the_readmes_commands_as_they_are_reuse_even_what_was_searched_for(cache, tmp_path):
    check_tables(readme_commands(), invoke(readme_commands(), cache, tmp_path))
    shutil.rmtree(tmp_path / "runs")
    again = invoke(readme_commands(), cache, tmp_path)
    check_tables(readme_commands(), again)
    assert [output.stderr.count("(recorded in ") for output in again] == [4, 2]
    assert not list((tmp_path / "runs").rglob("spec.json")), "nothing was run"


def check_tables(commands: list[list[str]], outputs: list) -> None:
    """Each command has set the model that it names beside the others."""
    for command, output in zip(commands, outputs, strict=True):
        assert output.exit_code == 0, output.output
        assert command[-2] == "--against"
        against = command[-1].split(",")
        found = {row[1]: row for row in rows(output.stdout)}
        assert set(found) >= set(against)
        (mine,) = set(found) - set(against)
        assert max(map(len, output.stdout.splitlines())) <= 100
        assert "missed" not in output.stdout
        assert f"{mine} − it: its top-1 minus" in output.stdout
        assert found[mine][3:5] == ["–", "–"], "it is not compared with itself: no difference, no p-value"
        difference = r"[+-]\d+\.\d \[[+-]\d+\.\d, [+-]\d+\.\d\]"
        assert all(re.fullmatch(difference, found[name][3]) for name in against)


def test_a_comparison_fits_a_terminal_and_says_whose_difference_it_is(tmp_path):
    entry, runs = suite("kinetics-quick").entry, [f"{name}-s{s}" for name in ("tsm", "x3d", "slowfast") for s in (0, 1)]
    records = [make(tmp_path, run) for run in runs]
    text = _side_by_side(
        suite("kinetics-quick"), entry("tsm"), [entry("x3d"), entry("slowfast")], records, tmp_path, common=True
    )
    assert max(map(len, text.splitlines())) <= 100
    assert "tsm − it" in text.splitlines()[1]
    tsm, slowfast, x3d = rows(text)
    assert [row[:2] for row in (tsm, slowfast, x3d)] == [["1", "tsm"], ["2", "slowfast"], ["3", "x3d"]]
    assert tsm[3:] == ["–", "–", "your model"]
    assert x3d[3].startswith("+")
    assert x3d[-1] == "▲ better"
    assert "On the 400 test videos in common." in text
    assert "x3d: 0.01604 GMACs/view (+0.22 % of the budget), 0.227 M parameters, 100 clips/s." in text


def test_a_users_model_stands_in_the_suites_table_and_its_record_holds_its_source(done):
    folder, *_ = done
    assert "(own, my_model.py)" in (folder / "results" / "tables" / "kinetics-tiny.md").read_text()
    record = RunRecord.load(folder / "results" / "records" / "kinetics-tiny" / "MyModel-s0.json")
    assert (EXAMPLES / "my_model.py").read_text() in record.spec.source
    assert record.model.family == "MyModel"
    assert record.model.matched


def test_a_run_folder_needs_the_file_no_more(done):
    folder, *_ = done
    for name in ("kinetics-tiny/MyModel", "ssv2-tiny/mmaction2_r2plus1d"):
        (run,) = (folder / "runs").glob(f"{name}-s0-*")
        spec = RunSpec.load(run, trust=True)
        assert spec.hash == run.name.rpartition("-")[2]
        with torch.no_grad():
            assert trained(spec, run).net(torch.zeros(1, 3, 8, 32, 32)).shape == (1, suite(spec.suite).classes)


def test_records_are_used_and_a_changed_file_is_another_run(done, cache, tmp_path, capsys, monkeypatch):
    folder, *_ = done

    def again(path: Path, *against: str, **how) -> str:
        return compare(path, TINY, list(against), [0], cache, tmp_path, folder / "results", **how)

    ran = []
    monkeypatch.setattr(
        "reproduce.evidence.compare.run", lambda *args: ran.append(args[1].name) or load_all(records)[0]
    )
    records = folder / "results" / "records" / "kinetics-tiny"
    again(EXAMPLES / "my_model.py", "x3d")
    assert ran == [], "not even without the run folders"
    assert capsys.readouterr().err.count("(recorded in ") == 2
    changed = tmp_path / "my_model.py"
    changed.write_text((EXAMPLES / "my_model.py").read_text().replace("nn.ReLU()", "nn.SiLU()"))
    again(changed, "x3d")
    assert ran == ["MyModel"]


def test_of_other_videos_records_are_refused_or_intersected(done, cache, tmp_path):
    folder, *_ = done
    for source in (folder / "results" / "records" / "kinetics-tiny").iterdir():
        target = tmp_path / "records" / "kinetics-tiny" / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    path = tmp_path / "records" / "kinetics-tiny" / "x3d-s0.json"
    record = RunRecord.load(path)
    table = pd.read_parquet(path.with_suffix(".parquet")).iloc[1:].reset_index(drop=True)
    table.loc[0, "label"] = (table.label[0] + 1) % 4  # another copy may say otherwise: not in common
    table.to_parquet(path.with_suffix(".parquet"), index=False)
    from reproduce.records import score, sha256

    top1, top5, failed = score(table)
    result = dict(n=7, top1=top1, top5=top5, failed=failed, predictions_sha256=sha256(path.with_suffix(".parquet")))
    replaced = record.model_copy(
        update=dict(
            result=record.result.model_copy(update=result),
            data=record.data.model_copy(update=dict(test_manifest="0123456789ab")),
        )
    )
    replaced.save(path)
    arguments = (EXAMPLES / "my_model.py", TINY, ["x3d"], [0], cache, tmp_path / "runs", tmp_path)
    with pytest.raises(RecordError, match=r"x3d-s0\.json was made on manifests \w+ and 0123456789ab, .*\(--common\)"):
        compare(*arguments)
    assert not (tmp_path / "runs").exists(), "said before anything is trained"
    text = compare(*arguments, common=True)
    assert len(rows(text)) == 2
    assert "On the 6 test videos in common." in text
    assert "The table of kinetics-tiny was not renewed: records of suite" in text


def test_another_budget_is_another_suite(cache):
    derived = suite("kinetics-tiny@0.012")
    assert (derived.name, derived.gmacs) == ("kinetics-tiny@0.012", 0.012)
    assert suite("kinetics-tiny@0.006") is suite("kinetics-tiny@0.0060000001") is TINY
    solution = derived.solution(own_entry(EXAMPLES / "my_model.py", derived))
    assert solution.gmacs == pytest.approx(0.012, rel=0.02)
    for name, message in (
        ("kinetics-tiny@none", "a budget of none is no positive number of GMACs per view, such as 0.006"),
        ("kinetics-tiny@-1", "a budget of -1 is no positive number"),
        ("kinetics-tiny@nan", "a budget of nan is no positive number"),
        ("kinetics-native@4.7", "suite 'kinetics-native' has no budget"),
        ("imagenet@4.7", "unknown suite 'imagenet@4.7'; known: kinetics, "),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            suite(name)


@pytest.mark.parametrize("size", ["tiny", "quick", "full"])
@pytest.mark.parametrize("name", MODELS)
def test_the_examples_meet_every_budget(name, size):
    found = suite(f"ssv2-{size}")
    assert found.solution(own_entry(EXAMPLES / name, found)).matched


def test_fractions_of_channels_are_kept_in_multiples():
    width = Channels(24.125)
    assert (width, width * 2, 4 * width, width * 2**3, width // 2) == (24, 48, 96, 193, 12)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["import torch ("], r"mine\.py cannot be read: .*\(mine\.py, line 1\); name a Python file"),
        (["import no_such_package"], r"mine\.py cannot be imported: ModuleNotFoundError: No module named 'no_such_"),
        ([NET], r"mine\.py registers no model, it only defines Pool; put @register_family\(Knob\("),
        ([""], r"mine\.py registers no model; put @register_family"),
        ([plain("one"), plain("two")], r"mine\.py registers 2 models, one, two; leave one @register_family in it"),
        ([plain("x3d")], r"mine\.py cannot be imported: KeyError: 'x3d is already registered in model at baselines"),
        ([plain("auto_tsnet_random")], r"auto_tsnet_random is the name of an entry of kinetics-tiny; choose another"),
        ([plain(outputs="7")], r"mine\.py: mine makes 2×7 of clips of 2×3×8×32×32; expected are logits B×N, here 2×4"),
        (
            [plain().replace("mean((2, 3, 4))", "mean(2).movedim(1, -1)")],
            r"mine makes 2×16×16×4 of .*; expected are logit",
        ),
        (
            [plain().replace("x.mean((2, 3, 4))", "x, x")],
            r"mine\(.*width=8\) fails on clips of 2×3×8×32×32: TypeError: ",
        ),
        (
            [plain().replace("nn.BatchNorm3d(width)", "nn.BatchNorm3d(9)")],
            r"width=8\) fails on clips of .*: RuntimeError",
        ),
        ([plain().replace(", crop,", ",")], r"mine\.py: mine takes no crop; models are built with the keywords num_cl"),
        ([plain(knobs='Knob("depth", 1, 9, 1)')], r"mine\.py: mine takes no depth; models are built with"),
        (
            [plain(knobs="")],
            r"mine\.py: mine costs 0\.0006636 GMACs, -88\.9 % of the budget of 0\.006, and has no width knob; give it "
            r"one, or compare at its own cost: --budget 0\.0006636",
        ),
        (
            [CONFIG.replace("3D", "GCN")],
            r"mine\.py is no mmaction2 config of use here: it needs a model of type Recognizer2D or",
        ),
        (
            [CONFIG, "knobs = 3"],
            r"mine\.py is no mmaction2 config of use here: knobs = dict\(name=\(low, high, step\)\) is",
        ),
        ([CONFIG.replace("ResNet3d", "ResNet4d")], r"mine\.py is no mmaction2 config of use here: .*ResNet4d"),
        (
            [CONFIG.replace("ResNet3d", "C3D")],
            r"its backbone C3D has no width knob, it takes neither base_channels nor widen_factor; name the arguments",
        ),
        (
            [CONFIG.replace("cls_head", "head")],
            r"mine\.py is no mmaction2 config of use here: it needs a model of .* with backbone and cls_head",
        ),
    ],
)
def test_a_model_that_cannot_take_part_is_one_clear_line(tmp_path, parts, message):
    with pytest.raises(OwnModelError, match=message) as error:
        own_entry(written(tmp_path, *parts), TINY)
    assert len(str(error.value).splitlines()) == 1


def test_a_budget_out_of_reach_and_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BudgetError, match=r"mine: 4\.7 GMACs at 8x32x32 is out of reach, width span 8\.29e-05 to "):
        own_entry(written(tmp_path, plain()), suite("kinetics-tiny@4.7"))
    with pytest.raises(OwnModelError, match=r"none\.py cannot be read: No such file or directory; name a Python file"):
        own_entry(tmp_path / "none.py", TINY)


def test_a_model_of_one_size_takes_part_at_its_own_cost(tmp_path):
    own = suite("kinetics-tiny@0.0006636")
    for parts in ([plain(knobs="")], [plain("mine_again", knobs="")]):
        assert own.solution(own_entry(written(tmp_path, *parts), own)).evaluations == 1


def test_an_unknown_baseline_and_mixed_arguments(tmp_path, cache):
    for against, message in ((["resnet"], "has no entry 'resnet'; known: slowfast"), ([], "--against names no model")):
        with pytest.raises(ValueError, match=message):
            compare(EXAMPLES / "my_model.py", TINY, against, [0], cache, tmp_path, tmp_path)
    with pytest.raises(ValueError, match="suite 'kinetics-native' has no protocol in common"):
        compare(EXAMPLES / "my_model.py", replace(suite("kinetics-native")), ["x3d_m"], [0], cache, tmp_path, tmp_path)
    for arguments, message in (
        (["my_model.py", "--against", "x3d"], "my_model.py: name one model's file and --dataset, or records"),
        (["a.json", "--against", "b.json", "--dataset", "ssv2"], "--dataset and --budget go with a model's file"),
    ):
        result = CliRunner().invoke(app, ["compare", *arguments])
        assert message in str(result.exception)
