"""The command line: ``python -m reproduce --help``."""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from reproduce.data.manifest import Manifest
    from reproduce.suites import Suite

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Matched-compute benchmark of video models. Example: python -m reproduce run kinetics",
)
data_app = typer.Typer(no_args_is_help=True, help="Data sets. Example: python -m reproduce data generate kinetics")
app.add_typer(data_app, name="data")

RunsOption = Annotated[Path, typer.Option("--runs", envvar="RUNS", help="Folder of run folders (state, checkpoints).")]
ResultsOption = Annotated[
    Path, typer.Option("--results", envvar="RESULTS", help="Folder of records and tables of one's own.")
]
CacheOption = Annotated[Path, typer.Option("--cache", envvar="CACHE", help="Folder of the embedded videos.")]
SUITE = "kinetics, ssv2, <layout>-<tiny|quick|full>, or my_suite.py."
SuiteArgument = Annotated[str, typer.Argument(metavar="SUITE", help=SUITE)]
_RANK = os.environ.get("RANK", "")
RANK = int(_RANK) if _RANK.isdecimal() else 0  # of several processes of one run, the first speaks


def choose(name: str) -> str:
    """The suite behind a name: without a copy, ``kinetics`` and ``ssv2`` are their embedded twins, under a banner.

    A budget that differs from the suite's, ``kinetics@9.4``, is the same multiple of the twin's.
    """
    from reproduce.suites import SUITES, at_budget, suite

    s = suite(name)
    base = SUITES[s.name.partition("@")[0]]
    embedded = f"{base.name}-{os.environ.get('EMBEDDED', 'quick')}"
    if s.root and not os.environ.get(s.root) and embedded in SUITES:
        twin = suite(embedded)
        twin = at_budget(twin, twin.gmacs * s.gmacs / base.gmacs)
        if RANK:
            return twin.name
        lines = [
            f"{s.root} is not set: this runs on the embedded synthetic videos, not on {s.dataset}.",
            "The numbers compare models under one protocol; they say nothing about the real data set.",
        ]
        if "@" in name:
            lines.append(f"A budget of {s.gmacs:g} GMACs there is one of {twin.gmacs:g} for these small clips.")
        width = max(map(len, lines))
        frame = "─" * (width + 2)
        body = "\n".join(f"│ {line:<{width}} │" for line in lines)
        typer.echo(f"┌{frame}┐\n{body}\n└{frame}┘", err=True)
        return twin.name
    return s.ref


GpusOption = Annotated[
    int, typer.Option("--gpus", envvar="GPUS", min=0, help="GPUs per run and machine; 0: one, or the CPU.")
]


def on_ranks(gpus: int, runs: Path) -> bool:
    """Whether this process is to do the work; if not, ranks that this call started have done it."""
    from reproduce.engine.distributed import check_gpus, launched, start
    from reproduce.launch.torchrun import launch, machines_of_step

    machines = machines_of_step()
    if not launched() and max(1, gpus) * machines > 1:
        check_gpus(gpus)
        launch(max(1, gpus), sys.argv[1:], runs / "ranks", machines)
        return False
    start()
    return True


def leave_ranks(failed: int = 0) -> None:
    """Undo `on_ranks`, without an import where it was never called; a rank that `failed` ends here with that code."""
    if "reproduce.engine.distributed" in sys.modules:
        sys.modules["reproduce.engine.distributed"].leave(failed)


@app.callback()
def _first(
    context: typer.Context,
    own: Annotated[
        list[Path] | None, typer.Option("--suite", help="File of a suite of your own, then known by its name.")
    ] = None,
) -> None:
    check_environment(context.invoked_subcommand or "")
    if own:
        from reproduce.suites import suite

        for path in own:
            suite(str(path))


