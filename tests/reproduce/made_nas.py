"""A made table of VideoNAS: accuracies follow from a few main effects, with noise of videos and seeds."""

import json
import zlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from reproduce.evidence.tabular import FACTORS, codes, levels, space_version

EFFECTS = dict(split=(-14, -8, 2, 5, 0), temporal=(-6, 2, 4), fusion=(-3, 1, 0, 2), expansion=(2, -2))  # points
SEED_SD = 0.8


def made_table(of: Sequence[str] | None = None, repeated: int = 30, drawn: int = 60) -> pd.DataFrame:
    """Rows of the given codes of the subspace, all by default, and of some drawn ones, which code for nothing."""
    of, rng = list(of or codes()), np.random.default_rng(0)
    first = {
        code: 60
        + sum(
            effects[FACTORS[name].index(dict(zip(FACTORS, levels(code), strict=True))[name])]
            for name, effects in EFFECTS.items()
        )
        for code in of
    }
    random = ["random-" + "".join(map(str, rng.integers(0, 2, 45))) for _ in range(drawn)]
    first |= {code: 50 + code.count("1") / 4 for code in random}
    again = set(of[:repeated]) | set(sorted(of, key=first.get)[-repeated:])
    rows = []
    for code, mean in first.items():
        for seed in (0, 1, 2) if code in again else (0,):
            luck = np.random.default_rng(zlib.crc32(f"{code} {seed}".encode()))
            truth = mean + SEED_SD * luck.normal()
            factorial = not code.startswith("random-")
            found = levels(code) if factorial else (None,) * len(FACTORS)
            ends = dict(_third=(0.5, 2.0), _two_thirds=(0.8, 1.5))
            rows.append(
                dict(code=code, seed=seed, part="factorial" if factorial else "random")
                | dict(zip(FACTORS, found, strict=True))
                | dict(gmacs=0.016, params=100_000 + 1000 * luck.integers(50), residual=0.001, slow_share=0.5)
                | dict(clips_per_s=300 + luck.normal(), diverged=False, core_s=50 + 10 * luck.random())
                | {f"validation{end}": share * truth for end, (share, _) in ends.items()}
                | {f"loss{end}": loss - truth / 100 for end, (_, loss) in ends.items()}
                | dict(validation=truth + luck.normal(), loss=1 - truth / 100, test=truth + luck.normal() / 2)
                | dict(log_loss=1.0, test_log_loss=1.0, run="0" * 8, architecture=made_architecture(luck))
            )
    table = pd.DataFrame(rows)
    table.attrs["videonas"] = dict(
        space=space_version(),
        data="ssv2",
        setting="base",
        changes={},
        budget=0.016,
        dataset="synthetic-ssv2 made",
        classes=8,
        seeds=[0, 1, 2],
        repeated_at_random=of[:repeated],
        planned=len(first),
        missed=[],
        manifests=dict(train="a", validation="b", test="c"),
        commits=["0" * 40],
        dirty=False,
        devices=["Intel Xeon, 2 cores"],
        threads=[1],
        timed_on=[],
    )
    return table


def made_architecture(luck: np.random.Generator) -> str:
    """JSON of what the card reads of an architecture."""
    block = [dict(t=int(luck.choice([1, 3])), k=int(luck.choice([3, 5])), e=float(luck.choice([1, 3]))) for _ in "ab"]
    group = [dict(channels=int(luck.integers(8, 64)), blocks=block, attention=str(luck.choice(["none", "se"])))]
    other = [dict(group[0], channels=int(luck.integers(8, 64)))]
    return json.dumps(dict(slow=group, fast=other, fusions=[str(luck.choice(["none", "both"])) for _ in "abc"]))
