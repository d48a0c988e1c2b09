import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autotsnet.registry import FAMILIES, Knob
from baselines.slowfast import slowfast
from baselines.tsm import tsm
from baselines.x3d import x3d
from reproduce import budget, suites
from reproduce.budget import GOOD_ENOUGH, BudgetError, solve
from reproduce.measure.macs import count

TINY = {"frames": 8, "crop": 64, "num_classes": 8}
KINETICS = {"frames": 16, "crop": 224, "num_classes": 400}
KNOBS = {build: FAMILIES[build.__name__].knobs for build in (x3d, slowfast, tsm)}
SHALLOW = {
    x3d: {"blocks": (1, 1, 2, 1), "head_width": 256},
    slowfast: {"depth": 18, "blocks": (1, 1, 1, 1), "alpha": 4},
    tsm: {"depth": 18, "blocks": (1, 1, 1, 1)},
}


@pytest.mark.parametrize("build", KNOBS, ids=lambda build: build.__name__)
@pytest.mark.parametrize("gmacs", [0.03, 0.05, 0.1])
def test_tiny_budgets_are_met(build, gmacs):
    solution = solve(build, KNOBS[build], gmacs, **TINY, fixed=SHALLOW[build])
    assert solution.matched
    assert abs(solution.residual) <= 0.01
    counted = count(lambda: build(**TINY, **solution.kwargs), TINY["frames"], TINY["crop"])
    assert (counted.gmacs, counted.params) == (solution.gmacs, solution.params)
    assert solution.residual == pytest.approx(counted.gmacs / gmacs - 1)


@pytest.mark.parametrize("build", KNOBS, ids=lambda build: build.__name__)
def test_a_kinetics_budget_is_met(build):
    solution = solve(build, KNOBS[build], 4.7, **KINETICS)
    assert abs(solution.residual) <= 0.005
    assert solution.evaluations <= 20


def test_the_native_budget_gives_the_native_width():
    solution = solve(x3d, KNOBS[x3d], 4.732, **KINETICS, fixed={"bottleneck": 2.25})
    assert solution.kwargs == {"bottleneck": 2.25, "width": pytest.approx(24, abs=0.125)}


@pytest.mark.parametrize("gmacs", [5000, 0.0005])
def test_an_impossible_budget_names_the_way_out(gmacs):
    with pytest.raises(BudgetError) as error:
        solve(tsm, KNOBS[tsm], gmacs, **TINY, fixed=SHALLOW[tsm])
    message = str(error.value)
    assert message.startswith(f"tsm: {gmacs:g} GMACs at 8x64x64 is out of reach")
    assert "base_channels and stem_channels span 0.00" in message
    assert message.endswith("change the budget, frames and crop, or the fixed arguments")
    assert "\n" not in message


def test_a_budget_must_be_positive():
    with pytest.raises(BudgetError, match="a budget of 0 GMACs is not positive"):
        solve(tsm, KNOBS[tsm], 0, **TINY)


def test_without_a_knob_to_turn_the_miss_is_reported():
    fixed = {**SHALLOW[tsm], "base_channels": 8, "stem_channels": 8}
    solution = solve(tsm, KNOBS[tsm], 0.05, **TINY, fixed=fixed)
    assert not solution.matched
    assert solution.residual == pytest.approx(solution.gmacs / 0.05 - 1)
    assert solution.evaluations == 1
    assert solution.kwargs == fixed


class Toy(nn.Module):
    def __init__(self, width, head, num_classes):
        super().__init__()
        self.stem = nn.Conv3d(3, width, 1)
        self.body = nn.Conv3d(width, width, 1)
        self.head = nn.Linear(width, head)
        self.fc = nn.Linear(head, num_classes)

    def forward(self, clips):
        return self.fc(self.head(self.body(self.stem(clips)).mean((2, 3, 4))))


def toy(*, num_classes, frames, crop, width=8, head=8):
    return Toy(width, head, num_classes)


def toy_macs(width, head, num_classes, frames, crop):
    return frames * crop**2 * (3 * width + width**2) + width * head + head * num_classes


WIDTHS, HEADS = Knob("width", 2, 20, 1), Knob("head", 1, 64, 1)
VIEW = {"num_classes": 5, "frames": 2, "crop": 4}


@given(gmacs=st.floats(toy_macs(2, 8, **VIEW) / 1e9, toy_macs(20, 8, **VIEW) / 1e9))
def test_one_knob_is_solved_as_well_as_by_trying_all(gmacs):
    solution = solve(toy, [WIDTHS], gmacs, **VIEW)
    misses = [abs(toy_macs(width, 8, **VIEW) / 1e9 / gmacs - 1) for width in range(2, 21)]
    assert abs(solution.residual) <= max(min(misses) + 1e-12, GOOD_ENOUGH)
    assert solution.matched == (abs(solution.residual) <= 0.02)


