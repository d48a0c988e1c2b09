"""Counting: closed form over a whole space, and every entry of both real suites on the meta device."""

import numpy as np
import pytest

from autotsnet.cost import CostModel
from autotsnet.spaces import PRESETS, preset
from reproduce.suites import SUITES, _solution

ARCHITECTURES = 100_000


@pytest.mark.parametrize("name", PRESETS)
def test_closed_form(benchmark, name):
    space = preset(name)
    codes, cost = space.sample(ARCHITECTURES, np.random.default_rng(0)), CostModel(space, 400)
    benchmark.pedantic(cost, args=(codes,), rounds=3)
    if benchmark.stats:
        benchmark.extra_info["architectures per second"] = round(ARCHITECTURES / benchmark.stats.stats.min)


@pytest.mark.slow
def test_all_entries_of_both_suites_are_solved_and_counted(benchmark):
    def solve():
        _solution.cache_clear()
        suites = SUITES["kinetics"], SUITES["ssv2"]
        return [s.solution(e) for s in suites for e in s.entries if not e.search]

    assert all(s.matched for s in benchmark.pedantic(solve, rounds=1))
