"""Pictures of architectures: written whole, complete, and legible."""

import re
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from autotsnet.architecture import ATTENTIONS, FUSIONS
from autotsnet.spaces import preset
from reproduce.pictures import architecture as architecture_picture


def drawn(space: str, seed: int = 0):
    """A random architecture of a preset."""
    space = preset(space)
    return space.decode(space.sample(1, np.random.default_rng(seed))[0])


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
    architecture_picture.draw_architecture(drawn(space), path, title="a net", gmacs=4.7)
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) == (1920, 1080)
    assert [p.name for p in path.parent.iterdir()] == ["net.png"]


@pytest.mark.parametrize("space", ["tiny", "m"])
def test_an_svg_says_all_of_the_architecture(space, tmp_path):
    net = drawn(space)
    net = replace(net, fusions=FUSIONS[: len(net.fusions)])
    architecture_picture.draw_architecture(net, tmp_path / "net.svg", title="a net", gmacs=4.7)
    said = texts(tmp_path / "net.svg")
    assert {"a net", "slow", "fast"} <= set(said)
    assert any(s.startswith("4.7 GMACs per view") for s in said)
    groups = net.slow + net.fast
    for group in groups:
        assert f"{group.channels} ch" in said
        assert group.attention == "none" or architecture_picture.ATTENTION_LABELS[group.attention] in said
    for fusion in net.fusions:
        assert any(s.split(" +")[0] == architecture_picture.FUSION_LABELS[fusion] for s in said)
    kernels = Counter(f"{b.t}×{b.k}²" for g in groups for b in g.blocks) + Counter({"1×3²": 2, "5×1²": 1})  # stems
    assert {s: said.count(s) for s in kernels} == kernels


def test_equal_pictures_are_equal_files(tmp_path):
    for name in ("a.svg", "b.svg"):
        architecture_picture.draw_architecture(drawn("tiny"), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("streams", ["both", "slow", "fast"])
@pytest.mark.parametrize(("space", "seeds"), [("tiny", 5), ("m", 1), ("l", 1)])
def test_no_text_covers_another_or_leaves_the_picture(space, seeds, streams):
    for seed in range(seeds):
        net = drawn(space, seed)
        net = net if streams == "both" else net.alone(streams)
        figure = architecture_picture.architecture_figure(net, gmacs=4.7)
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
    figure = architecture_picture.architecture_figure(net)
    assert max(b.x1 for _, b in boxes(figure)) < figure.bbox.x1


def test_one_stream_has_one_lane_and_no_fusion(tmp_path):
    architecture_picture.draw_architecture(drawn("tiny").alone("fast"), tmp_path / "net.svg")
    said = texts(tmp_path / "net.svg")
    assert "fast" in said
    assert "slow" not in said
    assert not set(said) & {"TS-Fusion", "no fusion"}


def test_labels_stay_legible_in_the_deepest_space():
    sizes = [t.get_fontsize() for t in architecture_picture.architecture_figure(drawn("l")).axes[0].texts]
    assert min(sizes) > 6  # points, on a slide 13.3 inches wide


def test_every_type_has_a_label():
    assert set(architecture_picture.FUSION_LABELS) == set(FUSIONS)
    assert (
        {"none", *architecture_picture.ATTENTION_LABELS}
        == set(ATTENTIONS)
        == {"none", *architecture_picture.ATTENTION_NAMES}
    )


def test_an_unknown_suffix_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"net\.bmp.*use \.png, \.svg, \.pdf"):
        architecture_picture.draw_architecture(drawn("tiny"), tmp_path / "net.bmp")
    assert not list(tmp_path.iterdir())