@app.command()
def run(
    suite_name: SuiteArgument,
    entries: Annotated[
        str, typer.Option(envvar="MODELS", help='Comma-separated entries, or "all"; default: all but the optional.')
    ] = "",
    seeds: Annotated[str, typer.Option(envvar="SEEDS", help="Comma-separated seeds.")] = "0",
    variant: Annotated[int, typer.Option(help="Only this of an entry's architectures; -1: all of them.")] = -1,
    gpus: GpusOption = 0,
    jobs: Annotated[
        int,
        typer.Option(envvar="JOBS", min=0, help="Runs at a time without a GPU; 0: as many as there is room for."),
    ] = 1,
    engine: Annotated[str, typer.Option(envvar="ENGINE", help="local, or ray: the cluster of RAY_ADDRESS.")] = "local",
    strict: Annotated[
        bool, typer.Option("--strict", help="End with code 1 where a row is not reproduced, or none has a reference.")
    ] = False,
    runs: RunsOption = Path("runs"),
    results: ResultsOption = Path("my-results"),
    cache: CacheOption = Path(".cache"),
) -> None:
    """Train, test and measure every entry of a suite, print its table, and say which rows reproduce the reference.

    Issue it again after any interruption.

    Example: python -m reproduce run kinetics --entries x3d,tsm --seeds 0,1,2 --gpus 8

    A suite of your own is a file: python -m reproduce run configs/examples/my_suite.py
    """
    from reproduce.evidence import tables
    from reproduce.evidence.reference import REFERENCE, check_reference
    from reproduce.evidence.reproduction import reproduction
    from reproduce.launch import cluster, local, parallel
    from reproduce.suites import suite

    numbers = _integers("--seeds", seeds)
    check_folders(runs, results, cache)
    if engine not in ("local", "ray"):
        raise ValueError(f"unknown engine {engine!r}; known: local, ray")
    if engine == "local" and not on_ranks(gpus, runs):
        return
    s = suite(choose(suite_name))
    check_reference(s.name)
    names = _names(s, entries)
    s.check(names)
    todo = local.jobs(s, names, numbers, None if variant < 0 else variant)
    if not todo:
        raise ValueError(f"--variant {variant}: none of these entries has so many architectures")
    if engine == "ray":
        cluster.run_jobs(todo, cache, runs, results, gpus)
    else:
        on_one = int(os.environ.get("WORLD_SIZE", 1)) == 1
        parallel.run_jobs(todo, cache, runs, results, (jobs or parallel.fitting()) if on_one else 1)
    if RANK == 0:
        tables.render(s, results)
        typer.echo(tables.terminal(s, results))
        found = reproduction(s, results, REFERENCE)
        typer.echo(f"\n{found.render()}")
        if strict and found.doubt:
            raise ValueError(f"--strict: {found.doubt}")


@app.command()
def tune(
    suite_name: SuiteArgument,
    entries: Annotated[
        str, typer.Option(envvar="MODELS", help='Comma-separated entries, or "all"; default: all but the optional.')
    ] = "",
    trials: Annotated[int, typer.Option(min=0, help="Of each entry; 0: as many as the recipe says.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the values that are tried, and of all trainings.")] = 0,
    jobs: Annotated[
        int, typer.Option(envvar="JOBS", min=0, help="Trials at a time; 0: as many as there is room for.")
    ] = 1,
    write: Annotated[
        bool, typer.Option("--write", help="Make the chosen values the suite's recipe: <suite>.tuned.json beside it.")
    ] = False,
    runs: RunsOption = Path("runs"),
    results: ResultsOption = Path("my-results"),
    cache: CacheOption = Path(".cache"),
) -> None:
    """Try values of the recipe, the same number of trials for every entry, on training videos only.

    The space of the trials is in the recipe (`tuning`), whose own values are the first. The trials, what they took and
    what they chose are written to RESULTS/tuning; runs use it from --write on. Issue it again after any interruption.

    Example: python -m reproduce tune kinetics-quick --entries x3d,tsm --trials 8
    """
    from reproduce import tuning
    from reproduce.launch import parallel
    from reproduce.suites import suite

    check_folders(runs, results, cache)
    s = suite(choose(suite_name))
    chosen = [s.entry(name) for name in _names(s, entries)]
    at_a_time = jobs or parallel.fitting()
    studies = tuning.tune(s, chosen, cache, runs, results, trials, seed, at_a_time)
    typer.echo(tuning.table(studies))
    if write:
        typer.echo(f"{tuning.take_over(s, studies)}: the recipe of {s.name} from now on; its runs are others now")
    else:
        typer.echo(
            f"All trials: {results / 'tuning' / s.name}. The recipe is as before; --write takes the values over."
        )


@app.command()
def search(
    suite_name: SuiteArgument,
    seeds: Annotated[str, typer.Option(envvar="SEEDS", help="Comma-separated seeds.")] = "0",
    entry: Annotated[
        str,
        typer.Option(
            help="auto_tsnet, auto_x3d, pvnas, and assemblenet, evanet, tiny_video_net, e3d with _searched behind."
        ),
    ] = "auto_tsnet",
    strategy: Annotated[
        str,
        typer.Option(
            help="auto_tsnet: fpnas, parsec, reinforce, random, evolution; "
            "assemblenet_searched: connections, evolution, random; "
            "tiny_video_net_searched: evolution, random; e3d_searched: stentr, depth, random; "
            "default: the recipe's."
        ),
    ] = "",
    joint: Annotated[bool, typer.Option("--joint", help="All variables at once instead of stage by stage.")] = False,
    gpus: GpusOption = 0,
    runs: RunsOption = Path("runs"),
    cache: CacheOption = Path(".cache"),
) -> None:
    """Search an architecture at the suite's budget; leaves it with its journal and pictures.

    Example: python -m reproduce search ssv2-quick --strategy evolution

    On several GPUs every rank takes its part of the batch: python -m reproduce search kinetics --gpus 8
    """
    from reproduce.search.stage import search as find
    from reproduce.search.stage import search_config
    from reproduce.suites import suite

    numbers = _integers("--seeds", seeds)
    check_folders(runs, None, cache)
    if not on_ranks(gpus, runs):
        return
    s = suite(choose(suite_name))
    config = search_config(s.entry(entry), strategy, progressive=not joint)
    train = s.manifest("train", s.data_root(cache))
    for seed in numbers:
        found = find(s, config, seed, train, runs)
        if RANK == 0:
            typer.echo(
                f"{found.folder}: architecture.json, {found.cost.architectures} judged in "
                f"{found.cost.wall_s / 60:.1f} min; see journal.parquet and the pictures"
            )


