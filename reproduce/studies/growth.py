"""How cost grows: commands on more records, tables of more models, seeds and videos, clips of more frames.

    python -m reproduce.studies.growth

The records are the reference's of synthetic-ssv2 quick with other seeds, or under the names of models of somebody's
own, with drawn answers to 400 videos, or as many as the curve says; they pass ``verify``. Each point is a process of
its own: its processor time without imports and its peak memory with them. A point of less than a second is run three
times, the smallest size of each curve at least twice, and the least counts: a first run also counts networks that
``CACHE`` does not know.

The rule: nothing grows faster than linearly. A curve is taken for a + b nᵏ; k is at most 1.1, a limit that was stated
before any run. How k is estimated was changed twice after trial runs, whose noise moved it, and the curve of videos was
moved to so many that their cost is seen beside that of a table. It is the one whose marginal cost, that of a size minus
that of the smallest size, has the curve's slope against the size minus the smallest one, both logarithmic, over the
upper half of the curve (sizes of at least the geometric mean of the smallest and the largest). A curve that ends less
than a tenth above its beginning does not grow: k is 0.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from reproduce.evidence import report, tables
from reproduce.evidence.reference import REFERENCE
from reproduce.evidence.verify import verify
from reproduce.records import RunRecord, load_all, score, session, sha256
from reproduce.spec import digest, run_id
from reproduce.studies.options import study_parser
from reproduce.suites import SUITES
from reproduce.whole_files import write_json

SUITE = SUITES["ssv2-quick"]
VIDEOS = 400
STRIDE = 4  # of clips, in frames: 64 of them fit a video of the study of decoding
CLIPS = 16  # of each number of frames, the time is their mean
LINEAR = 1.1  # the largest exponent that the rule allows
GROWS = 0.1  # a smaller share of the cost of the smallest size is no growth


def reference() -> list[RunRecord]:
    """A record of each architecture of the suite, of the first seed; none that is old and cannot be copied."""
    there = load_all(REFERENCE / "records" / SUITE.name)
    return [r for r in there if r.spec and not r.seed and r.variant < SUITE.entry(r.entry).variants]


def copied(record: RunRecord, seed: int, own: str = "") -> RunRecord:
    """A record of the same network under another seed; ``own`` is the name of a model of somebody's own."""
    named = dict(entry=own, variant=0) if own else {}
    spec = record.spec.model_copy(update=named | dict(seed=seed, source="growth" if own else ""))
    search = record.search and record.search.model_copy(update=dict(seed=seed))
    model = record.model.model_copy(update=dict(family=own) if own else {})
    return record.model_copy(update=named | dict(seed=seed, spec=spec, run=spec.hash, search=search, model=model))


def write(record: RunRecord, results: Path, videos: int = VIDEOS) -> None:
    """Write a record with drawn answers to so many videos, about two thirds of them right."""
    rng = np.random.default_rng(int(digest(record.model_dump()), 16))
    label = np.arange(videos) % SUITE.classes
    scores = rng.normal(size=(videos, SUITE.classes)).astype(np.float32)
    scores[np.arange(videos), label] += 2
    ids = [f"{n:06d}" for n in range(videos)]
    table = pd.DataFrame(dict(id=ids, label=label, frames=30, error="", scores=list(scores)))
    path = results / "records" / SUITE.name / f"{run_id(record.entry, record.variant, record.seed)}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path, index=False)
    top1, top5, failed = score(table)
    said = dict(n=videos, top1=top1, top5=top5, failed=failed, predictions=path.name, predictions_sha256=sha256(path))
    manifest = dict(test_manifest=f"growth{videos:06d}")
    spec = record.spec.model_copy(update=manifest)
    changes = dict(result=record.result.model_copy(update=said), data=record.data.model_copy(update=manifest))
    record.model_copy(update=changes | dict(spec=spec, run=spec.hash)).save(path.with_suffix(".json"))


