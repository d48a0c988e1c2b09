"""Pictures: written whole, complete, and legible."""

import re
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from autotsnet.architecture import ATTENTIONS, FUSIONS
from autotsnet.spaces import preset
from reproduce.evidence import plots


def drawn(space: str, seed: int = 0):
    """A random architecture of a preset."""
    space = preset(space)
    return space.decode(space.sample(1, np.random.default_rng(seed))[0])


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


def texts(path) -> list[str]:
    """All text elements of an SVG."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())


def boxes(figure):
    """Extents in pixels of all texts of an architecture's figure."""
    renderer = figure.canvas.get_renderer()
    return [(t.get_text(), t.get_window_extent(renderer)) for t in figure.axes[0].texts]


@pytest.mark.parametrize("space", ["tiny", "m"])
def test_a_png_is_a_full_hd_slide(space, tmp_path):
    path = tmp_path / "new" / "net.png"
    plots.draw_architecture(drawn(space), path, title="a net", gmacs=4.7)
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) == (1920, 1080)
    assert [p.name for p in path.parent.iterdir()] == ["net.png"]


@pytest.mark.parametrize("space", ["tiny", "m"])
def test_an_svg_says_all_of_the_architecture(space, tmp_path):
    net = drawn(space)
    net = replace(net, fusions=FUSIONS[: len(net.fusions)])
    plots.draw_architecture(net, tmp_path / "net.svg", title="a net", gmacs=4.7)
    said = texts(tmp_path / "net.svg")
    assert {"a net", "slow", "fast"} <= set(said)
    assert any(s.startswith("4.7 GMACs per view") for s in said)
    groups = net.slow + net.fast
    for group in groups:
        assert f"{group.channels} ch" in said
        assert group.attention == "none" or plots.ATTENTION_LABELS[group.attention] in said
    for fusion in net.fusions:
        assert any(s.split(" +")[0] == plots.FUSION_LABELS[fusion] for s in said)
    kernels = Counter(f"{b.t}×{b.k}²" for g in groups for b in g.blocks) + Counter({"1×3²": 2, "5×1²": 1})  # stems
    assert {s: said.count(s) for s in kernels} == kernels