@app.command()
def table(
    suite_names: Annotated[list[str], typer.Argument(metavar="SUITE...", help="Suites, one table each.")],
    against: Annotated[str, typer.Option(help="Entry to set the others against; the table is only printed.")] = "",
    full: Annotated[bool, typer.Option("--full", help="Every column, as Markdown.")] = False,
    results: ResultsOption = Path("my-results"),
) -> None:
    """Print tables from the records of one's own; of a suite without any, from the reference's.

    Works without data and without records: costs and literature are always there.

    Example: python -m reproduce table ssv2 ssv2-quick
    Example: python -m reproduce table kinetics-quick --against tsm
    """
    from reproduce.evidence import natives, tables
    from reproduce.evidence.reference import REFERENCE, apart, has_records
    from reproduce.suites import suite

    for s in [suite(name) for name in suite_names]:
        own = results != REFERENCE and has_records(results, s.name)
        shown = results if own else REFERENCE
        if own:
            tables.render(s, apart(results))
        typer.echo(tables.rendered(s, shown, against)[".md"] if full or against else tables.terminal(s, shown))
        if s.published and s.gmacs:
            typer.echo(natives.overview(shown, s.classes))


WITH_MODEL = "With a model"


@app.command()
def compare(
    what: Annotated[
        list[Path], typer.Argument(metavar="MODEL.py | RECORD.json...", help="Your model, or records of one model.")
    ],
    against: Annotated[
        list[str],
        typer.Option(help="Entries, comma-separated; or the record of the other model, repeated for several runs."),
    ],
    dataset: Annotated[
        str,
        typer.Option(
            help="Suite: kinetics, ssv2, <layout>-<tiny|quick|full>, or my_suite.py.", rich_help_panel=WITH_MODEL
        ),
    ] = "",
    budget: Annotated[str, typer.Option(help="GMACs per view; default: the suite's.", rich_help_panel=WITH_MODEL)] = "",
    seeds: Annotated[
        str, typer.Option(envvar="SEEDS", help="Comma-separated seeds.", rich_help_panel=WITH_MODEL)
    ] = "0",
    common: Annotated[bool, typer.Option("--common", help="Of different videos, compare on those in common.")] = False,
    tuned: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="First try values of the recipe, as many for each model; see tune.",
            rich_help_panel=WITH_MODEL,
        ),
    ] = False,
    jobs: Annotated[
        int, typer.Option(envvar="JOBS", min=0, help="Of --tune: trials at a time.", rich_help_panel=WITH_MODEL)
    ] = 1,
    gpus: GpusOption = 0,
    runs: RunsOption = Path("runs"),
    results: ResultsOption = Path("my-results"),
    cache: CacheOption = Path(".cache"),
) -> None:
    """Set a model of yours beside the suite's, at one budget; or one model's records against another's.

    Your model, a file that registers an nn.Module or an mmaction2 config, is counted, scaled to the budget, trained,
    tested and recorded like the others, which are trained too where they have no records:
    python -m reproduce compare configs/examples/my_model.py --dataset kinetics --budget 4.7 --against x3d,slowfast

    Records give top-1 of the first model minus the second's, paired by video, with interval and p-value:
    python -m reproduce compare results/records/ssv2-quick/x3d-s0.json --against results/records/ssv2-quick/tsm-s0.json
    """
    if all(path.suffix == ".json" for path in what):
        if dataset or budget:
            raise ValueError("--dataset and --budget go with a model's file; records state their own")
        typer.echo(_compare_records(what, [Path(path) for path in against], common))
        return
    if len(what) > 1 or not dataset:
        raise ValueError(
            f"{' '.join(map(str, what))}: name one model's file and --dataset, or records (.json) of one model only"
        )
    from reproduce.evidence.compare import compare as beside
    from reproduce.launch import parallel
    from reproduce.suites import suite

    numbers = _integers("--seeds", seeds)
    check_folders(runs, results, cache)
    if not on_ranks(gpus, runs):
        return
    s = suite(choose(f"{dataset}@{budget}" if budget else dataset))
    names = [name for text in against for name in text.split(",") if name]
    at_a_time = jobs or parallel.fitting()
    table = beside(what[0], s, names, numbers, cache, runs, results, common, tuned, at_a_time)
    if RANK == 0:
        typer.echo(table)


