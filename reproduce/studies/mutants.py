"""Do the tests notice? Faults planted one by one, each expected to be killed by a test that is named beside it.

    python -m reproduce.studies.mutants

A mutant is one replacement in one file. It is planted in a copy of the tree, never in the checkout, and its test is run
there: killed when that fails, survived when it passes. The test must pass on the copy as it is. What is done is kept in
the record, and is done again only where the fault, the file or the test's file has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from reproduce.evidence.reference import own_option
from reproduce.progress import Progress
from reproduce.records import session
from reproduce.whole_files import write_json

ROOT = Path(__file__).resolve().parents[2]
TREE = ("autotsnet", "baselines", "configs", "reproduce", "results", "tests", "Makefile", "README.md", "pyproject.toml")
LIMIT = 900.0  # seconds of a test
FAILED = 1  # pytest's exit code: tests ran, and some failed


class MutantError(ValueError):
    """A mutant cannot be planted, or its test proves nothing."""


@dataclass(frozen=True)
class Mutant:
    """A planted fault.

    Attributes:
        name: what is wrong then.
        file: from the root of the checkout.
        old: text that the file holds once.
        new: what stands there instead.
        test: what is expected to fail: a file of tests, or one of its tests after ``::``.
    """

    name: str
    file: str
    old: str
    new: str
    test: str

    def planted(self, root: Path) -> str:
        """The text of the file with the fault.

        Raises:
            MutantError: the file does not hold the old text exactly once.
        """
        path = root / self.file
        text = path.read_text() if path.exists() else ""
        if text.count(self.old) != 1:
            raise MutantError(
                f"mutant {self.name!r}: {self.file} holds {self.old!r} {text.count(self.old)} times, not once; "
                f"bring it up to date in {Path(__file__).name}"
            )
        return text.replace(self.old, self.new)

    def key(self, root: Path) -> str:
        """Of the fault, its file and its test."""
        parts = [*asdict(self).values(), (root / self.file).read_text()]
        parts.append((root / self.test.partition("::")[0]).read_text())
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A copy of the tree, gone afterwards."""
    with TemporaryDirectory(prefix="mutants-") as folder:
        for name in TREE:
            if (root / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
                shutil.copytree(root / name, Path(folder, name), ignore=ignored)
            elif (root / name).exists():
                shutil.copy2(root / name, folder)
        yield Path(folder)


def passes(test: str, folder: Path, limit: float = LIMIT) -> bool:
    """Whether a test passes in a folder.

    Raises:
        MutantError: it does neither pass nor fail: it cannot be collected, or does not end.
    """
    options = ["-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider", "-x", "-q", "-m", "not slow"]
    command = [sys.executable, "-m", "pytest", *options, test]
    quick = dict(OMP_NUM_THREADS="1", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTHONDONTWRITEBYTECODE="1")
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **quick, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=limit)
    except BaseException as error:
        os.killpg(process.pid, 9)  # ranks and workers too
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise MutantError(f"{test} has not ended after {limit:.0f} s") from error
        raise
    if process.returncode not in (0, FAILED):
        raise MutantError(f"{test} cannot be run: {said.strip().splitlines()[-1]}")
    return process.returncode == 0


def judged(mutant: Mutant, folder: Path, limit: float = LIMIT) -> dict:
    """Plant a fault in a copy of the tree, run its test, and take the fault out again."""
    path = folder / mutant.file
    sound, start = path.read_text(), time.monotonic()
    try:
        path.write_text(mutant.planted(folder))
        verdict = "survived" if passes(mutant.test, folder, limit) else "killed"
    finally:
        path.write_text(sound)
    return asdict(mutant) | dict(verdict=verdict, seconds=round(time.monotonic() - start, 1))


def study(mutants: Sequence[Mutant], out: Path, root: Path = ROOT, limit: float = LIMIT) -> list[dict]:
    """Judge every mutant that the record does not have as it is now; the record is written after each.

    Raises:
        MutantError: see ``Mutant.planted`` and ``passes``; or a test fails without any fault.
    """
    for mutant in mutants:
        mutant.planted(root)
    known = {row["key"]: row for row in json.loads(out.read_text())["mutants"]} if out.exists() else {}
    keys = [mutant.key(root) for mutant in mutants]
    todo = [(key, mutant) for key, mutant in zip(keys, mutants, strict=True) if key not in known]
    sound: set[str] = set()
    with scratch(root) as folder, Progress("mutants", len(mutants), len(mutants) - len(todo)) as progress:
        for key, mutant in todo:
            if mutant.test not in sound and not passes(mutant.test, folder, limit):
                raise MutantError(f"{mutant.test} fails without any fault; mend it first")
            sound.add(mutant.test)
            here = session()
            known[key] = judged(mutant, folder, limit) | dict(key=key, commit=here.commit, dirty=here.dirty)
            rows = [known[k] for k in keys if k in known]
            write_json(out, dict(mutants=rows, of=len(mutants), killed=_killed(rows)))
            progress.step(note=f"{known[key]['verdict']}: {mutant.name}")
    return [known[k] for k in keys]


