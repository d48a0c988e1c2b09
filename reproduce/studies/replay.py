"""Search strategies replayed on VideoNAS: how far from the best is what they have found after so many trainings?

    python -m reproduce.studies.replay --table results/videonas/videonas.parquet --repeats 20

Each strategy queries single trainings of the subspace and is charged for them. Its answer at a budget is the highest
validation of the architectures that it has queried to their end; the regret is the test of the estimated optimum minus
that of the answer. Random search is in closed form, without repeats. The search engines of this project see a product
of all factors but the depth, which follows from the others; their score is the negative log-loss of validation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import gammaln, stdtrit
from tabulate import tabulate
from torch import Tensor

from autotsnet.search.fpnas import FPNAS, FPNASOptions, parsec_options
from autotsnet.search.strategies import Evolution, EvolutionOptions, RandomSearch, Strategy
from autotsnet.space import Product
from reproduce.evidence.tabular import DEFAULT, FACTORS, SPACE, VideoNAS
from reproduce.progress import Progress
from reproduce.records import session
from reproduce.studies.options import study_parser
from reproduce.whole_files import write_json

BUDGETS = (5, 10, 20, 40, 80)  # mean trainings
MOST = 4000  # queries of a search: what was queried before is free
SEED = 0  # of the trainings
FREE = list(FACTORS)[:-1]
BLOCKS = tuple((len(FACTORS[name]),) for name in FREE)

Search = Callable[[VideoNAS, int], Iterator[dict[str, Any]]]


def code_of(row: Sequence[int]) -> str:
    """The code of a row of the product: one stream has no fusion, and the depth makes the half fraction even."""
    of = {name: FACTORS[name][i] for name, i in zip(FREE, row, strict=True)}
    if of["split"] in ("slow", "fast"):
        of["fusion"] = "none"
    odd = sum(FACTORS[name].index(of[name]) for name in SPACE["halved"] if name in of) % 2
    return "-".join([*of.values(), FACTORS["depth"][odd]])


class TableJudge:
    """A judge of the project's strategies: the negative log-loss of validation, from the table.

    Args:
        table: whose account is charged.

    Attributes:
        answers: of the last call.
        clips: videos behind each score.
    """

    def __init__(self, table: VideoNAS) -> None:
        self.table, self.answers, self.images = table, [], 0
        self.clips = len(table.info.get("labels", ())) or 1

    def scores(self, codes: Tensor, alone: str | None = None, final: bool = False) -> Tensor:
        """See ``autotsnet.search.judges.Judge``; an architecture that is not in the table has failed."""
        there = set(self.table.codes)
        asked = [code_of(row) for row in codes.tolist()]
        found = [self.table.query(code, SEED) if code in there else None for code in asked]
        self.answers = [answer for answer in found if answer]
        return torch.tensor([-answer["log_loss"] if answer else -torch.inf for answer in found], dtype=torch.float64)


def engine(make: Callable[[int], Strategy]) -> Search:
    """A strategy of the project as a search on the table."""

    def search(table: VideoNAS, seed: int) -> Iterator[dict[str, Any]]:
        strategy, judge = make(seed), TableJudge(table)
        while True:
            codes = strategy.ask()
            scores = judge.scores(codes)
            yield from judge.answers
            if scores.isfinite().any():
                strategy.tell(codes, scores, free(codes), judge.clips)

    return search


def free(codes: Tensor) -> Tensor:
    """The cost of architectures of equal GMACs, in budgets."""
    return torch.ones(len(codes), dtype=torch.float64)


def local(table: VideoNAS, seed: int) -> Iterator[dict[str, Any]]:
    """Go to the first neighbour that is better; where none is, begin anew."""
    rng = np.random.default_rng(seed)
    while True:
        here = table.query(str(rng.choice(table.codes)), SEED)
        yield here
        better = True
        while better:
            better = False
            for code in rng.permutation(table.neighbours(here["code"])):
                other = table.query(str(code), SEED)
                yield other
                if other["validation"] > here["validation"]:
                    here, better = other, True
                    break


def thirds(table: VideoNAS, seed: int) -> Iterator[dict[str, Any]]:
    """Successive thirds: nine are trained for a third, their best three for two, the best of those to the end."""
    rng = np.random.default_rng(seed)
    while True:
        codes = [str(code) for code in rng.choice(table.codes, min(9, len(table.codes)), replace=False)]
        for at, kept in ((1 / 3, 3), (2 / 3, 1)):
            found = {code: table.query(code, SEED, at)["validation"] for code in codes}
            codes = sorted(found, key=found.get, reverse=True)[:kept]
        yield table.query(codes[0], SEED)


STRATEGIES: dict[str, Search] = {
    "random, drawn": engine(lambda seed: RandomSearch(Product(BLOCKS), free, None, batch=1, seed=seed)),
    "evolution": engine(
        lambda seed: Evolution(Product(BLOCKS), free, None, EvolutionOptions(12, 4), batch=1, seed=seed)
    ),
    "local search": local,
    "thirds": thirds,
    "FP-NAS": engine(lambda seed: FPNAS(BLOCKS, free, None, FPNASOptions(lr=0.1, joint_from=None), seed=seed)),
    "PARSEC": engine(lambda seed: FPNAS(BLOCKS, free, None, parsec_options(4, lr=0.1), seed=seed)),
}


def course(table: VideoNAS, search: Search, seed: int, budgets: Sequence[float]) -> list[str | None]:
    """The answer of a search at each budget, core-seconds; None before it has one."""
    table.reset()
    best, answers = None, []
    for number, found in enumerate(search(table, seed)):  # which has no end
        while len(answers) < len(budgets) and table.spent > budgets[len(answers)]:
            answers.append(best and best["code"])  # what was found by then
        if len(answers) == len(budgets) or number == MOST:
            break
        if best is None or found["validation"] > best["validation"]:
            best = found
    return answers + [best and best["code"]] * (len(budgets) - len(answers))


def random_search(validation: np.ndarray, values: np.ndarray, k: int) -> float:
    """Expected value of the best by validation of k of n architectures, drawn without return.

    The i-th best of all is the best of the k with probability C(n - i, k - 1) / C(n, k).
    """
    n, k = len(values), min(k, len(values))
    left = n - np.arange(1, n + 1)

    def log_choose(a: np.ndarray | int, b: int) -> np.ndarray:
        a = np.asarray(a, float)
        return np.where(a >= b, gammaln(a + 1) - gammaln(b + 1) - gammaln(np.maximum(a - b, 0) + 1), -np.inf)

    weights = np.exp(log_choose(left, k - 1) - log_choose(n, k))
    return float(weights @ values[np.argsort(-validation, kind="stable")])


def replayed(table: VideoNAS, repeats: int, budgets: Sequence[int] = BUDGETS) -> dict[str, list[list[float]]]:
    """By strategy, for each budget: mean regret and the ends of its 95 % interval over repeats, points.

    A search that has no answer yet has the mean regret of all.
    """
    runs = {code: table.query(code, SEED) for code in table.codes}
    price = table.spent / len(runs)
    regret = {code: table.final_report(code)["regret"] for code in runs}
    nothing = float(np.mean(list(regret.values())))
    validation, values = (np.array(x) for x in ([r["validation"] for r in runs.values()], list(regret.values())))
    found = {"random, expected": [[random_search(validation, values, k)] * 3 for k in budgets]}
    with Progress("replay", len(STRATEGIES) * repeats) as progress:
        for name, search in STRATEGIES.items():
            courses = []
            for seed in range(repeats):
                answers = course(table, search, seed, [k * price for k in budgets])
                courses.append([regret.get(code, nothing) for code in answers])
                progress.step(note=name)
            of, t = np.array(courses), stdtrit(max(repeats - 1, 1), 0.975)
            half = t * of.std(0, ddof=1) / np.sqrt(repeats)
            found[name] = np.column_stack([of.mean(0), of.mean(0) - half, of.mean(0) + half]).tolist()
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Replay all strategies; print and write their regrets."""
    parser = study_parser(__doc__, "studies/replay.json")
    parser.add_argument("--table", type=Path, default=DEFAULT)
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args(argv)
    if options.repeats < 2:
        parser.error(f"--repeats {options.repeats}: one search shows nothing of the spread of searches, take 2 or more")
    table = VideoNAS(options.table)
    best = table.optimum()
    if best is None:
        parser.error(f"{options.table}: nothing is repeated yet, the optimum is not known: make videonas PART=repeats")
    found = replayed(table, options.repeats)
    record = dict(regret=found, budgets=list(BUDGETS), repeats=options.repeats, optimum=best, space=table.info["space"])
    write_json(options.out, record | dict(setting=table.info["setting"], provenance=session("none").model_dump()))
    rows = [[name, *(f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in of)] for name, of in found.items()]
    headers = ["regret, points of test", *(f"{k} trainings" for k in BUDGETS)]
    print(tabulate(rows, headers=headers, tablefmt="pipe"))


if __name__ == "__main__":
    main()