def _compare_records(first: list[Path], second: list[Path], common: bool) -> str:
    from reproduce.evidence.statistics import between, spreads_of
    from reproduce.records import RunRecord, load_all

    loaded = {path: RunRecord.load(path) for path in [*first, *second]}
    for paths in (first, second):
        models = {(loaded[p].suite, loaded[p].entry) for p in paths}
        if len(models) > 1 or len(set(paths)) < len(paths):
            raise ValueError(f"{' '.join(map(str, paths))}: name different runs of one model in one suite")
    runs = [[(loaded[path], path.parent) for path in paths] for paths in (first, second)]
    beside = [(r, folder) for folder in {path.parent for path in loaded} for r in load_all(folder)]
    suites = {record.suite for record in loaded.values()}
    found = between(*runs, spreads_of([(r, folder) for r, folder in beside if r.suite in suites]), common)
    said = f"{found}, p = {found.p:.2g} ({found.n} videos, {len(first)} against {len(second)} runs)"
    return said if found.known else f"{said}; one run: how runs spread is not known, another seed may say otherwise"


@app.command()
def verify(
    results: Annotated[
        Path, typer.Argument(envvar="RESULTS", help="Folder of records and tables, or an archive of `submit`.")
    ] = Path("results"),
) -> None:
    """Recompute every accuracy from its predictions and every table from its records; fail where one disagrees.

    Example: python -m reproduce verify results
    Example: python -m reproduce verify submission.zip
    """
    from reproduce.evidence.update import opened
    from reproduce.evidence.verify import check_records
    from reproduce.evidence.verify import verify as check

    if results.is_file():
        with opened(results) as folder:
            typer.echo(check_records(folder).replace(str(folder), str(results)))
        return
    typer.echo(check(results))


@app.command()
def submit(
    out: Annotated[Path, typer.Option(help="The archive to write.")] = Path("submission.zip"),
    runs: RunsOption = Path("runs"),
    results: ResultsOption = Path("my-results"),
) -> None:
    """Pack your records with predictions, machine and logs as one archive, which a maintainer checks without trust.

    Example: python -m reproduce submit --out submission.zip
    """
    from reproduce.evidence.update import submit as pack

    typer.echo(pack(results, runs, out))


@app.command()
def update_reference(
    source: Annotated[Path, typer.Argument(envvar="FROM", help="Folder of results, or an archive of `submit`.")] = Path(
        "my-results"
    ),
    reason: Annotated[str, typer.Option(envvar="REASON", help="Why; goes into results/CHANGES.md.")] = "",
    runs: RunsOption = Path("runs"),
) -> None:
    """Take results over into the reference, after recomputing all of them, and render it anew. For maintainers.

    Example: python -m reproduce update-reference my-results --reason "three seeds of the default entries"
    """
    from reproduce.evidence.update import update

    typer.echo(update(source, reason, runs))


@app.command()
def report(runs: RunsOption = Path("runs"), results: ResultsOption = Path("my-results")) -> None:
    """Draw your results and write them, with all tables, as one page that needs no network: my-results/report.html.

    The page of the reference is results/report.html.

    Example: python -m reproduce report
    """
    from reproduce.evidence.reference import apart
    from reproduce.evidence.report import report as write

    if not any(results.glob("records/*/*.json")):
        raise ValueError(f"{results} has no records yet; the page of the reference is results/report.html")
    typer.echo(write(apart(results), runs))


@app.command()
def natives(results: ResultsOption = Path("my-results")) -> None:
    """Print parameters and GMACs of every native variant beside what papers and model zoos print; needs no data.

    Example: python -m reproduce natives
    """
    from reproduce.evidence import natives
    from reproduce.evidence.reference import apart

    typer.echo(natives.render(apart(results)))


@app.command()
def runtime(
    suite_name: SuiteArgument,
    entries: Annotated[
        str, typer.Option(envvar="MODELS", help="Comma-separated entries without a search of their own.")
    ] = "slowfast,x3d,tsm,auto_tsnet_uniform,e3d,tiny_video_net,tiny_video_net_searched",
    ms: Annotated[float, typer.Option(help="Milliseconds of one clip; 0: those of x3d at the suite's budget.")] = 0.0,
    seeds: Annotated[str, typer.Option(envvar="SEEDS", help="Comma-separated seeds.")] = "0",
    runs: RunsOption = Path("runs"),
    results: ResultsOption = Path("my-results"),
    cache: CacheOption = Path(".cache"),
) -> None:
    """Compare models at equal measured time on this device instead of equal GMACs; trains what is not there yet.

    Nothing else should run. A Tiny Video Network is searched under that time.

    Example: python -m reproduce runtime ssv2-quick --seeds 0,1,2
    """
    from reproduce.evidence.runtime import equal_time
    from reproduce.suites import suite

    numbers = _integers("--seeds", seeds)
    check_folders(runs, results, cache)
    names = [name for name in entries.split(",") if name]
    typer.echo(equal_time(suite(choose(suite_name)), names, ms or None, numbers, cache, runs, results))


