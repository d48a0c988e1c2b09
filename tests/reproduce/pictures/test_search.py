"""Pictures of searches: what they say is what the journal says."""

import numpy as np
import pandas as pd
import pytest

from reproduce.pictures import search as search_picture


def journal(*stages: tuple[str, int], seed: int = 0) -> pd.DataFrame:
    """A row per sample; every stage counts its steps from 0."""
    rng = np.random.default_rng(seed)
    rows = [
        (step, stage, 5 + rng.normal(), -2 + rng.normal(), 1 / 3, 9.0 - step, 3)
        for stage, steps in stages
        for step in range(steps)
        for _ in range(3)
    ]
    return pd.DataFrame(rows, columns=["step", "stage", "gmacs", "log_likelihood", "weight", "entropy", "samples"])


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_trajectory_names_stages_units_and_budget(suffix, tmp_path):
    path = tmp_path / f"search.{suffix}"
    search_picture.draw_trajectory(
        journal(("slow", 5), ("fast", 4), ("fusion", 1)), path, {"slow": 1.5, "fast": 2.5, "fusion": 4.7}
    )
    assert path.stat().st_size > 10_000
    if suffix == "svg":
        text = path.read_text()
        for word in (
            "slow",
            "fast",
            "fusion",
            "(nats)",
            "(architectures)",
            "(GMACs per view)",
            "(nats per clip)",
            "4.7",
        ):
            assert word in text


def test_a_search_says_how_much_it_decided():
    frame = journal(("slow", 5), ("fast", 3))
    assert search_picture.decided(frame) == pytest.approx(1 - (5 + 7) / (9 + 9))  # entropy falls by 1 a step, from 9
    figure = search_picture.trajectory_figure(frame, {"slow": 1.5, "fast": 2.5})
    assert figure.get_suptitle() == "The search decided 33 % of the entropy of P"
    assert search_picture.decided(journal(("slow", 1)).assign(entropy=0.0)) == 0


def test_stages_that_count_anew_follow_each_other():
    figure = search_picture.trajectory_figure(journal(("slow", 5), ("fast", 4)), {"slow": 1.5, "fast": 2.5})
    entropy, _, gmacs, _ = figure.axes
    first, second = (line.get_xdata().tolist() for line in entropy.lines if len(line.get_xdata()) > 2)
    assert first == [0, 1, 2, 3, 4]
    assert second == [5, 6, 7, 8]
    assert [list(line.get_ydata()) for line in gmacs.lines if line.get_linestyle() == "--"] == [[1.5, 1.5], [2.5, 2.5]]


def test_the_cost_is_the_mean_of_a_steps_samples_and_a_lost_sample_is_no_hole():
    frame = journal(("slow", 2))
    frame["gmacs"] = [1.0, 2.0, 6.0, 4.0, 4.0, 4.0]
    frame.loc[1, "log_likelihood"] = float("nan")
    *_, gmacs, likelihood = search_picture.trajectory_figure(frame, {"slow": 4.7}).axes
    assert gmacs.lines[0].get_ydata().tolist() == [3.0, 4.0]
    assert np.isfinite(likelihood.lines[0].get_ydata()).all()


def test_a_journal_that_cannot_be_drawn_is_named():
    with pytest.raises(ValueError, match="no column entropy"):
        search_picture.trajectory_figure(journal(("slow", 2)).drop(columns="entropy"), {})
    with pytest.raises(ValueError, match="no rows"):
        search_picture.trajectory_figure(journal(), {})


def test_curves_start_at_zero_and_every_kind_is_named_once(tmp_path):
    figure = search_picture.curves_figure({"one": [np.arange(3.0), np.ones(3)], "other": [np.ones(3)]}, "step", "share")
    (axes,) = figure.axes
    assert axes.get_ylim()[0] == 0
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["one", "other"]
    assert len(axes.lines) == 3
    search_picture.draw_curves({"one": [np.arange(3.0)]}, tmp_path / "curves.png", "step", "share")
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_pruned_connections_are_told_from_kept_ones():
    frame = pd.DataFrame(dict(node=[4, 4, 5], input=[0, 1, 4], weight=[0.4, 0.6, 0.5], kept=[False, True, True]))
    (axes,) = (figure := search_picture.connections_figure(frame)).axes
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines] == [
        ([4, 5], [0.6, 0.5]),
        ([4], [0.4]),
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["kept (2 of 3)", "pruned (1 of 3)"]
    assert figure.get_suptitle() == "The search kept 67 % of the connections"


def test_curves_below_zero_are_not_cut_off():
    assert search_picture.curves_figure({"a": [np.array([-2.0, np.nan])]}, "x", "y").axes[0].get_ylim()[0] < -2
