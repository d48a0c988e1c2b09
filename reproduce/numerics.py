"""The numerics version of an entry: it changes when the training code computes other numbers.

A run hash covers the recipe and the network, but not the code. The losses that the gate expects of the first steps take
the place of the code: other numbers need new expected losses, and then every run of the entry is another run.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

EXPECTED = Path(__file__).resolve().parent.parent / "configs" / "tiny"
CASE, QUANTITY = "gate", "losses of 20 steps"


def numerics(entry_name: str, control: str | None = None) -> str:
    """Eight hex digits of the losses that the gate expects of an entry; empty where it expects none.

    Args:
        entry_name: of a suite's entry.
        control: for a searched entry, which the gate cannot train: the entry of random architectures of its space; by
            default the one of that name: ``auto_tsnet_random``, ``assemblenet_random``, ``pvnas_random``.

    Raises:
        ValueError: the file of the expectations is damaged.
    """
    for name in (entry_name, control or f"{entry_name.removesuffix('_searched')}_random"):
        path = EXPECTED / f"{name}.json"
        if not path.exists():
            continue
        try:
            losses = [float(loss) for loss in json.loads(path.read_text())[CASE][QUANTITY]["expected"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} has no {CASE} losses ({error!r}); restore it: git checkout {path}") from error
        return hashlib.sha256(json.dumps(losses).encode()).hexdigest()[:8]
    return ""