@app.command()
def bench(
    models: Annotated[str, typer.Option(help="Comma-separated native variants; default: all.")] = "",
    every_mode: Annotated[bool, typer.Option("--every-mode", help="On a CPU too; on a GPU it is so.")] = False,
    levels: Annotated[
        str, typer.Option(metavar="SUITE", help="Whose videos are decoded for the other levels; empty: none.")
    ] = "kinetics",
    peers: Annotated[
        bool, typer.Option("--peers", help="Ours as trained and as tested beside the peers' defaults: ratios only.")
    ] = False,
    results: ResultsOption = Path("my-results"),
    cache: CacheOption = Path(".cache"),
) -> None:
    """Time forward passes of all native variants and of the peers' own networks on this machine. Resumable.

    Example: python -m reproduce bench --models x3d_m,slowfast_4x16_r50
    Example: python -m reproduce bench --peers
    """
    from reproduce.evidence.bench import bench as time_all
    from reproduce.suites import suite

    check_folders(None, results, cache)
    if peers:
        from reproduce.evidence.peers import bench as beside_peers

        typer.echo(beside_peers(results))
        return
    names = [name for name in models.split(",") if name]
    typer.echo(time_all(results, names, every_mode, suite(choose(levels)) if levels else None, cache))


TrustOption = Annotated[
    bool, typer.Option("--trust", help="Run the text of a model of somebody's own that lies in the folder.")
]


@app.command()
def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write to; default: the run's.")] = None,
    trust: TrustOption = False,
    openvino: Annotated[bool, typer.Option("--openvino", help="An OpenVINO model, too: model.xml and .bin.")] = False,
) -> None:
    """Write a trained network as torch.export program and as ONNX graph, checked against torch.

    Example: python -m reproduce export runs/kinetics-quick/x3d-s0-1a2b3c4d
    """
    from reproduce.export import export_run

    done = export_run(run_folder, out, trust, openvino)
    files = ", ".join(str(path) for path in (done.program, done.graph, done.openvino) if path)
    typer.echo(f"{files}: clips {done.shape} to logits, within {done.difference:.0e} of torch's")


@app.command()
def temporal(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of trained runs, runs/<suite>/….")],
    trust: TrustOption = False,
    frames: Annotated[
        bool, typer.Option("--frames", help="Also every single frame, and a probe on those of the training videos.")
    ] = False,
    results: ResultsOption = Path("my-results"),
    cache: CacheOption = Path(".cache"),
) -> None:
    """Test trained runs on shuffled, reversed and frozen clips: which models use time, for which classes it matters.

    Folders of searches among them are passed over.

    Example: python -m reproduce temporal runs/ssv2-quick/*-s0-*
    """
    from reproduce.evidence.temporal import is_run, report
    from reproduce.evidence.temporal import temporal as diagnose

    check_folders(None, results, cache)
    chosen = [folder for folder in folders if is_run(folder)]
    if not chosen:
        raise ValueError(f"{' '.join(map(str, folders))}: no run to diagnose, searches only")
    typer.echo(report([diagnose(folder, cache, results, trust, frames) for folder in chosen]))


@app.command()
def longtail(
    suite_names: Annotated[list[str], typer.Argument(metavar="SUITE...", help="Suites with a long tail.")],
    results: ResultsOption = Path("my-results"),
) -> None:
    """Print classifiers on the features of one training, by how frequent their classes are; of one's own records.

    Of a suite without any, from the reference's.

    Example: python -m reproduce longtail kinetics-quick-lt
    """
    from reproduce.evidence import longtail as tails
    from reproduce.evidence.reference import REFERENCE, apart, has_records
    from reproduce.suites import suite

    for s in [suite(name) for name in suite_names]:
        own = results != REFERENCE and has_records(results, s.name)
        typer.echo(tails.render(s, apart(results)) if own else tails.rendered(s, REFERENCE))


@app.command()
def stream(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video file of any length.")],
    model: Annotated[
        list[Path], typer.Option(help="A file of import-weights or a run folder, of a stream; several take turns.")
    ],
    every: Annotated[int, typer.Option(min=0, help="See every so many frames; 0: as the network was trained.")] = 0,
    labels: Annotated[Path | None, typer.Option(help="Names of the classes, one a line.")] = None,
    trust: TrustOption = False,
) -> None:
    """Show a video to a causal network frame by frame: the top classes so far, at constant memory.

    Example: python -m reproduce stream video.mp4 --model movinet_a2_stream.safetensors

    A temporal ensemble, each network at half the rate: --model first.safetensors --model second.safetensors
    """
    from reproduce.stream import stream as watch

    typer.echo(watch(video, model, every, labels, trust))


