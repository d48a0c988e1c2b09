"""Does the search beat random architectures, and does its supernet rank architectures as stand-alone training does?

    python -m reproduce.studies.chance

On one suite: for each seed a search and a retraining of what it found, against random architectures of equal GMACs
trained alike; and the supernet's held-out log-likelihood of at least a dozen random architectures against their own
accuracy. How far random architectures differ at all, beyond what the number of test videos explains, bounds what a
search can gain. Runs are the suite's own (shared with its table) and resume.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from safetensors.torch import load_file
from scipy.stats import kendalltau
from torch.utils.data import DataLoader, Subset

from autotsnet.models import SuperNet
from reproduce.data.datasets import TrainClips
from reproduce.data.decode import DEFAULT
from reproduce.engine.classifier import VideoClassifier
from reproduce.evidence.reference import own_option
from reproduce.evidence.statistics import outcomes, paired_difference
from reproduce.progress import Progress
from reproduce.records import RunRecord, session
from reproduce.run import execute
from reproduce.search import stage
from reproduce.search.method import halves
from reproduce.studies.options import study_parser
from reproduce.suites import Entry, RunSpec, Suite, suite
from reproduce.whole_files import write_json


@torch.no_grad()
def supernet_likelihoods(s: Suite, found: stage.Found, entries: list[Entry], train, seed: int) -> list[float]:
    """Mean held-out log-likelihood of architectures under the supernet's final weights, batch statistics."""
    config = stage.search_config(s.entry("auto_tsnet"))
    net = SuperNet(stage.method(s, config).space, s.classes)
    net.load_state_dict(load_file(found.folder / "supernet.safetensors"))
    model = VideoClassifier(net).train()
    half = halves(train, seed)[1]
    data = Subset(TrainClips(half, s.protocol, seed), range(min(256, len(half.videos))))
    batches = list(DataLoader(data, batch_size=32))
    out = []
    for entry in entries:
        losses = [model(**b, mode="loss", architecture=entry.architecture)["loss"].item() for b in batches]
        out.append(-sum(losses) / len(losses))
    return out


def main() -> None:
    """Run the study and write its record."""
    parser = study_parser(__doc__, "studies/search.json", "runs", "cache")
    parser.add_argument("--suite", default="ssv2-quick")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--architectures", type=int, default=12, help="for the ranking correlation")
    own_option(parser, "--results")
    options = parser.parse_args()

    s = suite(options.suite)
    root = s.data_root(options.cache)
    train, test = s.manifest("train", root), s.manifest("val", root)
    drawn = [
        replace(
            s.entry("auto_tsnet_random"),
            architecture=stage.method(s, stage.search_config(s.entry("auto_tsnet"))).draw(v),
        )
        for v in range(options.architectures)
    ]
    jobs = [("search", seed) for seed in range(options.seeds)] + [("random", v) for v in range(len(drawn))]
    searched: list[RunRecord] = []
    random: list[RunRecord] = []
    with Progress("study", len(jobs)) as progress:
        for kind, number in jobs:
            if kind == "search":
                entry, cost = stage.resolved(s, s.entry("auto_tsnet"), number, 0, train, options.runs)
                spec = RunSpec.of(s, entry, number, train, test)
                searched.append(execute(s, entry, spec, train, test, options.runs, options.results, cost))
            else:
                spec = RunSpec.of(s, drawn[number], 0, train, test, number)
                random.append(execute(s, drawn[number], spec, train, test, options.runs, options.results))
            progress.step(note=f"{kind} {number}")

    folder = options.results / "records" / s.name
    right = outcomes([(record, folder) for record in searched + random])
    a, b = right[: len(searched)], right[len(searched) :]
    difference = paired_difference(a, b)
    found = stage.search(s, stage.search_config(s.entry("auto_tsnet")), 0, train, options.runs)
    likelihoods = supernet_likelihoods(s, found, drawn, train, 0)
    tau, p = kendalltau(likelihoods, b.mean(1))
    rate = b.mean()
    spread, chance = 100 * b.mean(1).std(ddof=1), 100 * (rate * (1 - rate) / b.shape[1]) ** 0.5
    write_json(
        options.out,
        {
            "suite": s.name,
            "test_manifest": test.hash,
            "n": int(a.shape[1]),
            "searched_top1": [float(100 * x) for x in a.mean(1)],
            "random_top1": [float(100 * x) for x in b.mean(1)],
            "random_sd_points": float(spread),
            "sampling_sd_points": float(chance),
            "difference_points": difference.points,
            "interval_95": [difference.low, difference.high],
            "kendall_tau": float(tau),
            "kendall_p": float(p),
            "supernet_log_likelihood": likelihoods,
            "architectures": [e.architecture.hash for e in drawn],
            "search": [r.search.model_dump() for r in searched],
            "provenance": session(DEFAULT).model_dump(),
        },
    )
    print(
        f"searched {100 * a.mean():.1f} %, random {100 * b.mean():.1f} %: difference {difference}; "
        f"Kendall tau of supernet and stand-alone accuracy {tau:+.2f} (p = {p:.2f}); "
        f"standard deviation over random architectures {spread:.1f} points, of which {chance:.1f} would come from "
        f"{b.shape[1]} test videos alone"
    )


if __name__ == "__main__":
    main()