def _killed(rows: Sequence[dict]) -> int:
    return sum(row["verdict"] == "killed" for row in rows)


LOOP, MODELS = "tests/autotsnet/search/test_loop.py", "tests/autotsnet/test_models.py"
ESTIMATOR, STRATEGIES = "tests/autotsnet/search/test_estimator.py", "tests/autotsnet/search/test_strategies.py"
SPACE, DISTRIBUTION = "tests/autotsnet/test_space.py", "tests/autotsnet/search/test_distribution.py"
LAYERS = "tests/autotsnet/test_layers.py"
HALVES = "tests/autotsnet/search/test_progressive.py::test_halves_are_disjoint_whole_and_stratified"
FAMILIES, COUNTS = "tests/baselines/test_families.py", "tests/reproduce/test_macs.py::test_published_counts"
EVOLUTION, PVNAS = "tests/baselines/assemblenet/test_evolution.py", "tests/baselines/pvnas/test_pvnas.py"
PROTOCOL, CLASSIFIER = "tests/reproduce/test_protocol.py", "tests/reproduce/test_classifier.py"
STREAM, ENGINE = "tests/reproduce/data/test_stream.py", "tests/reproduce/test_engine.py"
TIES = f"{ENGINE}::test_ties_and_scores_that_are_not_finite_are_wrong"
STATISTICS, TEMPORAL = "tests/reproduce/evidence/test_statistics.py", "tests/reproduce/evidence/test_temporal.py"
LAYOUTS, DECODE = "tests/reproduce/data/test_layouts.py", "tests/reproduce/data/test_decode.py"
MACS, BUDGET = "tests/reproduce/test_macs.py", "tests/reproduce/test_budget.py"

_LOOP, _PROTOCOL = "autotsnet/search/progressive.py", "reproduce/protocol.py"
_ESTIMATOR, _STRATEGIES = "autotsnet/search/estimator.py", "autotsnet/search/strategies.py"
_ATTENTION, _SUPERNET = "autotsnet/layers/attention.py", "autotsnet/models/supernet.py"
_DATASETS, _SLOWFAST, _X3D = "reproduce/data/datasets.py", "baselines/slowfast.py", "baselines/x3d.py"
_STATISTICS, _RECORDS = "reproduce/evidence/statistics.py", "reproduce/records.py"