TiersOption = Annotated[str, typer.Option(envvar="TIERS", help="Of instant, inference, speed, training.")]


@app.command()
def check(
    tiers: TiersOption = "instant,inference",
    only: Annotated[str, typer.Option(help="Comma-separated entries; default: all.")] = "",
    runs: RunsOption = Path("runs"),
    results: ResultsOption = Path("my-results"),
    cache: CacheOption = Path(".cache"),
) -> None:
    """Compare what the recipes yield with what stands beside them; fail with a table of the differences.

    Example: python -m reproduce check --tiers instant --only x3d
    """
    from reproduce.evidence import gate
    from reproduce.evidence.reference import apart

    apart(results)
    rows = gate.compare(gate.measure(tiers.split(","), cache, runs, results, only=[n for n in only.split(",") if n]))
    typer.echo(gate.check(rows, gate.CHANGES))


@app.command()
def accept(
    reason: Annotated[str, typer.Option(envvar="REASON", help="Why expectations move; goes into CHANGES.md.")] = "",
    tiers: TiersOption = "instant,inference",
    only: Annotated[str, typer.Option(help="Comma-separated entries; default: all.")] = "",
    runs: RunsOption = Path("runs"),
    results: ResultsOption = Path("my-results"),
    cache: CacheOption = Path(".cache"),
) -> None:
    """Make what the recipes yield now the expectation, where it differs, and note it in results/CHANGES.md.

    What it trains for that is recorded in --results, as by every command; only the note goes into the reference.

    Example: python -m reproduce accept --tiers instant --reason "TSM shifts a quarter of its channels"
    """
    from reproduce.evidence import gate
    from reproduce.evidence.reference import apart

    apart(results)
    gate.needs_reason(reason)
    names = [n for n in only.split(",") if n]
    if "inference" in tiers.split(","):
        gate.teach_missing(cache, names)
    rows = gate.compare(gate.measure(tiers.split(","), cache, runs, results, only=names))
    lines = gate.accept(rows, reason, gate.CHANGES)
    typer.echo("\n".join(lines) or "nothing to accept: everything is as expected")


@data_app.command()
def generate(
    layout: Annotated[str, typer.Argument(help="kinetics or ssv2.")],
    size: Annotated[str, typer.Option(help="tiny, quick or full.")] = "quick",
    seed: Annotated[int, typer.Option(help="Equal seeds, equal pixels.")] = 0,
    cache: CacheOption = Path(".cache"),
) -> None:
    """Write an embedded data set as video files, in the layout of the real one.

    Example: python -m reproduce data generate ssv2 --size full
    """
    from reproduce.data import synthetic

    root = cache / f"synthetic-{layout}-{synthetic.short(size)}"
    manifest = synthetic.generate(f"synthetic-{layout}", root, size=size, seed=seed)
    typer.echo(f"{root}: {len(manifest['videos'])} videos, hash {manifest['sha256'][:12]}")


@app.command()
def import_weights(
    file: Annotated[
        Path,
        typer.Argument(help="Of PySlowFast, pytorchvideo, mmaction2, mit-han-lab or MoViNet-pytorch: .pyth, .pth, …."),
    ],
    variant: Annotated[str, typer.Option("--as", help="Which model it is: a name of baselines.VARIANTS, x3d_m.")],
    classes: Annotated[int | None, typer.Option(help="Classes, where they are not the variant's own.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; default: <variant>.safetensors.")] = None,
) -> None:
    """Turn a published checkpoint into weights of ours, or refuse it. Nothing in the file is executed.

    Example: python -m reproduce import-weights X3D_M.pyth --as x3d_m --out x3d_m.safetensors
    """
    from baselines import checkpoints
    from reproduce.whole_files import save_weights

    state, header = checkpoints.read(file, variant, classes)
    out = out or Path(f"{variant}.safetensors")
    save_weights(out, state, header)
    typer.echo(f"{out}: {len(state)} tensors of {header['source']}'s {variant}, {header['num_classes']} classes")


