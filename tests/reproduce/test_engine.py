"""Runs: resumable at any moment, exact, safe to load."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from reproduce.data.datasets import TrainClips
from reproduce.engine.rebuild import config_of, model_of
from reproduce.engine.recipe import schedule
from reproduce.engine.runner import CheckpointError, DivergedError, load_checkpoint, loggers
from reproduce.evidence.verify import _disagreements
from reproduce.lease import held
from reproduce.records import WRONG, RecordError, RunRecord, load_all, ranks, score, sha256
from reproduce.run import execute
from reproduce.spec import RunSpec
from reproduce.suites import suite as suite_named
from reproduce.whole_files import OutputError, write_atomic

ROOT = Path(__file__).resolve().parent.parent.parent


def spec_of(tiny, entry="tsm", seed=0) -> RunSpec:
    """The specification of one run of the tiny suite."""
    suite, train, test = tiny
    return RunSpec.of(suite, suite.entry(entry), seed, train, test)


def with_recipe(spec: RunSpec, **changes) -> RunSpec:
    """The same run by another recipe."""
    return spec.model_copy(update=dict(recipe=spec.recipe | changes))


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory):
    """A finished run: (folder of runs, results, record)."""
    folder = tmp_path_factory.mktemp("done")
    suite, train, test = tiny
    record = execute(suite, suite.entry("tsm"), spec_of(tiny), train, test, folder / "runs", folder / "results")
    return folder / "runs", folder / "results", record


def predictions(spec: RunSpec, runs: Path) -> pd.DataFrame:
    """What a run predicted."""
    return pd.read_parquet(spec.folder(runs) / "predictions.parquet")


def test_record_agrees_with_its_predictions(tiny, done):
    runs, results, record = done
    table = predictions(spec_of(tiny), runs)
    assert record.result.n == len(table) == 8
    assert (record.result.top1, record.result.top5, record.result.failed) == score(table)
    assert table.scores.map(sum).between(0.999, 1.001).all()
    copied = results / "records" / "kinetics-tiny" / "tsm-s0.json"
    assert RunRecord.load(copied) == record
    assert sha256(copied.with_suffix(".parquet")) == record.result.predictions_sha256
    assert abs(record.model.residual) <= 0.02
    assert record.provenance.test[0].versions["torch"] == torch.__version__.split("+")[0]


def test_a_record_is_held_against_its_specification(tiny, done):
    runs, results, record = done
    path, table = results / "records" / "kinetics-tiny" / "tsm-s0.json", predictions(spec_of(tiny), runs)
    assert list(_disagreements(record, path, table)) == []
    model, training = record.model, record.training
    for name, edit in {
        "run": dict(run="deadbeef"),
        "model.params": dict(model=model.model_copy(update=dict(params=1))),
        "model.gmacs": dict(model=model.model_copy(update=dict(gmacs=1.01 * model.gmacs))),
        "training.epochs": dict(training=training.model_copy(update=dict(epochs=300))),
    }.items():
        found = list(_disagreements(record.model_copy(update=edit), path, table))
        assert any(line.startswith(f"{name} is ") for line in found), (name, found)


def test_a_finished_run_is_left_alone(tiny, done):
    runs, results, record = done
    suite, train, test = tiny
    before = {p: p.stat().st_mtime_ns for p in runs.rglob("*") if p.is_file()}
    assert execute(suite, suite.entry("tsm"), spec_of(tiny), train, test, runs, results) == record
    assert {p: p.stat().st_mtime_ns for p in runs.rglob("*") if p.is_file()} == before


def test_the_same_seed_gives_the_same_predictions_and_another_seed_others(tiny, done, tmp_path):
    suite, train, test = tiny
    execute(suite, suite.entry("tsm"), spec_of(tiny), train, test, tmp_path / "runs", tmp_path / "results")
    execute(suite, suite.entry("tsm"), spec_of(tiny, seed=1), train, test, tmp_path / "runs", tmp_path / "results")
    first, again = predictions(spec_of(tiny), done[0]), predictions(spec_of(tiny), tmp_path / "runs")
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    other = predictions(spec_of(tiny, seed=1), tmp_path / "runs")
    assert not first.scores.map(tuple).equals(other.scores.map(tuple))


def test_killed_at_any_moment_it_ends_with_the_same_predictions(tiny, done, kinetics_root, tmp_path):
    """SIGKILL 1, 2, 4, … seconds after it has begun, until it has finished."""
    spec = spec_of(tiny)
    command = [sys.executable, "-m", "reproduce", "run", "kinetics-tiny", "--entries", "tsm"]
    command += ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    command += ["--cache", str(kinetics_root.parent)]
    kills, patience = 0, 1.0
    while True:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        while not spec.folder(tmp_path / "runs").exists() and process.poll() is None:
            time.sleep(0.1)  # imports are not worth a kill
        try:
            output, _ = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills, patience = kills + 1, patience * 2
            continue
        assert process.returncode == 0, output.decode()
        break
    assert kills > 0
    pd.testing.assert_frame_equal(predictions(spec, done[0]), predictions(spec, tmp_path / "runs"), check_exact=True)


def test_resumed_in_the_middle_of_training_it_gives_the_same_predictions(tiny, done, tmp_path, monkeypatch):
    """Stopped by an exception after step 4 of 6, with a checkpoint of step 3."""
    from reproduce.engine.runner import RunHook

    suite, train, test = tiny
    spec, original = spec_of(tiny), RunHook.after_train_iter

    def stop(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == 4:
            raise KeyboardInterrupt
        self.interval = 3
        original(self, runner, batch_idx, data_batch, outputs)

    monkeypatch.setattr(RunHook, "after_train_iter", stop)
    with pytest.raises(KeyboardInterrupt):
        execute(suite, suite.entry("tsm"), spec, train, test, tmp_path / "runs", tmp_path / "results")
    checkpoint = spec.folder(tmp_path / "runs") / "train" / "last.pth"
    assert load_checkpoint(str(checkpoint))["meta"]["iter"] == 3
    steps = []

    def listen(self, runner, batch_idx, data_batch=None, outputs=None):
        steps.append(batch_idx)
        original(self, runner, batch_idx, data_batch, outputs)

    monkeypatch.setattr(RunHook, "after_train_iter", listen)
    execute(suite, suite.entry("tsm"), spec, train, test, tmp_path / "runs", tmp_path / "results")
    assert steps == [3, 4, 5]
    pd.testing.assert_frame_equal(predictions(spec, done[0]), predictions(spec, tmp_path / "runs"), check_exact=True)


@pytest.mark.parametrize("step", [0, 3])
def test_sigterm_saves_the_step_and_the_repeated_command_ends_alike(tiny, done, tmp_path, monkeypatch, step):
    from reproduce.engine.runner import PreemptedError, RunHook

    suite, train, test = tiny
    spec, original = spec_of(tiny), RunHook.before_train_iter

    def terminate(self, runner, batch_idx, data_batch=None):
        original(self, runner, batch_idx, data_batch)
        self.interval = 1000  # no checkpoint but that of the signal
        if batch_idx == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunHook, "before_train_iter", terminate)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(PreemptedError, match=f"tsm-s0 train: stopped by SIGTERM after step {step + 1}; issue"):
        execute(suite, suite.entry("tsm"), spec, train, test, tmp_path / "runs", tmp_path / "results")
    assert signal.getsignal(signal.SIGTERM) == handler, "outside of training it ends the process, as it should"
    checkpoint = spec.folder(tmp_path / "runs") / "train" / "last.pth"
    assert load_checkpoint(str(checkpoint))["meta"]["iter"] == step + 1
    monkeypatch.setattr(RunHook, "before_train_iter", original)
    execute(suite, suite.entry("tsm"), spec, train, test, tmp_path / "runs", tmp_path / "results")
    pd.testing.assert_frame_equal(predictions(spec, done[0]), predictions(spec, tmp_path / "runs"), check_exact=True)


def test_sigterm_between_two_passes_undoes_them_and_the_repeated_command_ends_alike(tiny, tmp_path, monkeypatch, capfd):
    """Batch norm's statistics and the averaged weights too; nothing is saved of a run's first step."""
    from reproduce.engine.runner import PreemptedError, RunHook

    suite, train, test = tiny
    spec = spec_of(tiny, "x3d")
    spec = spec.model_copy(update=dict(recipe=spec.recipe | dict(sub_batch=1, ema=0.01, checkpoint=1000)))
    original, stops = RunHook.before_train_pass, {(0, 1), (1, 3), (4, 2)}

    def terminate(self, runner, step, number):
        original(self, runner, step, number)
        if (step, number) in stops:
            stops.remove((step, number))
            os.kill(os.getpid(), signal.SIGTERM)

    execute(suite, suite.entry("x3d"), spec, train, test, tmp_path / "whole", tmp_path / "results")
    monkeypatch.setattr(RunHook, "before_train_pass", terminate)
    folder = spec.folder(tmp_path / "runs")
    for done in (0, 1, 4):
        if done == 1:  # the last pass of a step: it is finished
            with pytest.raises(PreemptedError, match="x3d-s0 train: stopped by SIGTERM after step 2; issue"):
                execute(suite, suite.entry("x3d"), spec, train, test, tmp_path / "runs", tmp_path / "results")
            continue
        with pytest.raises(PreemptedError, match=f"x3d-s0 train: stopped by SIGTERM after step {done}; issue"):
            execute(suite, suite.entry("x3d"), spec, train, test, tmp_path / "runs", tmp_path / "results")
        checkpoint = folder / "train" / "last.pth"
        assert checkpoint.exists() == bool(done)
        assert not done or load_checkpoint(str(checkpoint))["meta"]["iter"] == done
    execute(suite, suite.entry("x3d"), spec, train, test, tmp_path / "runs", tmp_path / "results")
    whole, parts = (load_file(spec.folder(tmp_path / name) / "model.safetensors") for name in ("whole", "runs"))
    assert all(value.equal(whole[name]) for name, value in parts.items())
    assert "x3d-s0 train: 0/6  ETA ?  pass 1/4" in capfd.readouterr().err


@pytest.mark.parametrize("how", ["keyboard", "SIGTERM"])
def test_an_interrupted_test_goes_on_with_the_missing_parts(tiny, done, tmp_path, monkeypatch, how):
    from reproduce.data.datasets import TestVideos
    from reproduce.engine.runner import PreemptedError, preemptible
    from reproduce.engine.test import Predictions

    suite, train, test = tiny
    spec, original, seen = spec_of(tiny), TestVideos.__getitem__, []
    folder = spec.folder(tmp_path / "runs")
    shutil.copytree(spec.folder(done[0]), folder)
    for name in ("predictions.parquet", "record.json"):
        (folder / name).unlink()

    def read(self, n):
        seen.append(n)
        if len(seen) == 6 and how == "keyboard":
            raise KeyboardInterrupt
        if len(seen) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, n)

    monkeypatch.setattr(TestVideos, "__getitem__", read)
    monkeypatch.setattr(Predictions, "PART", 2)
    handler, raised = signal.getsignal(signal.SIGTERM), KeyboardInterrupt if how == "keyboard" else PreemptedError
    with pytest.raises(raised), preemptible():
        execute(suite, suite.entry("tsm"), spec, train, test, tmp_path / "runs", tmp_path / "results")
    assert signal.getsignal(signal.SIGTERM) == handler
    assert len(list((folder / "test").glob("part-*"))) == 2
    execute(suite, suite.entry("tsm"), spec, train, test, tmp_path / "runs", tmp_path / "results")
    assert seen == [0, 1, 2, 3, 4, 5, 4, 5, 6, 7], "the third part, of which one video was missing, and the fourth"
    assert not list((folder / "test").glob("part-*"))
    pd.testing.assert_frame_equal(predictions(spec, done[0]), predictions(spec, tmp_path / "runs"), check_exact=True)


def test_views_pass_the_network_few_at_a_time(monkeypatch):
    from reproduce.engine import classifier

    net, sizes = torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten(), torch.nn.Linear(3, 5)), []
    net.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    model = classifier.VideoClassifier(net).eval()
    clips = torch.randint(256, (2, 30, 4, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    few = model(clips, torch.zeros(2), mode="predict")
    assert sizes == [32, 28]
    monkeypatch.setattr(classifier, "PIXELS", 3 * 4 * 8 * 8)
    model(clips, torch.zeros(2), mode="predict")
    assert sizes[2:] == [3] * 20
    monkeypatch.setattr(classifier, "PIXELS", 2**30)
    monkeypatch.setattr(classifier, "VIEWS", 1000)
    for a, b in zip(few, model(clips, torch.zeros(2), mode="predict"), strict=True):
        torch.testing.assert_close(a["scores"], b["scores"])


class Bomb:
    """Runs code when unpickled."""

    def __reduce__(self):
        """What pickle executes."""
        return os.system, ("touch exploded",)


def test_a_checkpoint_with_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0")
    torch.save(dict(state_dict={}, bomb=Bomb()), "bomb.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "half.pth").write_bytes((tmp_path / "bomb.pth").read_bytes()[:100])
    for name in ("bomb.pth", "plain.pth", "half.pth"):
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(str(tmp_path / name))
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(str(tmp_path / "none.pth"))
    assert not (tmp_path / "exploded").exists()


def test_divergence_stops_with_the_last_good_checkpoint_named(tiny, tmp_path, monkeypatch):
    from reproduce.engine.classifier import VideoClassifier

    suite, train, test = tiny
    original = VideoClassifier.forward

    def broken(self, clips, label=None, mode="tensor", **info):
        out = original(self, clips, label, mode, **info)
        return dict(loss=out["loss"] * float("nan")) if mode == "loss" else out

    monkeypatch.setattr(VideoClassifier, "forward", broken)
    with pytest.raises(DivergedError, match=r"the loss is nan at step 1; lower .*; there is no checkpoint yet"):
        execute(suite, suite.entry("tsm"), spec_of(tiny), train, test, tmp_path / "runs", tmp_path / "results")


def test_schedule_rises_and_falls_to_zero(tiny):
    suite, train, _ = tiny
    config = suite.config(suite.entry("x3d"))
    steps, (rise, fall) = schedule(config, len(train.videos))
    assert steps == config.epochs * len(train.videos) // config.batch
    assert (rise["begin"], rise["end"], fall["end"]) == (0, fall["begin"], steps)


def test_batch_norm_is_not_decayed(tiny):
    from mmengine.optim import build_optim_wrapper

    from reproduce.engine.classifier import VideoClassifier

    suite, *_ = tiny
    config = suite.config(suite.entry("auto_tsnet_uniform"))
    model = VideoClassifier(config.net)
    groups = build_optim_wrapper(model, config.optim_wrapper).optimizer.param_groups
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            assert {decay[id(p)] for p in module.parameters()} == {0.0}, name
        elif isinstance(module, torch.nn.Conv3d):
            assert decay[id(module.weight)] > 0, name


def test_nothing_half_written_is_ever_read(tmp_path):
    path = tmp_path / "sub" / "file.txt"
    write_atomic(path, lambda p: p.write_text("whole"))

    def fails(p):
        p.write_text("ha")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"cannot write .*file\.txt: No space left on device; free space"):
        write_atomic(path, fails)
    assert path.read_text() == "whole"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
    (tmp_path / "occupied").write_text("")
    with pytest.raises(OutputError, match="occupied"):
        write_atomic(tmp_path / "occupied" / "x", lambda p: p.write_text(""))


def test_a_full_disk_is_one_clear_error(tmp_path):
    """A file size limit stands in for the full disk: the write itself fails, in another process."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from reproduce.whole_files import write_json\n"
        "write_json(Path(sys.argv[1]), ['x' * 100_000])\n"
    )
    command = [sys.executable, "-B", "-c", code, str(tmp_path / "record.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert "OutputError: cannot write" in done.stderr.splitlines()[-1]
    assert "record.json: File too large; free space" in done.stderr
    assert not list(tmp_path.iterdir())


def test_records_are_validated(done, tmp_path):
    _, results, _ = done
    source = results / "records" / "kinetics-tiny" / "tsm-s0.json"
    good = json.loads(source.read_text())
    for change, message in (
        ({"seed": "many"}, "seed"),
        ({"surprise": 1}, "surprise"),
        ({"schema_version": 99}, "schema version 99"),
    ):
        (tmp_path / "r.json").write_text(json.dumps(good | change))
        with pytest.raises(RecordError, match=message):
            load_all(tmp_path)
    for damaged in (source.read_bytes()[:-20], b"\xff" + source.read_bytes()):
        (tmp_path / "r.json").write_bytes(damaged)
        with pytest.raises(RecordError, match=r"r\.json cannot be read"):
            load_all(tmp_path)


def test_hashes_name_runs_and_unknown_names_list_the_known(tiny):
    suite, train, test = tiny
    runs = [spec_of(tiny, entry, seed) for seed in (0, 1) for entry in ("tsm", "x3d")]
    assert [r.id for r in runs] == ["tsm-s0", "x3d-s0", "tsm-s1", "x3d-s1"]
    assert len({r.hash for r in runs}) == 4
    assert len({r.hash for r in (runs[0], spec_of(tiny))}) == 1
    fewer = RunSpec.of(suite, suite.entry("tsm"), 0, train.subset(train.videos[1:]), test)
    assert fewer.hash != runs[0].hash, "other videos, another run"
    with pytest.raises(ValueError, match="has no entry 'resnet'; known: slowfast, x3d"):
        suite.entry("resnet")
    with pytest.raises(ValueError, match="unknown suite 'imagenet'; known: kinetics"):
        suite_named("imagenet")


def test_averaged_weights_are_what_is_tested(tiny, done, tmp_path):
    suite, train, test = tiny
    plain = spec_of(tiny)
    spec = with_recipe(plain, ema=0.01)
    execute(suite, suite.entry("tsm"), spec, train, test, tmp_path / "runs", tmp_path / "results")
    last, average = (
        load_file(s.folder(runs) / "model.safetensors") for s, runs in ((plain, done[0]), (spec, tmp_path / "runs"))
    )
    name = next(n for n, p in last.items() if p.dim() == 4)
    torch.manual_seed(spec.seed)
    first = model_of(config_of(spec)).net.state_dict()[name]
    moved, moved_average = (last[name] - first).norm(), (average[name] - first).norm()
    assert 0 < moved_average < 0.8 * moved, "the average lags behind"


def test_time_is_added_up_over_sessions(tiny, tmp_path, monkeypatch):
    from reproduce.engine.runner import RunHook

    suite, train, test = tiny
    spec, original = spec_of(tiny), RunHook.after_train_iter

    def stop(self, runner, batch_idx, data_batch=None, outputs=None):
        original(self, runner, batch_idx, data_batch, outputs)
        if batch_idx == 2:
            time.sleep(1.0)  # after the checkpoint: this second is lost, not counted
            raise KeyboardInterrupt

    monkeypatch.setattr(RunHook, "after_train_iter", stop)
    with pytest.raises(KeyboardInterrupt):
        execute(suite, suite.entry("tsm"), spec, train, test, tmp_path / "runs", tmp_path / "results")
    clock = spec.folder(tmp_path / "runs") / "train" / "clock.json"
    first = json.loads(clock.read_text())["a_seconds"]
    monkeypatch.setattr(RunHook, "after_train_iter", original)
    start = time.monotonic()
    record = execute(suite, suite.entry("tsm"), spec, train, test, tmp_path / "runs", tmp_path / "results")
    assert first < record.training.wall_s < first + time.monotonic() - start


def test_ties_and_scores_that_are_not_finite_are_wrong():
    table = pd.DataFrame(
        dict(
            id=list("abcd"),
            label=[0, 1, 0, 0],
            error=["", "", "", "b.mp4: gone"],
            scores=[np.array([0.9, 0.1]), np.array([0.5, 0.5]), np.array([np.nan, np.nan]), np.array([1.0, 0.0])],
        )
    )
    assert ranks(table).tolist() == [0, 1, WRONG, WRONG]
    assert score(table)[:2] == (1, 2), "a failed video is wrong at top-5, too, however few the classes"
    assert score(table)[2] == ["d"]


def test_two_processes_do_not_share_a_run(tiny, tmp_path):
    suite, train, test = tiny
    with held(spec_of(tiny).folder(tmp_path)), pytest.raises(OutputError, match="another process is at work on"):
        execute(suite, suite.entry("tsm"), spec_of(tiny), train, test, tmp_path, tmp_path / "results")


def test_precise_batch_norm_is_that_of_the_final_weights(tiny, tmp_path):
    suite, train, test = tiny
    plain = spec_of(tiny)
    spec = with_recipe(plain, precise_bn=2)
    assert spec.hash != plain.hash
    execute(suite, suite.entry("tsm"), spec, train, test, tmp_path / "runs", tmp_path / "results")
    state = load_file(spec.folder(tmp_path / "runs") / "model.safetensors")
    counts = {int(v) for k, v in state.items() if k.endswith("num_batches_tracked")}
    assert counts == {2}


def test_batch_norm_is_made_precise_for_the_averaged_weights(tiny, done, tmp_path):
    """Those that are tested: statistics by hand of the averaged weights on the first two batches of the stream."""
    suite, train, test = tiny
    plain = spec_of(tiny)
    spec = with_recipe(plain, ema=0.3, precise_bn=2)
    execute(suite, suite.entry("tsm"), spec, train, test, tmp_path / "runs", tmp_path / "results")
    state = load_file(spec.folder(tmp_path / "runs") / "model.safetensors")
    config = config_of(spec)
    model = model_of(config)
    model.net.load_state_dict(state)
    clips = TrainClips(train, suite.protocol, spec.seed)
    batches = [torch.stack([clips[b * config.batch + i]["clips"] for i in range(config.batch)]) for b in range(2)]
    seen = []
    norm = next(m for m in model.net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm))
    norm.register_forward_hook(lambda module, ins, out: seen.append(ins[0].detach()))
    model.train()
    for batch in batches:
        model(batch, mode="tensor")
    dims = [0, *range(2, seen[0].dim())]
    name = next(n for n, m in model.net.named_modules() if m is norm)
    expected = torch.stack([x.mean(dims) for x in seen]).mean(0)
    torch.testing.assert_close(state[f"{name}.running_mean"], expected, rtol=1e-3, atol=1e-4)
    last = load_file(plain.folder(done[0]) / "model.safetensors")
    assert not torch.equal(last[f"{name}.weight"], state[f"{name}.weight"])


def test_tensorboard_is_the_default_and_other_logs_are_known_by_name(tiny, done, tmp_path):
    assert list((spec_of(tiny).folder(done[0]) / "train").rglob("events.out.tfevents*"))
    assert [b["type"].__name__ for b in loggers("tensorboard", tmp_path)] == ["TensorboardVisBackend"]
    with pytest.raises(ValueError, match="log='visdom': 'visdom' is unknown; known: tensorboard, wandb, mlflow"):
        loggers("visdom", tmp_path)


def test_a_log_whose_package_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("reproduce.engine.runner.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"log='wandb' needs wandb: pip install wandb, or take it out of the recipe"):
        loggers("wandb", tmp_path)


def test_workers_checkpoints_and_logs_do_not_make_another_run(tiny):
    spec = spec_of(tiny)
    assert with_recipe(spec, log="tensorboard,wandb").hash == spec.hash
    assert with_recipe(spec, workers=7).hash == spec.hash
    assert with_recipe(spec, batch=8).hash != spec.hash