@given(gmacs=st.floats(toy_macs(6, 1, **VIEW) / 1e9, toy_macs(20, 8, **VIEW) / 1e9))
def test_a_second_knob_trims(gmacs):
    one, two = (solve(toy, knobs, gmacs, **VIEW) for knobs in ([WIDTHS], [WIDTHS, HEADS]))
    assert abs(two.residual) <= abs(one.residual)
    assert two.matched


def test_the_seed_of_the_caller_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    solve(tsm, KNOBS[tsm], 0.05, **TINY, fixed=SHALLOW[tsm])
    assert torch.equal(torch.rand(1), expected)


@pytest.fixture
def counted(monkeypatch):
    """How often a model was counted."""
    calls = []
    monkeypatch.setattr(budget, "count", lambda *of: calls.append(of) or count(*of))
    return calls


def test_a_solution_is_remembered_by_what_it_depends_on(tmp_path, monkeypatch, counted):
    def solved(build=x3d, gmacs=0.03, memory=tmp_path, **changes):
        before = len(counted)
        return solve(build, KNOBS[x3d], gmacs, **(TINY | changes), fixed=SHALLOW[x3d], memory=memory), len(
            counted
        ) > before

    first, anew = solved()
    assert anew
    again, anew = solved()
    assert not anew
    assert (again, list(again.kwargs)) == (first, list(first.kwargs))
    assert again.kwargs == first.kwargs
    assert solved(memory=None) == (first, True)
    for changes in (dict(gmacs=0.031), dict(frames=4), dict(crop=32), dict(num_classes=7)):
        assert solved(**changes)[1], changes
    monkeypatch.setattr(budget, "version", lambda name: "0")
    budget.code.cache_clear()
    assert solved()[1], "another torch"
    budget.code.cache_clear()


def test_changed_source_is_another_key(tmp_path, monkeypatch):
    for name in (*budget.OURS, "reproduce/measure"):
        (tmp_path / name).mkdir(parents=True)
    sources = [tmp_path / name for name in ("autotsnet/a.py", "baselines/b.py", "reproduce/measure/macs.py")]
    sources.append(tmp_path / "reproduce" / "budget.py")
    monkeypatch.setattr(budget, "ROOT", tmp_path)
    found = []
    for source in [*sources, None]:
        for path in sources:
            path.write_text("changed" if path == source else "")
        budget.code.cache_clear()
        found.append(budget.code())
    budget.code.cache_clear()
    assert len(set(found)) == 5


@pytest.mark.parametrize("damage", ["", "{", "[]", "other number", "other key"])
def test_a_damaged_memory_is_ignored_and_rewritten(tmp_path, damage, counted):
    def solved():
        return solve(tsm, KNOBS[tsm], 0.05, **TINY, fixed=SHALLOW[tsm], memory=tmp_path)

    first = solved()
    (path,) = tmp_path.iterdir()
    whole = path.read_text()
    text = {"other number": whole.replace('"params": ', '"params": 1'), "other key": whole.replace("tsm", "x3d")}
    path.write_text(text.get(damage, damage))
    before = len(counted)
    assert solved() == first
    assert len(counted) > before
    assert path.read_text() == whole


def test_users_models_and_failures_are_not_remembered(tmp_path):
    def mine(*, num_classes, frames, crop, width=4):
        return nn.Sequential(
            nn.Conv3d(3, width, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(width, num_classes)
        )

    solve(mine, [Knob("width", 4, 64, 1)], 0.01, **TINY, memory=tmp_path)
    with pytest.raises(BudgetError):
        solve(x3d, KNOBS[x3d], 1e-9, **TINY, fixed=SHALLOW[x3d], memory=tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert solve(tsm, KNOBS[tsm], 0.05, **TINY, fixed=SHALLOW[tsm], memory=tmp_path / "file").matched


def test_the_suites_remember_their_solutions(tmp_path, monkeypatch):
    monkeypatch.setenv("CACHE", str(tmp_path))
    suites._solution.cache_clear()
    for name, entry in (("ssv2-tiny", "tsm"), ("kinetics-native", "x3d_xs")):
        suite = suites.SUITES[name]
        suite = suite.of(suite.entry(entry))
        first = suite.solution(suite.entry(entry))
        suites._solution.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(budget, "count", None)
            assert suite.solution(suite.entry(entry)) == first
    suites._solution.cache_clear()
