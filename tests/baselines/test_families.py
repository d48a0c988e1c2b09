"""What sets each baseline apart; that they all build, run and train is tested over the registry."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmaction.models.backbones.resnet_tsm import TemporalShift as MMActionShift
from torch import nn

from autotsnet.meta import on_meta
from autotsnet.models.two_stream import slow_frames
from baselines import VARIANTS
from baselines.mvit import mvit
from baselines.residual import stage_widths
from baselines.slowfast import slow, slowfast
from baselines.tsm import TemporalShift, temporal_shift, tsm, tsm_mobilenetv2
from baselines.x3d import x3d
from reproduce.measure.macs import count

SMALL = {
    x3d: {"frames": 4, "crop": 64, "blocks": (1, 1, 2, 1), "width": 8, "head_width": 64},
    slowfast: {"frames": 8, "crop": 64, "alpha": 4, "depth": 18, "blocks": (1, 1, 1, 1), "slow_channels": 16},
    tsm: {"frames": 4, "crop": 64, "depth": 18, "blocks": (1, 1, 1, 1), "base_channels": 8},
    slow: {"frames": 4, "crop": 64, "depth": 18, "blocks": (1, 1, 1, 1), "channels": 16},
    tsm_mobilenetv2: {"frames": 4, "crop": 64, "width": 0.25},
    mvit: {"frames": 4, "crop": 64, "embed_dim": 16, "depth": 4, "downscale": (1, 3)},
}
# Millions of parameters (model zoos of PySlowFast, pytorchvideo and mmaction2) and GMACs at the training crop.
NATIVE = {
    "x3d_xs": (3.79, 0.61),
    "x3d_s": (3.79, 1.96),
    "x3d_m": (3.79, 4.73),
    "x3d_l": (6.15, 18.37),
    "slowfast_4x16_r50": (34.48, 27.64),
    "slowfast_8x8_r50": (34.57, 50.31),
    "slowfast_8x8_r101": (62.83, 96.40),
    "slowfast_8x8_r101_50_50": (53.77, 81.55),
    "slowfast_16x8_r101": (62.83, 192.79),
    "slowfast_16x8_r101_50_50": (53.77, 163.09),
    "slowfast_8x8_r50_ssv2": (34.05, 50.31),
    "slowfast_16x8_r50_ssv2": (34.05, 100.62),
    "slowfast_4x16_r50_mmaction2": (34.48, 27.64),
    "slowfast_8x8_r50_mmaction2": (34.57, 50.31),
    "slowfast_8x8_r101_mmaction2": (62.91, 96.71),
    "slow_4x16_r50": (32.45, 20.87),
    "slow_8x8_r50": (32.45, 41.74),
    "slow_8x8_r50_ssv2": (31.99, 41.74),
    "tsm_r50_8f": (24.33, 32.70),
    "tsm_r50_16f": (24.33, 65.41),
    "tsm_r50_8f_ssv2": (23.86, 32.70),
    "tsm_r50_16f_ssv2": (23.86, 65.40),
    "tsm_r101_8f_ssv2": (42.86, 62.40),
    "tsm_mobilenetv2_8f": (2.74, 2.40),
    "mvit_b_16x4": (36.61, 70.60),
    "mvit_b_32x3": (36.61, 169.96),
    "movinet_a0": (2.70, 2.63),
    "movinet_a1": (4.28, 5.87),
    "movinet_a2": (4.84, 11.56),
    "movinet_a3": (6.99, 55.59),
    "movinet_a4": (10.94, 103.34),
    "movinet_a5": (18.24, 276.33),
    "movinet_a0_stream": (3.75, 2.43),
    "movinet_a1_stream": (6.45, 5.54),
    "movinet_a2_stream": (7.33, 10.70),
    "movinet_a3_stream": (10.99, 52.13),
    "movinet_a4_stream": (18.14, 96.74),
    "movinet_a5_stream": (31.50, 261.71),
    "tvn_1": (26.54, 4.33),
    "tvn_2": (109.57, 34.61),
    "tvn_3": (67.87, 53.64),
    "tvn_4": (43.79, 25.92),
    "tvn_mobile_1": (7.36, 5.35),
    "tvn_mobile_2": (5.54, 5.03),
    "e3d_s": (2.33, 1.86),
    "e3d_m": (2.19, 4.64),
    "e3d_l": (4.45, 18.34),
}
# What papers and model zoos print at a test crop of 256, rounded as they do.
AT_256 = {
    "slowfast_4x16_r50": "36.1",
    "slowfast_8x8_r50": "65.7",
    "slowfast_16x8_r50_ssv2": "131.4",
    "slow_8x8_r50": "54.52",
}
by_name = pytest.mark.parametrize("build", SMALL, ids=lambda build: build.__name__)


@pytest.mark.parametrize("name", VARIANTS)
def test_native_variants_have_the_published_size_and_cost(name):
    build, arguments = VARIANTS[name]
    counted = count(lambda: build(**arguments), arguments["frames"], arguments["crop"])
    assert (round(counted.params / 1e6, 2), round(counted.gmacs, 2)) == NATIVE[name]


@pytest.mark.parametrize("name", AT_256)
def test_costs_what_papers_print_at_256(name):
    build, arguments = VARIANTS[name]
    counted = count(lambda: build(**arguments), arguments["frames"], 256)
    digits = len(AT_256[name].partition(".")[2])
    assert f"{counted.gmacs:.{digits}f}" == AT_256[name]


@pytest.mark.parametrize(("name", "gmacs"), [("slowfast_8x8_r101_50_50", "106"), ("slowfast_16x8_r101_50_50", "213")])
def test_r101_costs_what_the_paper_prints_at_256(name, gmacs):
    build, arguments = VARIANTS[name]
    counted = count(lambda: build(**arguments), arguments["frames"], 256)
    assert str(int(counted.gmacs)) == gmacs


@by_name
def test_train_and_eval_return_the_model(build):
    model = build(num_classes=5, **SMALL[build])
    assert model.eval() is model
    assert not any(module.training for module in model.modules())
    assert model.train() is model
    assert all(module.training for module in model.modules())


@by_name
def test_the_clips_are_not_written_to(build):
    clips = torch.randn(2, 3, SMALL[build]["frames"], 64, 64)
    before = clips.clone()
    build(num_classes=5, **SMALL[build])(clips).sum().backward()
    assert torch.equal(clips, before)


@pytest.mark.parametrize(("build", "zeros"), [(x3d, 5), (slowfast, 8), (slow, 4), (tsm, 0)])
def test_residual_blocks_start_as_their_shortcut_but_in_tsm(build, zeros):
    model = build(num_classes=5, **SMALL[build])
    norms = [module for module in model.modules() if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d))]
    assert sum(bool((norm.weight == 0).all()) for norm in norms) == zeros
    assert all(((norm.weight == 0) | (norm.weight == 1)).all() and (norm.bias == 0).all() for norm in norms)


@pytest.mark.parametrize(("build", "std"), [(x3d, 0.01), (slowfast, 0.01), (tsm, 0.001), (tsm_mobilenetv2, 0.001)])
def test_the_classifier_starts_as_the_authors_do(build, std):
    torch.manual_seed(0)
    fc = build(num_classes=400, **SMALL[build]).fc
    assert fc.weight.std().item() == pytest.approx(std, rel=0.05)
    assert (fc.bias == 0).all()


@pytest.mark.parametrize("alpha", [1, 2, 4, 8])
@pytest.mark.parametrize("frames", [8, 16, 32, 64, 128])
def test_slow_frames_are_pyslowfasts(frames, alpha):
    clips = torch.arange(2.0 * 3 * frames * 4).reshape(2, 3, frames, 2, 2).to(memory_format=torch.channels_last_3d)
    index = torch.linspace(0, frames - 1, frames // alpha).long()  # slowfast/datasets/utils.py, pack_pathway_output
    slow = slow_frames(clips, alpha)
    assert torch.equal(slow, clips.index_select(2, index))
    assert slow.is_contiguous(memory_format=torch.channels_last_3d)


def test_slow_frames_include_both_ends_but_in_mmaction2():
    clips = torch.arange(32.0).view(1, 1, 32, 1, 1)
    arguments = SMALL[slowfast] | {"num_classes": 5, "frames": 32, "alpha": 8}
    assert slowfast(**arguments).slow_frames(clips).flatten().tolist() == [0, 10, 20, 31]
    assert slowfast(**arguments, slow_ends=False).slow_frames(clips).flatten().tolist() == [0, 8, 16, 24]


def test_slowfast_frames_must_be_a_multiple_of_alpha():
    with pytest.raises(ValueError, match="frames=13 is not a multiple of alpha=8"):
        slowfast(num_classes=5, frames=13)
    with pytest.raises(ValueError, match="got clips of 6 frames"):
        slowfast(num_classes=5, **SMALL[slowfast])(torch.zeros(1, 3, 6, 64, 64))


def test_lateral_widths_follow_the_fast_pathway():
    model = slowfast(num_classes=5, slow_channels=26, fast_channels=3, alpha=4, frames=16)
    assert [(lateral.in_channels, lateral.out_channels) for lateral in model.laterals] == [
        (3, 6),
        (12, 24),
        (24, 48),
        (48, 96),
    ]
    assert all(lateral.with_norm and lateral.with_activation for lateral in model.laterals)


@given(frames=st.integers(1, 6), channels=st.integers(1, 20), shift_div=st.sampled_from([4, 8]), last=st.booleans())
def test_the_shift_is_mmaction2s_in_any_memory_format(frames, channels, shift_div, last):
    x = torch.randn(2 * frames, channels, 2, 3)
    shifted = temporal_shift(x.contiguous(memory_format=torch.channels_last) if last else x, frames, shift_div)
    assert torch.equal(shifted, MMActionShift.shift(x, frames, shift_div=shift_div))


@pytest.mark.parametrize(("depth", "shifts"), [(50, 16), (101, 2 + 2 + 12 + 2)])
def test_every_block_shifts_but_in_a_resnet_101_every_second(depth, shifts):
    with torch.device("meta"):
        model = tsm(num_classes=5, depth=depth)
    assert sum(isinstance(module, TemporalShift) for module in model.modules()) == shifts


def test_a_mobilenet_shifts_where_it_has_a_skip():
    with torch.device("meta"):
        model = tsm_mobilenetv2(num_classes=5)
    shifted = [name for name, module in model.named_modules() if isinstance(module, TemporalShift)]
    # Stages of 1, 2, 3, 4, 3, 3, 1 blocks, of which the first has no skip.
    expected = [(2, 1), (3, 1), (3, 2), (4, 1), (4, 2), (4, 3), (5, 1), (5, 2), (6, 1), (6, 2)]
    assert shifted == [f"layer{stage}.{block}.conv.0" for stage, block in expected]


def test_mvit_is_fixed_to_its_clips():
    with pytest.raises(ValueError, match=r"built for clips of \(4, 64, 64\) got \(4, 32, 32\)"):
        mvit(num_classes=5, **SMALL[mvit])(torch.zeros(1, 3, 4, 32, 32))
    with pytest.raises(ValueError, match=r"frames=3 must be a multiple of 2"):
        mvit(num_classes=5, frames=3)


def test_mvit_b_costs_what_the_paper_prints_with_its_norms():
    """70.8 and 36.6 in the paper; its counter, fvcore's, books five operations per element of a layer norm."""
    model = on_meta(lambda: mvit(num_classes=400))
    elements = []
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(lambda module, inputs, output: elements.append(output.numel()))
    counted = count(model, 16, 224)
    assert f"{counted.gmacs + 5 * sum(elements) / 1e9:.1f}" == "70.8"
    assert set(counted.by_operator) == {"aten.convolution", "aten.addmm", "aten.bmm"}


def test_tsm_refuses_clips_of_another_length():
    with pytest.raises(ValueError, match="built for 4 frames got clips of 8"):
        tsm(num_classes=5, **SMALL[tsm])(torch.zeros(1, 3, 8, 64, 64))


@by_name
def test_channels_last_gives_the_same_logits(build):
    torch.manual_seed(0)
    model = build(num_classes=5, **SMALL[build]).eval()
    nn.init.normal_(model.fc.weight)
    clips = torch.randn(2, 3, SMALL[build]["frames"], 64, 64)
    expected = model(clips)
    actual = model(clips.contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@given(base=st.floats(0.1, 200), more=st.floats(0, 10), stages=st.integers(1, 5))
def test_stage_widths_never_fall_when_the_base_rises(base, more, stages):
    narrow, wide = stage_widths(base, stages), stage_widths(base + more, stages)
    assert all(1 <= thin <= thick for thin, thick in zip(narrow, wide, strict=True))


def test_importing_prints_nothing():
    done = subprocess.run([sys.executable, "-c", "import baselines"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
