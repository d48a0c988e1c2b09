"""The search loop: stages, exact resumption, failed samples, ranks."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from autotsnet.architecture import TwoStreamArchitecture
from autotsnet.cost import CostModel
from autotsnet.meta import on_meta
from autotsnet.models import TwoStreamNet
from autotsnet.search.fpnas import FPNASOptions
from autotsnet.search.judges import SupernetJudge
from autotsnet.search.progressive import SearchError, SearchOptions
from autotsnet.spaces import PRESETS, STAGES, preset
from reproduce import suites
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.runner import RunHook, load_checkpoint
from reproduce.measure.macs import count
from reproduce.pictures import architecture as pictures
from reproduce.search import method, stage, supernet
from reproduce.studies.presets import one_step, saved_gib

SHORT = dict(warmup=1, steps=2, type_steps=1)  # for strategies that judge many architectures per step
ROOT = Path(__file__).resolve().parent.parent.parent.parent


@pytest.mark.parametrize("name", PRESETS)
def test_stages_decide_every_variable_once_within_the_budget(name):
    found = preset(name).stages(SearchOptions(), 10)
    assert [v for s in found for v in s.decides] == list(STAGES)
    assert sum(s.share for s in found if s.alone) == pytest.approx(0.85)
    assert found[-1].share == 1.0
    joint = preset(name).stages(SearchOptions(progressive=False), 10)
    assert len(joint) == 1
    assert joint[0].warmup + joint[0].steps == sum(s.warmup + s.steps for s in found)
    assert joint[0].steps == sum(s.steps for s in found)


def config_of(tiny, **changes):
    """The tiny suite's search recipe."""
    suite, *_ = tiny
    config = stage.search_config(suite.entry("auto_tsnet"))
    config.update(changes)
    return config


drawn: dict = {}


@pytest.fixture(scope="module")
def found(tiny, tmp_path_factory):
    """A finished search of the tiny suite; what it drew is in ``drawn``."""
    suite, train, _ = tiny
    original = pictures.draw_architecture

    def draw(architecture, path, **texts):
        drawn[path.name] = architecture, texts
        original(architecture, path, **texts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "draw_architecture", draw)
        return stage.search(suite, config_of(tiny), 0, train, tmp_path_factory.mktemp("search"))


def test_a_search_leaves_its_artefacts(tiny, found):
    suite, *_ = tiny
    names = {p.name for p in found.folder.iterdir()}
    artefacts = {"architecture.json", "journal.parquet", "trajectory.parquet", "search.json"}
    pictures = {"network.png", "search.png", "search.svg"}
    assert artefacts | pictures <= names
    space = stage.method(suite, config_of(tiny)).space
    code = space.encode(TwoStreamArchitecture.load(found.folder / "architecture.json"))
    cost = CostModel(space, suite.classes)
    assert cost.gmacs(code[None])[0] <= suite.gmacs
    journal = pd.read_parquet(found.folder / "journal.parquet")
    assert list(journal.stage.unique()) == ["slow", "fast", "fusion", "attention"]
    assert len(journal) == found.cost.architectures
    both = journal[journal.stage.isin(["fusion", "attention"])]
    np.testing.assert_allclose(cost.gmacs(torch.tensor(np.stack(both.code)).long()), both.gmacs)
    undecided = space.positions("attention")
    assert (np.stack(journal[journal.stage == "fusion"].code)[:, undecided] == 0).all(), "attention waits for its stage"
    trajectory = pd.read_parquet(found.folder / "trajectory.parquet")
    assert trajectory.probabilities.map(sum).between(0.999, 1.001).all()


def test_the_picture_shows_the_network_that_is_trained(tiny, found):
    """Not the one found, which the solver brings to the budget."""
    suite, *_ = tiny
    architecture, texts = drawn["network.png"]
    clip = suite.protocol.sampling.frames, suite.protocol.crops.size
    counted = count(lambda: TwoStreamNet(architecture, suite.classes), *clip).gmacs
    assert texts["gmacs"] == pytest.approx(counted)
    assert abs(counted / suite.gmacs - 1) <= 0.02
    solution = suite.solution(replace(suite.entry("auto_tsnet"), architecture=found.architecture))
    assert counted == pytest.approx(solution.gmacs)
    assert architecture != found.architecture


def test_a_search_of_another_procedure_is_another_search(tiny, monkeypatch):
    suite, train, _ = tiny
    folders = []
    for procedure in (1, supernet.PROCEDURE):
        monkeypatch.setattr(supernet, "PROCEDURE", procedure)
        folders.append(stage.folder_of(suite, config_of(tiny), 0, train, Path("runs")))
    assert folders[0] != folders[1]