def test_equal_pictures_are_equal_files(tmp_path):
    for name in ("a.svg", "b.svg"):
        plots.draw_architecture(drawn("tiny"), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("streams", ["both", "slow", "fast"])
@pytest.mark.parametrize(("space", "seeds"), [("tiny", 5), ("m", 1), ("l", 1)])
def test_no_text_covers_another_or_leaves_the_picture(space, seeds, streams):
    for seed in range(seeds):
        net = drawn(space, seed)
        net = net if streams == "both" else net.alone(streams)
        figure = plots.architecture_figure(net, gmacs=4.7)
        found = boxes(figure)
        assert [(a, b) for (a, x), (b, y) in combinations(found, 2) if x.overlaps(y)] == []
        edge = figure.bbox
        assert [t for t, b in found if b.x0 < 0 or b.y0 < 0 or b.x1 > edge.x1 or b.y1 > edge.y1] == []


def test_the_widest_legend_fits():
    net = drawn("m")
    kinds = ("se", "nonlocal", "glore", "temporal")
    net = replace(
        net,
        slow=tuple(replace(g, attention=a) for g, a in zip(net.slow, kinds, strict=True)),
        fusions=("none", "concat", "concat", "both"),
    )
    figure = plots.architecture_figure(net)
    assert max(b.x1 for _, b in boxes(figure)) < figure.bbox.x1


def test_one_stream_has_one_lane_and_no_fusion(tmp_path):
    plots.draw_architecture(drawn("tiny").alone("fast"), tmp_path / "net.svg")
    said = texts(tmp_path / "net.svg")
    assert "fast" in said
    assert "slow" not in said
    assert not set(said) & {"TS-Fusion", "no fusion"}


def test_labels_stay_legible_in_the_deepest_space():
    sizes = [t.get_fontsize() for t in plots.architecture_figure(drawn("l")).axes[0].texts]
    assert min(sizes) > 6  # points, on a slide 13.3 inches wide


def test_every_type_has_a_label():
    assert set(plots.FUSION_LABELS) == set(FUSIONS)
    assert {"none", *plots.ATTENTION_LABELS} == set(ATTENTIONS) == {"none", *plots.ATTENTION_NAMES}


def test_an_unknown_suffix_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"net\.bmp.*use \.png, \.svg, \.pdf"):
        plots.draw_architecture(drawn("tiny"), tmp_path / "net.bmp")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_trajectory_names_stages_units_and_budget(suffix, tmp_path):
    path = tmp_path / f"search.{suffix}"
    plots.draw_trajectory(
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
    assert plots.decided(frame) == pytest.approx(1 - (5 + 7) / (9 + 9))  # entropy falls by 1 a step, from 9
    figure = plots.trajectory_figure(frame, {"slow": 1.5, "fast": 2.5})
    assert figure.get_suptitle() == "The search decided 33 % of the entropy of P"
    assert plots.decided(journal(("slow", 1)).assign(entropy=0.0)) == 0


def test_stages_that_count_anew_follow_each_other():
    figure = plots.trajectory_figure(journal(("slow", 5), ("fast", 4)), {"slow": 1.5, "fast": 2.5})
    entropy, _, gmacs, _ = figure.axes
    first, second = (line.get_xdata().tolist() for line in entropy.lines if len(line.get_xdata()) > 2)
    assert first == [0, 1, 2, 3, 4]
    assert second == [5, 6, 7, 8]
    assert [list(line.get_ydata()) for line in gmacs.lines if line.get_linestyle() == "--"] == [[1.5, 1.5], [2.5, 2.5]]


def test_the_cost_is_the_mean_of_a_steps_samples_and_a_lost_sample_is_no_hole():
    frame = journal(("slow", 2))
    frame["gmacs"] = [1.0, 2.0, 6.0, 4.0, 4.0, 4.0]
    frame.loc[1, "log_likelihood"] = float("nan")
    *_, gmacs, likelihood = plots.trajectory_figure(frame, {"slow": 4.7}).axes
    assert gmacs.lines[0].get_ydata().tolist() == [3.0, 4.0]
    assert np.isfinite(likelihood.lines[0].get_ydata()).all()


def test_a_journal_that_cannot_be_drawn_is_named():
    with pytest.raises(ValueError, match="no column entropy"):
        plots.trajectory_figure(journal(("slow", 2)).drop(columns="entropy"), {})
    with pytest.raises(ValueError, match="no rows"):
        plots.trajectory_figure(journal(), {})


def test_curves_start_at_zero_and_every_kind_is_named_once(tmp_path):
    figure = plots.curves_figure({"one": [np.arange(3.0), np.ones(3)], "other": [np.ones(3)]}, "step", "share")
    (axes,) = figure.axes
    assert axes.get_ylim()[0] == 0
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["one", "other"]
    assert len(axes.lines) == 3
    plots.draw_curves({"one": [np.arange(3.0)]}, tmp_path / "curves.png", "step", "share")
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_pruned_connections_are_told_from_kept_ones():
    frame = pd.DataFrame(dict(node=[4, 4, 5], input=[0, 1, 4], weight=[0.4, 0.6, 0.5], kept=[False, True, True]))
    (axes,) = (figure := plots.connections_figure(frame)).axes
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines] == [
        ([4, 5], [0.6, 0.5]),
        ([4], [0.4]),
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["kept (2 of 3)", "pruned (1 of 3)"]
    assert figure.get_suptitle() == "The search kept 67 % of the connections"


def test_curves_below_zero_are_not_cut_off():
    assert plots.curves_figure({"a": [np.array([-2.0, np.nan])]}, "x", "y").axes[0].get_ylim()[0] < -2
