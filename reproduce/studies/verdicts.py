"""How often are verdicts wrong? Simulated suites with run-to-run noise, and simulated reproductions.

Usage: python -m reproduce.studies.verdicts [--repeats 400] [--out FILE]; a minute or two.

A suite has a control and six other models on the same 400 videos, each of a family of its own, whose accuracies differ
between runs by a standard deviation of 1.5, 4 or 7 points, two of each. Three are as good as the control, one of each
spread; the others are better by 5, 10 and 15 points, assigned again in each repeat. Each has 1, 3 or 5 seeds; with
one, the spread is known from three other runs of each (the reference's). Counted are suites in which a model as good as
the control is called better or worse (after Holm's correction), intervals that hold the truth, and differences found.

A reproduction has eight rows, each of them against a reference of three runs: by new runs of the same, and by runs of
which one row has lost 5 points.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

from reproduce.evidence.reproduction import RATE
from reproduce.evidence.statistics import LEVEL, Spread, accuracy_interval, holm, paired_difference, spreads
from reproduce.studies.options import study_parser
from reproduce.whole_files import write_json

VIDEOS = 400
SPREADS = (1.5, 4.0, 7.0)  # points, standard deviation over runs
GAINS = (5.0, 10.0, 15.0)  # points
LOSS = 5.0
SEEDS = (1, 3, 5)
ROWS = 8  # of a reproduction
RESAMPLES = 2000
TASTE, NOISE = 0.5, 0.7  # a model's own opinion of a video, and a run's; the video's difficulty is 1
SCALE = np.sqrt(1 + TASTE**2 + NOISE**2)


class Models:
    """Models of given accuracies and spreads on the same videos; each call makes new runs of one.

    Right is what exceeds the video's difficulty: skill, the model's taste in videos, the run and chance (a probit).
    """

    def __init__(self, rng: np.random.Generator, top1: Sequence[float], spread: Sequence[float], videos: int = VIDEOS):
        """Draw the videos; ``top1``: of each model, percent, over all runs and videos; ``spread``: in points."""
        self.rng, self.videos = rng, videos
        # A step of skill moves accuracy by the density there; the spread in turn flattens the curve a little.
        center = norm.ppf(np.asarray(top1) / 100)
        self.run = np.asarray(spread) / 100 / norm.pdf(center) * SCALE
        self.skill = center * np.hypot(SCALE, self.run)
        self.difficulty = rng.normal(size=videos)
        self.taste = TASTE * rng.normal(size=(len(self.skill), videos))

    def runs(self, model: int, number: int, loss: float = 0.0) -> np.ndarray:
        """Runs × videos, 1 where right; ``loss`` in points of accuracy."""
        shift = loss / 100 / norm.pdf(self.skill[model] / SCALE) * SCALE
        of_run = self.run[model] * self.rng.normal(size=(number, 1))
        noise = NOISE * self.rng.normal(size=(number, self.videos))
        margin = self.skill[model] - shift + self.difficulty + self.taste[model] + of_run + noise
        return (margin > 0).astype(float)


def suites(seeds: int, repeats: int, pooled: bool = True) -> dict:
    """Errors, coverage and power of a suite's verdicts.

    Args:
        seeds: of each model.
        repeats: suites to draw.
        pooled: use the spread of all families; else each model's own, as if runs of one seed did not differ.
    """
    rng = np.random.default_rng(seeds)
    wrong, covered, covered_top1, found = 0, [], [], defaultdict(list)
    for i in range(repeats):
        order = rng.permutation(len(SPREADS))
        gain = np.array([0.0, 0.0, 0.0, 0.0, *np.array(GAINS)[order]])
        spread = np.array([SPREADS[i % len(SPREADS)], *SPREADS, *SPREADS])
        top1 = 50.0 + gain
        models = Models(rng, top1, spread)
        right = [models.runs(m, seeds) for m in range(len(top1))]
        known: dict[str, Spread] = {}
        if pooled:
            seen = right if seeds > 1 else [models.runs(m, 3) for m in range(len(top1))]
            known = spreads((str(m), x) for m, x in enumerate(seen))
        of = [known.get(str(m)) for m in range(len(top1))]
        differences = [
            paired_difference(right[m], right[0], (of[m], of[0]), seed=i, resamples=RESAMPLES)
            for m in range(1, len(top1))
        ]
        holds = holm([d.p for d in differences]) < LEVEL
        wrong += any(h and not g for h, g in zip(holds, gain[1:], strict=True))
        covered += [d.low <= g <= d.high for d, g in zip(differences, gain[1:], strict=True)]
        for h, d, g, s in zip(holds, differences, gain[1:], spread[1:], strict=True):
            if g:
                found[f"{g:g} points, spread {s:g}"].append(bool(h) and d.points > 0)
        for x, s, truth in zip(right, of, top1, strict=True):
            low, high = accuracy_interval(x, s)
            covered_top1.append(low <= truth <= high)
    return {
        "seeds": seeds,
        "family_wise_error": wrong / repeats,
        "coverage_of_differences": float(np.mean(covered)),
        "coverage_of_accuracies": float(np.mean(covered_top1)),
        "power": {key: float(np.mean(found[key])) for key in sorted(found, key=lambda k: (len(k), k))},
    }


def reproductions(seeds: int, repeats: int, rows: int = ROWS) -> dict:
    """False alarms and power of ``reproduction``'s rule where no row is identical.

    Args:
        seeds: of the user's runs; the reference has three.
        repeats: reproductions to draw.
        rows: that are judged together.
    """
    rng = np.random.default_rng(seeds)
    alarms, alarmed, found = 0, 0, defaultdict(list)
    for i in range(repeats):
        spread = [SPREADS[(i + m) % len(SPREADS)] for m in range(ROWS)]
        models = Models(rng, np.linspace(40, 75, ROWS), spread)
        reference = [models.runs(m, 3) for m in range(ROWS)]
        known = spreads((str(m), x) for m, x in enumerate(reference))

        def outside(m: int, loss: float, i=i, reference=reference, known=known, models=models) -> bool:
            both = known[str(m)], known[str(m)]
            own = models.runs(m, seeds, loss)
            d = paired_difference(own, reference[m], both, seed=i, resamples=RESAMPLES, level=RATE / rows)
            return not d.low <= 0 <= d.high

        bad = [outside(m, 0.0) for m in range(ROWS)]
        alarms, alarmed = alarms + sum(bad), alarmed + any(bad[:rows])
        found[f"spread {spread[0]:g}"].append(outside(0, LOSS))
    return {
        "seeds": seeds,
        "rows": rows,
        "false_alarms_per_row": alarms / repeats / ROWS,
        "false_alarms_per_reproduction": alarmed / repeats,
        "power_loss_of_5_points": {key: float(np.mean(found[key])) for key in sorted(found)},
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study; print and write what was found."""
    parser = study_parser(__doc__, "studies/verdicts.json")
    parser.add_argument("--repeats", type=int, default=400)
    options = parser.parse_args(argv)
    data = {
        "repeats": options.repeats,
        "videos": VIDEOS,
        "suites": [suites(seeds, options.repeats) for seeds in SEEDS],
        "one_seed_without_pooling": suites(1, options.repeats, pooled=False),
        "reproductions": [reproductions(s, options.repeats, rows) for s in (1, 3) for rows in (1, ROWS)],
    }
    write_json(options.out, data)
    for row in (*data["suites"], data["one_seed_without_pooling"]):
        print(
            f"{row['seeds']} seeds: family-wise error {100 * row['family_wise_error']:.1f} %, coverage "
            f"{100 * row['coverage_of_differences']:.1f} %, of accuracies "
            f"{100 * row['coverage_of_accuracies']:.1f} %; power "
            + ", ".join(f"{key} {100 * p:.0f} %" for key, p in row["power"].items())
        )
    print("(the last: each model's own spread only, as before pooling)")
    for row in data["reproductions"]:
        print(
            f"reproduction, {row['seeds']} seeds, {row['rows']} rows: false alarms in "
            f"{100 * row['false_alarms_per_row']:.1f} % of rows, {100 * row['false_alarms_per_reproduction']:.1f} % of "
            "reproductions; a loss of 5 points found: "
            + ", ".join(f"{key} {100 * p:.0f} %" for key, p in row["power_loss_of_5_points"].items())
        )


if __name__ == "__main__":
    main()