MUTANTS: tuple[Mutant, ...] = tuple(
    Mutant(*fields)
    for fields in (
        # ---- the search loop and its parts
        (
            "the search seeks the least likely",
            "autotsnet/search/judges.py",
            "-sum(map(mean_over_ranks, row))",
            "sum(map(mean_over_ranks, row))",
            LOOP,
        ),
        (
            "alpha learns on the training half",
            _LOOP,
            "runner=runner, held_out=held_out, space",
            "runner=runner, held_out=self.dataloader, space",
            LOOP,
        ),
        (
            "both halves are one",
            "reproduce/search/supernet.py",
            "held_out=stream(alpha,",
            "held_out=stream(weights,",
            HALVES,
        ),
        (
            "the halves share their videos",
            "reproduce/search/method.py",
            "second += [mine[i] for i in order[1::2]]",
            "second += [mine[i] for i in order[::2]]",
            HALVES,
        ),
        (
            "shared weights follow the worst sample",
            _LOOP,
            "step.backward(parts, mean_over_ranks)",
            "step.backward(parts, lambda loss: -mean_over_ranks(loss))",
            LOOP,
        ),
        (
            "a stage keeps its worst finalist",
            _LOOP,
            "judged.nan_to_num(nan=-math.inf).argmax()",
            "judged.nan_to_num(nan=math.inf).argmin()",
            LOOP,
        ),
        ("only near-twins of the mode are judged", _LOOP, "share = n // 2 if", "share = 0 if", LOOP),
        (
            "finalists need not use the budget",
            _LOOP,
            "uses = fits & (costs >= self.options.use_budget * self.target)",
            "uses = fits",
            LOOP,
        ),
        (
            "finalists may be over the budget",
            _LOOP,
            "fits = costs <= self.target",
            "fits = costs <= 2 * self.target",
            LOOP,
        ),
        (
            "streams are searched with both streams' costs",
            _LOOP,
            "self.restriction.expand(codes), self.stage.alone)",
            "self.restriction.expand(codes))",
            LOOP,
        ),
        (
            "the cost term rewards cost",
            _ESTIMATOR,
            "scaled.softmax(0) - beta *",
            "scaled.softmax(0) + beta *",
            ESTIMATOR,
        ),
        ("one sample too many", _ESTIMATOR, "math.floor(lam * entropy + 1e-9)", "math.ceil(lam * entropy)", ESTIMATOR),
        (
            "gradients of earlier samples are not rescaled",
            _ESTIMATOR,
            "self._scale(before, shrink)",
            "self._scale(before, 1.0)",
            ESTIMATOR,
        ),
        (
            "joint logits in the order of another variable",
            "autotsnet/search/distribution.py",
            "(left[:, None] + right).flatten()",
            "(left + right[:, None]).flatten()",
            DISTRIBUTION,
        ),
        (
            "beta falls while the samples are over budget",
            "autotsnet/search/fpnas.py",
            "(self._expected_gmacs / self.target - 1))",
            "(1 - self._expected_gmacs / self.target))",
            STRATEGIES,
        ),
        (
            "the entropy term grows instead of fading",
            "autotsnet/search/fpnas.py",
            "left = 1 - step / options.anneal",
            "left = step / options.anneal",
            STRATEGIES,
        ),
        (
            "tournaments are won by the least fit",
            _STRATEGIES,
            "winners = contestants.gather(1, fitness[contestants].argmax(1",
            "winners = contestants.gather(1, fitness[contestants].argmin(1",
            STRATEGIES,
        ),
        (
            "the archive keeps the least likely",
            _STRATEGIES,
            "key=lambda entry: -entry[1][0])",
            "key=lambda entry: entry[1][0])",
            STRATEGIES,
        ),
        # ---- networks, layers, costs
        (
            "slices are taken from the end",
            "autotsnet/layers/elastic.py",
            "return tensor.narrow(axis, start + offset, size)",
            "return tensor.narrow(axis, start + largest - size - offset, size)",
            MODELS,
        ),
        (
            "precise batch norm is a running mean",
            _SUPERNET,
            "m.momentum = None  # cumulative mean",
            "m.momentum = 0.1",
            MODELS,
        ),
        (
            "fair windows are open while a subnet is extracted",
            _SUPERNET,
            "        with self.prefix_windows():\n            net.load",
            "        if True:\n            net.load",
            MODELS,
        ),
        (
            "fair windows are open while batch norm is recalibrated",
            _SUPERNET,
            "torch.no_grad(), windows:",
            "torch.no_grad():",
            MODELS,
        ),
        (
            "a lateral connection costs half",
            "autotsnet/cost.py",
            "weights = down * 2 * c_f + 2 * c_f * mid",
            "weights = down * c_f + 2 * c_f * mid",
            SPACE,
        ),
        (
            "attention between frames costs one product",
            "autotsnet/cost.py",
            "frames * frames * d * (1 + plane)",
            "frames * frames * d * plane",
            SPACE,
        ),
        ("non-local products are over channels", _ATTENTION, "/ key.shape[2]", "/ key.shape[1]", MODELS),
        (
            "GloRe adds what it should subtract",
            "autotsnet/layers/glore.py",
            "(graph - mixed)",
            "(graph + mixed)",
            LAYERS,
        ),
        (
            "frames attend without a scale",
            _ATTENTION,
            "(query @ key / key.shape[1] ** 0.5)",
            "(query @ key)",
            LAYERS,
        ),
        (
            "slow frames are added to other fast frames",
            "autotsnet/layers/fusion.py",
            ".repeat_interleave(self.alpha, dim=2)",
            ".repeat(1, 1, self.alpha, 1, 1)",
            LAYERS,
        ),
        (
            "a block has no residual",
            "autotsnet/layers/mbconv3d.py",
            "return x + y if self.residual else y",
            "return y",
            LAYERS,
        ),
        (
            "the slow stream misses the last frame",
            "autotsnet/models/two_stream.py",
            "(frames - 1) * i // max(count - 1, 1)",
            "frames * i // count",
            MODELS,
        ),
        # ---- baselines
        (
            "the shift goes the other way",
            "baselines/tsm.py",
            "out[:, :-1, :fold] = x[:, 1:, :fold]",
            "out[:, 1:, :fold] = x[:, :-1, :fold]",
            f"{FAMILIES}::test_the_shift_is_mmaction2s_in_any_memory_format",
        ),
        (
            "every block of a ResNet-101 shifts",
            "baselines/tsm.py",
            "every=2 if max(blocks) >= 23 else 1",
            "every=1",
            f"{FAMILIES}::test_every_block_shifts_but_in_a_resnet_101_every_second",
        ),
        (
            "the slow pathway is temporal too early",
            _SLOWFAST,
            "0 if i < 2 else n for i, n in enumerate(temporal_blocks)",
            "0 if i < 1 else n for i, n in enumerate(temporal_blocks)",
            COUNTS,
        ),
        (
            "the slow pathway sees every alpha-th frame",
            _SLOWFAST,
            "return slow_frames(clips, self.alpha)",
            "return clips[:, :, :: self.alpha]",
            f"{FAMILIES}::test_slow_frames_include_both_ends_but_in_mmaction2",
        ),
        (
            "squeeze and excitation in the other blocks",
            _X3D,
            "SE_RATIO if i % 2 == 0 else None",
            "SE_RATIO if i % 2 == 1 else None",
            "tests/baselines/test_checkpoints.py::test_same_weights_same_logits_and_the_same_bits_there_and_back",
        ),
        (
            "no activation before X3D's classifier",
            _X3D,
            "x = self.relu(self.lin5(x)).flatten(1)",
            "x = self.lin5(x).flatten(1)",
            "tests/baselines/test_checkpoints.py",
        ),
        (
            "weak connections are kept",
            "baselines/assemblenet/evolution.py",
            "if weight >= threshold",
            "if weight <= threshold",
            EVOLUTION,
        ),
        (
            "strong connections are pruned",
            "baselines/assemblenet/connections.py",
            "key=weights.get, reverse=True",
            "key=weights.get",
            "tests/reproduce/test_baseline_searches.py",
        ),
        (
            "both rates fall together",
            "baselines/pvnas/gradient.py",
            "1 - wave if self.diverse",
            "1 + wave if self.diverse",
            PVNAS,
        ),
        (
            "the cost term pushes away from the target",
            "baselines/pvnas/gradient.py",
            "torch.autograd.grad(self.cost_weight * cost,",
            "torch.autograd.grad(-self.cost_weight * cost,",
            PVNAS,
        ),
        # ---- data and protocol
        (
            "dense training clips start at frame 0",
            _PROTOCOL,
            "np.array([rng.integers(slack + 1)])",
            "np.array([0])",
            PROTOCOL,
        ),
        (
            "segments give their first frame in training",
            _PROTOCOL,
            "np.arange(self.frames) + rng.random(self.frames)",
            "np.arange(self.frames) + 0 * rng.random(self.frames)",
            PROTOCOL,
        ),
        (
            "a centre crop at the edge",
            _PROTOCOL,
            "places = (0.5,) if self.crops == 1",
            "places = (0.0,) if self.crops == 1",
            PROTOCOL,
        ),
        (
            "what must not be flipped is flipped",
            _PROTOCOL,
            "bool(rng.random() < self.flip) and may_flip",
            "bool(rng.random() < self.flip)",
            PROTOCOL,
        ),
        (
            "the label does not follow a flip",
            _DATASETS,
            "label=partner if flipped else video.label",
            "label=video.label",
            f"{DECODE}::test_the_label_follows_a_flip",
        ),
        (
            "every epoch in the order of the first",
            _DATASETS,
            "self.sampler, self.seed, epoch, self.epochs",
            "self.sampler, self.seed, 0, self.epochs",
            STREAM,
        ),
        (
            "a class of 20 training videos is few",
            "reproduce/data/longtail.py",
            "n < FEW",
            "n <= FEW",
            "tests/reproduce/data/test_longtail.py::test_accuracies_by_groups_of_training_counts",
        ),
        (
            "LWS leaves the bias as it is",
            "reproduce/engine/retune.py",
            "self.scale * (x @ self.weight.T + self.bias)",
            "self.scale * (x @ self.weight.T) + self.bias",
            "tests/reproduce/test_retune.py::test_classifiers_on_features_that_are_known",
        ),
        (
            "every epoch with the crops of the first",
            _DATASETS,
            "np.random.default_rng((self.seed, 1, n))",
            "np.random.default_rng((self.seed, 1, i))",
            STREAM,
        ),
        (
            "ranks train on the same clips",
            _DATASETS,
            "(step * self.world + self.rank) * self.batch",
            "step * self.world * self.batch",
            STREAM,
        ),
        (
            "videos in the order of the annotation",
            "reproduce/data/manifest.py",
            "tuple(sorted(self.videos, key=lambda v: v.id))",
            "tuple(self.videos)",
            f"{LAYOUTS}::test_rows_in_another_order_are_the_same_data_set",
        ),
        (
            "what has no mirrored class is flipped",
            "reproduce/data/ssv2.py",
            "tuple(index.get(m, -1) for m in mirrored)",
            "tuple(index.get(m, i) for i, m in enumerate(mirrored))",
            f"{LAYOUTS}::test_flips_exchange_left_and_right",
        ),
        # ---- training, test, measuring
        (
            "scores are the first view's",
            "reproduce/engine/classifier.py",
            ".unflatten(0, clips.shape[:2]).mean(1)",
            ".unflatten(0, clips.shape[:2])[:, 0]",
            CLASSIFIER,
        ),
        (
            "labels are not smoothed",
            "reproduce/engine/classifier.py",
            "label_smoothing=self.label_smoothing)",
            "label_smoothing=0.0)",
            CLASSIFIER,
        ),
        (
            "batch norm is made precise for the last weights",
            "reproduce/engine/runner.py",
            "self.ema.ema_model.module if self.ema else runner.model",
            "runner.model",
            f"{ENGINE}::test_batch_norm_is_made_precise_for_the_averaged_weights",
        ),
        (
            "the rate falls as the batch grows",
            "reproduce/engine/recipe.py",
            '*= config.batch / config.get("reference_batch", config.batch)',
            '/= config.batch / config.get("reference_batch", config.batch)',
            "tests/reproduce/test_engine_ranks.py::test_the_rate_follows_the_batch_from_the_one_it_is_stated_for",
        ),
        ("flops for multiply-accumulates", "reproduce/measure/macs.py", "int(flop) // 2", "int(flop)", MACS),
        (
            "an unknown operator on features and weights is free",
            "reproduce/measure/macs.py",
            "elif any(touching):",
            "elif all(touching):",
            MACS,
        ),
        (
            "a missed budget counts as matched",
            "reproduce/budget.py",
            "matched=abs(residual) <= tolerance",
            "matched=residual <= tolerance",
            f"{BUDGET}::test_one_knob_is_solved_as_well_as_by_trying_all",
        ),
        (
            "the residual has the other sign",
            "reproduce/budget.py",
            'residual = solved["gmacs"] / gmacs - 1',
            'residual = 1 - solved["gmacs"] / gmacs',
            f"{BUDGET}::test_without_a_knob_to_turn_the_miss_is_reported",
        ),
        (
            "a reversed clip is as it was",
            "reproduce/evidence/temporal.py",
            "np.arange(frames)[::-1].copy()",
            "np.arange(frames)",
            f"{TEMPORAL}::test_orders",
        ),
        # ---- records and statistics
        ("a tie is won", _RECORDS, "(scores >= right)", "(scores > right)", TIES),
        (
            "a video that failed is scored",
            _RECORDS,
            'usable = np.flatnonzero(predictions.error == "")',
            "usable = np.arange(len(predictions))",
            TIES,
        ),
        (
            "Holm's factors rise",
            _STATISTICS,
            "np.arange(len(order), 0, -1)",
            "np.arange(1, len(order) + 1)",
            f"{STATISTICS}::test_holm_against_its_steps",
        ),
        (
            "McNemar's test counts what both have wrong",
            _STATISTICS,
            "((a == 0) & (b == 1)).sum()",
            "((a == 0) & (b == 0)).sum()",
            f"{STATISTICS}::test_mcnemar_against_the_binomial",
        ),
        (
            "a specification is held against nothing",
            "reproduce/evidence/verify.py",
            'yield "run", record.run, spec.hash',
            'yield "run", record.run, record.run',
            f"{ENGINE}::test_a_record_is_held_against_its_specification",
        ),
        (
            "a living holder is robbed",
            "reproduce/lease.py",
            "and age < expiry:",
            "and age > expiry:",
            "tests/reproduce/test_lease.py",
        ),
        (
            "files are written in place",
            "reproduce/whole_files.py",
            'temporary = path.with_name(f".{path.name}.{os.getpid()}.part")',
            "temporary = path",
            f"{ENGINE}::test_nothing_half_written_is_ever_read",
        ),
    )
)


def main() -> None:
    """Judge all mutants and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="those whose name holds this text")
    default = own_option(parser, "--out", "studies/mutants.json")
    options = parser.parse_args()
    if options.only and options.out == default:
        parser.error("--only: name another file by --out; the study's own is of all mutants")
    rows = study([m for m in MUTANTS if options.only in m.name], options.out)
    for row in rows:
        if row["verdict"] != "killed":
            print(f"survived: {row['name']} ({row['file']}), expected to be killed by {row['test']}")
    print(f"killed: {_killed(rows)} of {len(rows)}")


if __name__ == "__main__":
    main()