def of_records(number: int, results: Path) -> None:
    """As many records as that: of eight architectures, of ever more seeds."""
    templates = reference()
    for i in range(number):
        write(copied(templates[i % len(templates)], i // len(templates)), results)


def of_models(models: int, results: Path, seeds: int = 3) -> None:
    """Random architectures, which all are set against, and as many models of somebody's own, of some seeds each."""
    controls = [r for r in reference() if r.entry == "auto_tsnet_random"]
    x3d = next(r for r in reference() if r.entry == "x3d")
    for seed in range(seeds):
        for record in (*controls, *(copied(x3d, seed, f"own{m}") for m in range(models))):
            write(copied(record, seed, record.entry if record.spec.source else ""), results)


def of_seeds(seeds: int, results: Path) -> None:
    """Ten models of as many seeds."""
    of_models(10, results, seeds)


def of_videos(videos: int, results: Path) -> None:
    """One record of a test of as many videos."""
    write(copied(next(r for r in reference() if r.entry == "x3d"), 0), results, videos)


def of_frames(_: int, folder: Path) -> None:
    """A generated video of 301 frames."""
    from reproduce.studies import decoding  # mmaction2 takes seconds to import

    decoding.make("h264 340x256", folder, 1)


def clips(folder: Path, frames: int) -> None:
    """Training clips of so many frames, cropped to 224²."""
    from reproduce.data.datasets import TrainClips
    from reproduce.data.manifest import Manifest, Video
    from reproduce.protocol import Crops, Protocol, Sampling

    videos = Manifest("generated", "train", folder, ("x",), (Video("x", next(folder.iterdir()).name, 0),))
    stream = TrainClips(videos, Protocol(Sampling("dense", frames, STRIDE), Crops(224, 256, (256, 320))), 0)
    for n in range(CLIPS):
        stream[n]


WORK: dict[str, Callable[[Path, int], object]] = {  # in this order: `verify` wants tables, and checks the page
    "table": lambda results, _: tables.render(SUITE, results),
    "report": lambda results, _: report.report(results, results / "runs"),
    "verify": lambda results, _: verify(results),
    "clips": clips,
}
CURVES = {  # name -> what makes the folder of a size, the work, sizes
    "records": (of_records, ("table", "report", "verify"), (125, 250, 500, 1000, 2000)),
    "models": (of_models, ("table", "report"), (10, 20, 40, 80, 160)),
    "seeds": (of_seeds, ("table",), (3, 6, 12, 24, 48)),
    "videos": (of_videos, ("table", "verify"), (6400, 12800, 25600, 51200, 102400, 204800, 409600)),
    "frames": (of_frames, ("clips",), (8, 16, 32, 64)),
}


def cost(work: str, folder: Path, size: int) -> dict:
    """Processor seconds of a piece of work in this process, and the process's peak resident memory in MiB."""
    start = time.process_time()
    WORK[work](folder, size)
    seconds = time.process_time() - start
    # Not getrusage's: that of a child begins with its parent's.
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]
    return dict(seconds=seconds, peak_mib=int(peak) / 1024)


def apart(work: str, folder: Path, size: int) -> dict:
    """``cost`` in a process of its own."""
    code = "import json, sys; from reproduce.studies.growth import Path, cost; "
    code += "print(json.dumps(cost(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))"
    command = [sys.executable, "-c", code, work, str(folder), str(size)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The k of a curve a + b nᵏ, 0 to 3: see the head of this file."""
    n, c = np.asarray(sizes, float), np.asarray(costs, float)
    if c[-1] < (1 + GROWS) * c[0]:
        return 0.0
    upper = n >= np.sqrt(n[0] * n[-1])

    def slope(values: np.ndarray) -> float:
        more = np.maximum(values[upper] - values[0], 1e-3 * np.ptp(values))  # less than none has no logarithm
        return np.polyfit(np.log(n[upper] - n[0]), np.log(more), 1)[0]

    powers = np.arange(0.01, 3, 0.01)
    return float(np.interp(slope(c), [slope(n**k) for k in powers], powers))


def curve(name: str, repeats: int, sizes: Sequence[int] = ()) -> dict:
    """The costs of all work on a curve by size, and their exponents.

    Args:
        name: key of ``CURVES``.
        repeats: runs of each point at least; see the head of this file.
        sizes: others than the curve's.
    """
    make, works, known = CURVES[name]
    sizes = list(sizes or known)
    points: dict[str, list[dict]] = {work: [] for work in works}
    for size in sizes:
        with TemporaryDirectory() as folder:
            make(size, Path(folder))
            for work in works:
                runs = [apart(work, Path(folder), size) for _ in range(repeats + (size == sizes[0]))]
                if min(r["seconds"] for r in runs) < 1:
                    runs += [apart(work, Path(folder), size) for _ in range(3 - len(runs))]
                points[work].append({key: round(min(r[key] for r in runs), 4) for key in runs[0]})
                print(f"{name} {size}, {work}: {points[work][-1]}", file=sys.stderr)
    found = {}
    for work, of in points.items():
        each = {key: [p[key] for p in of] for key in of[0]}
        slopes = {key: round(exponent(sizes, values), 3) for key, values in each.items()}
        found[work] = each | dict(exponents=slopes, linear=max(slopes.values()) <= LINEAR)
    return dict(sizes=sizes, work=found)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study; print and write what was found."""
    parser = study_parser(__doc__, "studies/growth.json")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each point")
    parser.add_argument(
        "--curves", default=",".join(CURVES), help="comma-separated; the others stay as they are in --out"
    )
    options = parser.parse_args(argv)
    made = dict(repeats=options.repeats, provenance=session("none").model_dump())
    found = {name: curve(name, options.repeats) | made for name in options.curves.split(",")}
    known = json.loads(options.out.read_text())["curves"] if options.out.exists() else {}
    write_json(options.out, dict(curves=known | found, rule=LINEAR))
    for name, of in found.items():
        for work, costs in of["work"].items():
            e = costs["exponents"]
            print(
                f"{work} against {name} ({of['sizes'][0]} to {of['sizes'][-1]}): {costs['seconds'][0]:.3g} to "
                f"{costs['seconds'][-1]:.3g} s, exponent {e['seconds']:.2f}; {costs['peak_mib'][0]:.0f} to "
                f"{costs['peak_mib'][-1]:.0f} MiB, exponent {e['peak_mib']:.2f}"
                + ("" if costs["linear"] else "; faster than linearly")
            )


if __name__ == "__main__":
    main()
