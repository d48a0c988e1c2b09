"""Every registered family is built, run forward and backward, counted, saved, reloaded and exported."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autotsnet.models.families import uniform_architecture
from autotsnet.registry import FAMILIES, MODELS, family
from autotsnet.spaces import X3D_PRESETS
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.inference import accelerate, fold
from reproduce.export import export
from reproduce.measure.macs import count

family("x3d")  # registers all
X3D_TINY = X3D_PRESETS["x3d_tiny"]
SMALL = {
    "assemblenet": dict(width=0.125, modules=(2, 2, 2, 2), flow_iterations=2),
    "auto_tsnet": dict(architecture=uniform_architecture("tiny").to_dict(), width=0.5),
    "auto_tsnet_uniform": dict(space="tiny", width=0.5),
    "movinet": dict(width=0.25, head_width=32),
    "e3d": dict(width=0.25, blocks=(1, 1, 2, 1, 1), hidden=32),
    "auto_x3d": dict(architecture=X3D_TINY.decode(X3D_TINY.counts - 1).to_dict(), width=0.5),
    "evanet": dict(width=0.05, structures="ab", repeats=(1, 1, 1, 1)),
    "glore": dict(channels=8, blocks=(1, 1, 1, 1), units=((), (1,), (1,), ())),
    "mvit": dict(embed_dim=8, depth=4, downscale=(1, 3)),
    "pvnas": dict(base_channels=8, ops=("2d", "shift", "dw3d", "3d"), blocks=(1, 1, 1, 1)),
    "slow": dict(channels=8, depth=18, blocks=(1, 1, 1, 1)),
    "slowfast": dict(slow_channels=8, depth=18, blocks=(1, 1, 1, 1), alpha=4),
    "tiny_video_net": dict(network="tvn_4", width=0.125, repeats=(2, 1, 1)),
    "tsm": dict(base_channels=8, depth=18, blocks=(1, 1, 1, 1)),
    "tsm_mobilenetv2": dict(width=0.25),
    "x3d": dict(width=8, blocks=(1, 1, 1, 1), head_width=32),
}
FRAMES, CROP, CLASSES = 8, 32, 5
FREE_FRAMES = {"assemblenet", "auto_x3d", "e3d", "movinet", "slow", "x3d"}  # whose exports take any T


def build(name: str):
    """A small member of a family; deterministic."""
    torch.manual_seed(0)
    return FAMILIES[name].build(num_classes=CLASSES, frames=FRAMES, crop=CROP, **SMALL[name])


def test_every_family_is_covered():
    ours = {
        name for name, of in FAMILIES.items() if of.build.__module__.partition(".")[0] in ("autotsnet", "baselines")
    }
    assert set(SMALL) == ours


@pytest.mark.parametrize("name", sorted(SMALL))
class TestFamily:
    """What every family must do."""

    def test_is_registered_and_scaled_by_its_knobs(self, name):
        assert MODELS.get(name) is FAMILIES[name].build
        knob = FAMILIES[name].knobs[0]
        fixed = {k: v for k, v in SMALL[name].items() if k != knob.name}
        small, large = (
            count(
                lambda v=v: FAMILIES[name].build(
                    num_classes=CLASSES, frames=FRAMES, crop=CROP, **fixed, **{knob.name: v}
                ),
                FRAMES,
                CROP,
            ).macs
            for v in (max(knob.low, 1), min(knob.high, 12))
        )
        assert small < large

    def test_forward_and_backward(self, name):
        net = build(name)
        assert net.train() is net
        clip = torch.randn(2, 3, FRAMES, CROP, CROP)
        kept = clip.clone()
        out = net(clip)
        assert out.shape == (2, CLASSES)
        assert torch.equal(clip, kept), "the input was changed"
        out.square().sum().backward()
        without = [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]
        assert not without

    def test_is_deterministic_and_batch_independent_in_evaluation(self, name):
        net = build(name)
        assert net.eval() is net
        assert not any(m.training for m in net.modules())
        clip = torch.randn(2, 3, FRAMES, CROP, CROP)
        with torch.no_grad():
            both, first = net(clip), net(clip[:1])
        torch.testing.assert_close(both[:1], first, atol=1e-5, rtol=1e-4)

    def test_is_counted(self, name):
        measured = count(build(name), FRAMES, CROP)
        assert measured.macs > 0
        assert measured.params == sum(p.numel() for p in build(name).parameters())

    def test_is_saved_and_reloaded(self, name, tmp_path):
        net = build(name).eval()
        save_file({k: v.contiguous() for k, v in net.state_dict().items()}, tmp_path / "net.safetensors")
        torch.manual_seed(1)
        other = FAMILIES[name].build(num_classes=CLASSES, frames=FRAMES, crop=CROP, **SMALL[name]).eval()
        other.load_state_dict(load_file(tmp_path / "net.safetensors"))
        clip = torch.randn(1, 3, FRAMES, CROP, CROP)
        with torch.no_grad():
            assert torch.equal(net(clip), other(clip))

    def test_channels_last_changes_nothing_but_speed(self, name):
        clips = torch.randint(256, (2, 2, FRAMES, CROP, CROP, 3), dtype=torch.uint8)
        outputs = []
        for channels_last in (False, True):
            model = VideoClassifier(build(name), channels_last=channels_last).eval()
            with torch.no_grad():
                outputs.append(model(clips, mode="tensor"))
        torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-4)

    def test_accelerating_it_changes_nothing_but_speed(self, name):
        net = build(name)
        norms = [m for m in net.modules() if isinstance(m, _BatchNorm)]
        for norm in norms:  # of a new network they change nothing
            for tensor in (norm.running_mean, norm.bias):
                nn.init.normal_(tensor)
            for tensor in (norm.running_var, norm.weight):
                nn.init.uniform_(tensor, 0.5, 2)
        net.eval()
        clips = torch.randn(2, 3, FRAMES, CROP, CROP)
        with torch.no_grad():
            logits = net(clips)
            accelerate(net, clips[:1])
            if name != "glore":  # whose blocks begin with a norm
                assert not any(isinstance(m, _BatchNorm) for m in net.modules())
            torch.testing.assert_close(net(clips), logits, atol=1e-5, rtol=1e-4)


class Shortcut(nn.Sequential):
    """What comes before its batch norm is used beside it, too."""

    def forward(self, x):
        conv, norm = self
        x = conv(x)
        return (norm(x) + x).mean((2, 3, 4))


@pytest.mark.parametrize("kind", ["shortcut", "called twice"])
def test_a_network_that_cannot_be_folded_stays_as_it_is(kind):
    conv, norm, clips = nn.Conv3d(3, 3, 1, bias=False), nn.BatchNorm3d(3), torch.randn(1, 3, 2, 4, 4)
    nn.init.normal_(norm.running_mean)
    net = (nn.Sequential(conv, conv, norm, nn.Flatten()) if kind == "called twice" else Shortcut(conv, norm)).eval()
    weight, logits = conv.weight, net(clips)
    fold(net, clips)
    assert conv.weight is weight
    assert conv.bias is None
    assert torch.equal(net(clips), logits)


# Of many layers, or of layers that others have, too.
DEEP = {
    "assemblenet",
    "auto_tsnet_uniform",
    "evanet",
    "movinet",
    "mvit",
    "pvnas",
    "slow",
    "slowfast",
    "tsm_mobilenetv2",
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in DEEP else n for n in sorted(SMALL)])
def test_is_exported_for_any_batch(name, tmp_path):
    net = build(name).eval()
    with torch.no_grad():
        for parameter in net.parameters():  # zeros at the end of residual branches would hide what is in them
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    done = export(net, FRAMES, CROP, tmp_path)
    assert done.shape == f"B×3×{'T' if name in FREE_FRAMES else FRAMES}×{CROP}×{CROP}"
    clip = torch.randn(1, 3, FRAMES, CROP, CROP)
    with torch.no_grad():
        logits = net(clip)
    assert logits.abs().max() > 1e-3
    torch.testing.assert_close(torch.export.load(done.program).module()(clip), logits, atol=1e-4, rtol=1e-4)


def test_unknown_family_lists_the_known():
    with pytest.raises(ValueError, match=r"unknown model family 'resnet'; known: .*x3d"):
        family("resnet")