def test_a_finished_search_is_read_not_repeated(tiny, found):
    suite, train, _ = tiny
    before = {p: p.stat().st_mtime_ns for p in found.folder.rglob("*")}
    again = stage.search(suite, config_of(tiny), 0, train, found.folder.parent.parent)
    assert again == found
    assert {p: p.stat().st_mtime_ns for p in found.folder.rglob("*")} == before


# In the middle of the three stages; before the first and after the last takes as long again.
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 9, pytest.param(17, marks=pytest.mark.slow)])
def test_interrupted_in_any_stage_it_finds_the_same(tiny, found, tmp_path, monkeypatch, step):
    suite, train, _ = tiny
    original = RunHook.after_train_iter

    def stop(self, runner, batch_idx, data_batch=None, outputs=None):
        original(self, runner, batch_idx, data_batch, outputs)
        if batch_idx == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunHook, "after_train_iter", stop)
    with pytest.raises(KeyboardInterrupt):
        stage.search(suite, config_of(tiny), 0, train, tmp_path)
    checkpoint = next(tmp_path.rglob("last.pth"))
    assert load_checkpoint(str(checkpoint))["meta"]["iter"] == step + 1
    monkeypatch.setattr(RunHook, "after_train_iter", original)
    resumed = stage.search(suite, config_of(tiny), 0, train, tmp_path)
    assert resumed.architecture == found.architecture
    journals = [pd.read_parquet(f.folder / "journal.parquet") for f in (found, resumed)]
    pd.testing.assert_frame_equal(*journals, check_exact=True)


@pytest.mark.parametrize("changes", [dict(strategy=s) for s in ("parsec", "random", "evolution")] + [dict(fair=True)])
def test_every_strategy_ends_with_the_likeliest_finalist(tiny, tmp_path, monkeypatch, changes):
    suite, train, _ = tiny
    config = config_of(tiny, **changes)
    config.options.update(SHORT)
    judged, original = [], SupernetJudge.scores

    def scores(self, codes, alone=None, final=False):
        values = original(self, codes, alone, final)
        judged.append((codes, values))
        return values

    monkeypatch.setattr(SupernetJudge, "scores", scores)
    found = stage.search(suite, config, 0, train, tmp_path)
    space = stage.method(suite, config_of(tiny)).space
    code = space.encode(found.architecture)
    assert CostModel(space, suite.classes).gmacs(code[None])[0] <= suite.gmacs
    finalists, values = judged[-1]
    assert finalists[values.argmax()].tolist() == code.tolist()
    assert pd.read_parquet(found.folder / "journal.parquet").code.map(tuple).nunique() > 8, "none repeats itself"


def test_joint_search_has_one_stage(tiny):
    suite, train, _ = tiny
    config = stage.search_config(suite.entry("auto_tsnet"), progressive=False)
    loop = stage.method(suite, config).loop(train, 0)
    assert [s.name for s in loop["space"].stages(loop["options"], suite.classes)] == ["joint"]


def test_a_failed_sample_is_dropped_and_all_failed_stop_with_the_checkpoint_named(tiny, tmp_path, monkeypatch):
    suite, train, _ = tiny
    original, calls = VideoClassifier.forward, [0]

    def sometimes(self, clips, label=None, mode="tensor", architecture=None, **info):
        out = original(self, clips, label, mode, architecture, **info)
        calls[0] += 1
        return dict(loss=out["loss"] * float("nan")) if not torch.is_grad_enabled() and calls[0] % 5 == 0 else out

    monkeypatch.setattr(VideoClassifier, "forward", sometimes)
    config = config_of(tiny, strategy="parsec")
    config.options.update(SHORT)
    found = stage.search(suite, config, 0, train, tmp_path / "some")
    journal = pd.read_parquet(found.folder / "journal.parquet")
    failed = journal[~np.isfinite(journal.log_likelihood)]
    assert 0 < len(failed) < len(journal)
    assert (failed.weight == 0).all()

    def always(self, clips, label=None, mode="tensor", architecture=None, **info):
        out = original(self, clips, label, mode, architecture, **info)
        return dict(loss=out["loss"] * float("nan"))

    monkeypatch.setattr(VideoClassifier, "forward", always)
    with pytest.raises(SearchError, match=r"stage slow, step 0: none of 1 .* finite loss; there is no checkpoint yet"):
        stage.search(suite, config_of(tiny), 0, train, tmp_path / "all")


def test_a_budget_out_of_range_says_the_range(tiny, tmp_path):
    suite, train, _ = tiny
    with pytest.raises(
        SearchError, match=r"budget of 3 GMACs is outside of space 'tiny', whose architectures cost 0\.0"
    ):
        stage.search(replace(suite, gmacs=3.0), config_of(tiny), 0, train, tmp_path)
    with pytest.raises(SearchError, match="unknown strategy 'luck'; known: fpnas, parsec"):
        stage.search(suite, config_of(tiny, strategy="luck"), 0, train, tmp_path)