@app.command()
def export_weights(
    file: Annotated[Path, typer.Argument(help="A file that import-weights wrote.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
) -> None:
    """Write weights as a checkpoint of mmaction2: TSM, SlowFast, Slow and X3D.

    Example: python -m reproduce export-weights x3d_m.safetensors --out x3d_m.pth
    """
    import torch

    from baselines import checkpoints
    from reproduce.whole_files import write_atomic

    state, header = checkpoints.open_file(file)
    checkpoint = checkpoints.to_mmaction2(state, header["variant"])
    write_atomic(out, lambda path: torch.save(checkpoint, path))
    typer.echo(f"{out}: {len(checkpoint['state_dict'])} tensors of {header['variant']} under mmaction2's names")


@data_app.command()
def scan(
    layout: Annotated[str, typer.Argument(help="kinetics or ssv2.")],
    root: Annotated[Path | None, typer.Option(help="The copy; default: KINETICS_ROOT or SSV2_ROOT.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Decode every frame, hash every byte.")] = False,
    workers: Annotated[int, typer.Option(help="Processes; 0: all cores.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the scan; default: scan-LAYOUT in --cache.")] = None,
    cache: CacheOption = Path(".cache"),
) -> None:
    """Look at every video of a copy: what is missing, truncated, undecodable, twice there, odd. Resumable.

    Example: python -m reproduce data scan kinetics --full
    """
    from reproduce.data.scan import scan as look
    from reproduce.data.scan import summary

    manifests, out = splits_of(layout, root), out or cache / f"scan-{layout}"
    table = look(manifests, out, full, workers or None)
    typer.echo(summary(manifests, table, out))
    typer.echo(f"{out / 'manifest.parquet'}: {len(table)} rows")


@data_app.command("cache")
def resize(
    layout: Annotated[str, typer.Argument(help="kinetics or ssv2.")],
    out: Annotated[Path, typer.Option(help="Folder of the new copy.")],
    short_side: Annotated[int, typer.Option(help="In pixels, even; smaller videos are copied as they are.")] = 256,
    root: Annotated[Path | None, typer.Option(help="The copy; default: KINETICS_ROOT or SSV2_ROOT.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: all cores.")] = 0,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what size and time it takes.")] = False,
) -> None:
    """Make a copy with small videos, which are read fast: the same frames at the same times, encoded anew. Resumable.

    It says first what size and time this takes, and ends where there is too little room.

    Example: python -m reproduce data cache kinetics --short-side 256 --out /fast/k400-256
    """
    from reproduce.data.resized import Resizing, stoppable

    check_real(layout, root)
    with stoppable():
        copy = Resizing(layout, splits_of(layout, root), out, short_side, workers)
        typer.echo(copy.plan())
        if not plan:
            typer.echo(copy.run())


@data_app.command()
def diff(
    first: Annotated[Path, typer.Argument(help="Folder of a scan.")],
    second: Annotated[Path, typer.Argument(help="Folder of another.")],
    split: Annotated[str, typer.Option(help="train or val.")] = "val",
    out: Annotated[Path | None, typer.Option(help="File for the ids that both copies can use.")] = None,
) -> None:
    """Compare two copies by their scans.

    Example: python -m reproduce data diff .cache/scan-kinetics /other/scan-kinetics --out common.txt
    """
    from reproduce.evidence.copies import diff as compare

    typer.echo(compare(first, second, split, out))


@data_app.command()
def score(
    suite_name: Annotated[str, typer.Argument(metavar="SUITE", help="Whose records.")],
    ids: Annotated[Path, typer.Option(help="File with the ids of the videos, one a line, as diff writes it.")],
    results: ResultsOption = Path("my-results"),
) -> None:
    """Print a suite's table as it is on some of the test videos, such as those that two copies share.

    Example: python -m reproduce data score kinetics --ids common.txt
    """
    from reproduce.evidence.copies import score as table_on
    from reproduce.suites import suite

    typer.echo(table_on(suite(suite_name), results, ids))


def check_real(layout: str, root: Path | None) -> None:
    """Raise a DataError for a copy of embedded videos."""
    from reproduce.data.manifest import DataError
    from reproduce.suites import SUITES, named

    embedded = layout in SUITES and not named(layout).root
    if embedded or (root or Path()).name.startswith("synthetic-"):
        raise DataError(
            f"{root or layout}: embedded videos are small and made whole, and the first run caches their frames; "
            "this is for copies of real data"
        )


def splits_of(layout: str, root: Path | None) -> tuple[Manifest, ...]:
    """The splits of a copy, by default of the one that the environment names.

    Raises:
        DataError: neither names one, it is not of that layout, or its videos are embedded.
    """
    from reproduce.data.layouts import LAYOUTS
    from reproduce.data.manifest import DataError
    from reproduce.suites import SUITES, named

    s = named(layout) if layout in SUITES else None
    load = LAYOUTS.named(layout)
    if not root and not (s and os.environ.get(s.root)):
        unset = f"{s.root} is not set and no --root is given: which copy of {s.dataset}" if s else "--root: which copy"
        raise DataError(f"{unset}? See README")
    root = Path(root or os.environ[s.root]).absolute()
    return tuple(load(root, split, s.dataset if s else layout) for split in ("train", "val"))


def _names(suite: Suite, entries: str) -> list[str]:
    """The entries that an option names."""
    if entries == "all":
        return [e.name for e in suite.entries]
    return [n for n in entries.split(",") if n] or [e.name for e in suite.entries if not e.optional]


def _integers(option: str, text: str) -> list[int]:
    try:
        numbers = [int(x) for x in text.split(",")]
    except ValueError:
        raise ValueError(f"{option}={text!r} is no comma-separated list of integers, such as 0,1,2") from None
    if min(numbers) < 0 or max(numbers) >= 2**32 or len(set(numbers)) < len(numbers):
        raise ValueError(f"{option}={text!r}: seeds are different integers from 0 to 2³² - 1, such as 0,1,2")
    return numbers


# Those that the README names.
VARIABLES = (
    *("MODELS", "SEEDS", "EMBEDDED", "GPUS", "JOBS", "ENGINE", "DECODER", "TIERS", "REASON", "RAY_ADDRESS"),
    *("RUNS", "RESULTS", "CACHE", "KINETICS_ROOT", "SSV2_ROOT", "VENV", "PYTHON", "CHROMIUM", "TRACEBACK"),
    *("FROM", "WORKERS", "ALLOW_PARTIAL"),
)
# Commands that train or time other things than the entries of MODELS, and what names those.
WITHOUT_MODELS = {"search": "--entry names the one to search", "bench": "--models names native variants"}


def check_environment(command: str, environment: Mapping[str, str] = os.environ) -> None:
    """Find out before the first step which variables would stop a command late, or be passed over without a word.

    Raises:
        ValueError: a name that is nearly one of ours, an unknown decoder or size, MODELS where it is not taken.
    """
    from reproduce.data.decode import DECODERS

    plain = {_plain(name): name for name in VARIABLES}
    # Of the environment only the singular, plural and spelling of a name: other programs' variables are there too.
    meant = {name: plain[_plain(name)] for name in environment if _plain(name) in plain}
    for name in re.findall(r"(?:^| )(\w+)=", environment.get("MAKEFLAGS", "").partition("-- ")[2]):
        if near := difflib.get_close_matches(name.upper(), VARIABLES, 1, 0.8):
            meant.setdefault(name, near[0])
    for name, right in meant.items():
        if name not in VARIABLES:
            raise ValueError(f"{name}={environment.get(name, '')!r} is set, which means nothing; {right}= is meant?")
    for name, known in (("DECODER", DECODERS), ("EMBEDDED", ("tiny", "quick", "full"))):
        value = environment.get(name)
        if value and value not in known:
            raise ValueError(f"{name}={value!r} is unknown; known: {', '.join(known)}")
    if command in WITHOUT_MODELS and environment.get("MODELS"):
        raise ValueError(
            f"MODELS={environment['MODELS']!r} is set, which `{command}` does not take; {WITHOUT_MODELS[command]}"
        )


def check_folders(runs: Path | None, results: Path | None, cache: Path) -> None:
    """Find out before the first step whether a command can write where it will write, much later.

    Raises:
        ReferenceError: the results would be written to the reference.
        OutputError: a folder cannot be written.
    """
    from reproduce.evidence.reference import apart
    from reproduce.whole_files import check_writable

    if results:
        check_writable(apart(results), "RESULTS= or --results")
    if runs:
        check_writable(runs, "RUNS= or --runs")
    if not any(cache.glob("synthetic-*")):  # nothing is written to one that has its videos
        check_writable(cache, "CACHE= or --cache")


def _plain(name: str) -> str:
    return name.upper().replace("_", "").removesuffix("S")


def _without_shared_memory(text: str) -> str:
    from reproduce.engine.runner import MORE_SHARED_MEMORY, SHARED_MEMORY

    if MORE_SHARED_MEMORY in text:
        return text
    return f"{SHARED_MEMORY} is too small for what decoding workers hand over; {MORE_SHARED_MEMORY} ({text[:80]})"


def main() -> None:
    """Run the command line; errors that we know are one line and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.filterwarnings("ignore", message="Fail to import ``MultiScaleDeformableAttention``")
    try:
        app()
    except SystemExit as end:
        if not end.code:
            leave_ranks()
        raise
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("TRACEBACK"):
            raise
        text = str(error).strip()
        if "in DataLoader worker process" in text:  # torch wraps a worker's error into its traceback
            text = text.splitlines()[-1].split(": ", 1)[-1]
        if "shared memory" in text or "</torch_" in text or "Bus error" in text:
            text = _without_shared_memory(text)
        elif "killed by signal: Killed" in text:
            text = f"{text.splitlines()[0]} Memory has run out, most likely: lower `workers` in the recipe, or JOBS="
        if not getattr(error, "spoken", False):  # by the rank of which it tells
            print(f"error: {text}", file=sys.stderr)
        code = getattr(error, "exit_code", 1)
        leave_ranks(code)
        sys.exit(code)


if __name__ == "__main__":
    main()