def test_halves_are_disjoint_whole_and_stratified(tiny):
    suite, train, _ = tiny
    first, second = method.halves(train, 0)
    loop = stage.method(suite, config_of(tiny)).loop(train, 0)
    assert loop["dataloader"].dataset.manifest == first, "weights learn on one"
    assert loop["held_out"].dataset.manifest == second, "alpha on the other"
    a, b = ({v.id for v in half.videos} for half in (first, second))
    assert not a & b
    assert a | b == {v.id for v in train.videos}
    for label in range(len(train.classes)):
        counts = [sum(v.label == label for v in half.videos) for half in (first, second)]
        assert abs(counts[0] - counts[1]) <= 1


RANK = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from reproduce.engine.distributed import leave, start
from reproduce.search import stage
from reproduce.suites import SUITES
start()
suite = SUITES["kinetics-tiny"]
config = stage.search_config(suite.entry("auto_tsnet"))
config.batch = 8
config.sub_batch = int(sys.argv[3]) or None
train = suite.manifest("train", Path(sys.argv[1]))
# With seed 0, alpha has a gradient that is nothing but rounding, of which Adam makes a whole step.
stage.search(suite, config, 1, train, Path(sys.argv[2]))
leave()
"""


def launch(
    ranks: int, sub_batch: int, root: Path, runs: Path, code: str = RANK, **environment: str
) -> subprocess.CompletedProcess:
    """A search under torchrun."""
    script = runs / "rank.py"
    runs.mkdir(exist_ok=True)
    script.write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [*command, str(script), str(root), str(runs), str(sub_batch)], cwd=ROOT, env=env, capture_output=True, text=True
    )


@pytest.mark.slow
def test_two_ranks_of_which_one_dies_find_what_one_rank_of_two_passes_finds(kinetics_root, tmp_path):
    dying = RANK.replace(
        "stage.search(suite",
        "import os\n"
        "from reproduce.engine.runner import RunHook\n"
        "old = RunHook.after_train_iter\n"
        "def after(self, runner, batch_idx, **k):\n"
        "    old(self, runner, batch_idx, **k)\n"
        "    if batch_idx == 6 and runner.rank == 1 and not os.environ.get('LIVE'):\n"
        "        os._exit(9)\n"
        "RunHook.after_train_iter = after\n"
        "stage.search(suite",
    )
    assert launch(2, 4, kinetics_root, tmp_path / "2", dying).returncode != 0
    steps = load_checkpoint(str(next(tmp_path.rglob("last.pth"))))["meta"]["iter"]
    assert steps in (6, 7), "the other rank may be stopped before it has saved the last step"
    for ranks, code in ((2, dying), (1, RANK)):
        done = launch(ranks, 4, kinetics_root, tmp_path / str(ranks), code, LIVE="1")
        assert done.returncode == 0, done.stderr
    folders = [next((tmp_path / r).rglob("journal.parquet")).parent for r in "12"]
    assert folders[0].name == folders[1].name, "one search, on any number of ranks"
    journals = [pd.read_parquet(f / "journal.parquet") for f in folders]
    assert (np.stack(journals[0].code) == np.stack(journals[1].code)).all(), "the same architectures are drawn"
    for column in ("log_likelihood", "weight", "entropy"):
        np.testing.assert_allclose(journals[0][column], journals[1][column], atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s", "m", "l"])
def test_one_real_step_of_each_preset(name):
    """Forward, backward and an update of alpha at full size; ``make study-presets`` records time and peak memory."""
    check_step(one_step(name), name)


def test_one_real_step_of_the_tiny_preset():
    check_step(one_step("tiny"), "tiny")


def check_step(step: dict, name: str) -> None:
    """Two subnets of the preset were judged, and the first update of Adam moved alpha by its rate, or little less."""
    assert 0.9 < step["alpha_moved"] / FPNASOptions().lr < 1.0001
    low, high = CostModel(preset(name), 400).range()
    assert len(step["gmacs"]) == 2
    assert all(low <= gmacs <= high for gmacs in step["gmacs"])
    largest = preset(name).extreme(largest=True)
    net = on_meta(lambda: TwoStreamNet(largest, 400))
    assert step["supernet_params"] > sum(p.numel() for p in net.parameters()), "every type is held too"


def test_a_step_of_preset_m_fits_a_gpu():
    """Of 64 clips at once it would not; a pass has the clips that the recipe says."""
    recipe = stage.search_config(suites.suite("kinetics").entry("auto_tsnet"))
    assert saved_gib(preset("m"), recipe.sub_batch) < 20 < saved_gib(preset("m"), 64)
