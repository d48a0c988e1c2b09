"""A quick network is the same network: values, gradients, statistics, whatever the layer."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

from autotsnet.layers import kernels, quick
from autotsnet.layers.quick import quicken
from autotsnet.models import SuperNet, recalibrate
from tests.test_families import CROP, FRAMES, SMALL, build

KERNELS = [(3, 3, 3), (5, 5, 5), (1, 3, 3), (1, 5, 5), (3, 1, 1), (5, 1, 1), (5, 3, 7)]
STRIDES = [(1, 1, 1), (1, 2, 2), (2, 1, 1), (2, 3, 2)]


def laid_out(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=quick._format(x))


def clips(*shape: int, dtype=torch.float32) -> torch.Tensor:
    return laid_out(torch.randn(*shape, dtype=dtype)).requires_grad_()


def gradients(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, and the gradients of input and parameters of a fixed function of it."""
    y = module(x)
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y, *torch.autograd.grad((y * weight).sum(), [x, *module.parameters()])]


def same(a: list[torch.Tensor], b: list[torch.Tensor], tolerance: float = 1e-5) -> None:
    for one, other in zip(a, b, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * other.detach().abs().max().item())


def no_worse(module: nn.Module, x: torch.Tensor) -> None:
    """Quick, a module is as near to its results in double precision as torch's is, but for some rounding."""
    state, exact = copy.deepcopy(module), copy.deepcopy(module).double()
    results = [gradients(state, x), gradients(quicken(module), x)]
    wide = laid_out(x.detach().double()).requires_grad_()
    for theirs, ours, right in zip(*results, gradients(exact, wide), strict=True):
        theirs, ours = ((a.double() - right).abs().max().item() for a in (theirs, ours))
        assert ours <= 2 * theirs + 1e-6 * max(1, right.abs().max().item())
    for a, b, c in zip(state.buffers(), module.buffers(), exact.buffers(), strict=True):
        theirs, ours = ((v.double() - c).abs().max().item() for v in (a, b))
        assert ours <= 2 * theirs + 1e-6


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def called(monkeypatch):
    """Names of the kernels that ran."""
    names = []
    original = quick._clipwise

    def spy(kernel, clips, *arguments):
        names.append(kernel.__name__)
        return original(kernel, clips, *arguments)

    monkeypatch.setattr(quick, "_clipwise", spy)
    return names


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_depthwise_convolution_has_torchs_gradients(kernel, stride, called):
    conv = nn.Conv3d(5, 5, kernel, stride, tuple(k // 2 for k in kernel), groups=5, bias=False)
    x = clips(3, 5, 6, 9, 8)
    expected = gradients(conv, x)
    same(gradients(quicken(conv), x), expected)
    assert called == ["grad_input", "grad_weight"]


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2)])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 5, 5), (5, 1, 1), (2, 4, 2)])
def test_gradcheck(kernel, stride):
    conv = quicken(nn.Conv3d(2, 2, kernel, stride, (1, 0, 1), groups=2).double())
    torch.autograd.gradcheck(conv, clips(2, 2, 5, 5, 6, dtype=torch.float64))
    norm = quicken(nn.Sequential(nn.BatchNorm3d(3), nn.SiLU())).double()
    torch.autograd.gradcheck(norm, clips(2, 3, 2, 3, 3, dtype=torch.float64))


def test_images_too(called):
    conv = nn.Conv2d(4, 4, 3, 2, 1, groups=4)
    x = clips(3, 4, 7, 9)
    expected = gradients(conv, x)
    same(gradients(quicken(conv), x), expected)
    assert called == ["grad_input", "grad_weight"]


def test_bf16_is_summed_in_single_precision(called):
    conv = nn.Conv3d(4, 4, 3, 1, 1, groups=4, bias=False)
    x = clips(2, 4, 4, 6, 6)
    expected = gradients(conv, x)
    quicken(conv)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.bfloat16
    weight = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
    found = torch.autograd.grad((y.float() * weight).sum(), [x, *conv.parameters()])
    same(list(found), expected[1:], 2e-2)
    assert called == ["grad_input", "grad_weight"]


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_a_pointwise_convolution_of_few_clips(batch):
    for conv, shape in ((nn.Conv3d(3, 4, 1), (batch, 3, 2, 4, 5)), (nn.Conv2d(3, 4, 1), (batch, 3, 4, 5))):
        x = clips(*shape)
        expected = gradients(conv, x)
        quicken(conv)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        found = gradients(conv, x)
        torch.set_num_threads(threads)
        same(found, expected)
        assert found[1].is_contiguous(memory_format=quick._format(x))


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv3d(4, 4, 3, padding=1, groups=4, padding_mode="replicate"),
        nn.Conv3d(4, 4, 3, padding=2, dilation=2, groups=4),
        nn.Conv3d(4, 4, 3, padding="same", groups=4),
        nn.Conv3d(4, 8, 3, padding=1, groups=4),
        nn.Conv3d(4, 4, (1, 1, 9), padding=(0, 0, 4), groups=4),
    ],
    ids=["padding mode", "dilation", "same", "multiplier", "wide"],
)
def test_what_it_does_not_know_is_torchs(module, called):
    x = clips(2, 4, 6, 6, 12)
    expected = gradients(module, x)
    same(gradients(quicken(module), x), expected)
    assert not called


def test_another_memory_format_is_torchs(called):
    net = nn.Sequential(nn.Conv3d(4, 4, 3, padding=1, groups=4), nn.BatchNorm3d(4), nn.ReLU())
    x = torch.randn(2, 4, 4, 5, 5, requires_grad=True)
    same(gradients(copy.deepcopy(net), x), gradients(quicken(net), x))
    assert not called


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("act", [None, nn.ReLU, nn.SiLU, nn.GELU])
def test_a_norm_with_its_activation(act, momentum, called):
    norm = nn.BatchNorm3d(6, momentum=momentum)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
    net = nn.Sequential(norm, *([act()] if act else []))
    for scale in (1.0, 3.0):  # the running mean and variance of two batches
        no_worse(net, laid_out(torch.randn(3, 6, 4, 9, 9) * scale + 5).requires_grad_())
    assert {"moments", "forward", "backward", "norm_grad_input"} == set(called)
    called.clear()
    no_worse(net.eval(), clips(2, 6, 3, 4, 4))
    assert not called


def test_far_from_zero_a_variance_keeps_its_digits():
    x = laid_out(torch.randn(4, 3, 4, 8, 8) + 1e4)
    exact = nn.BatchNorm3d(3).double()(x.double())
    torch.testing.assert_close(quicken(nn.BatchNorm3d(3))(x).double(), exact, rtol=0, atol=5e-3)


def test_sigmoid_is_exact_to_rounding_everywhere():
    x = np.concatenate([np.linspace(-30, 30, 4000), [-200, -90, 90, 200, 0]]).astype(np.float32).reshape(1, -1, 1)
    one, zero, out = np.ones(1, np.float32), np.zeros(1, np.float32), np.empty_like(x)
    kernels.norm_act("SiLU", False)[0](x, one, zero, out, 0, 1)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(out, wide / (1 + np.exp(-wide)), rtol=5e-7, atol=1e-35)


def test_an_activation_with_two_readers_stays():
    shared = nn.ReLU()
    no_worse(
        nn.Sequential(nn.BatchNorm3d(2), shared, nn.Conv3d(2, 2, 1), nn.BatchNorm3d(2), shared), clips(2, 2, 2, 3, 3)
    )
    assert (shared(torch.tensor([-1.0])) == 0).all()


def test_mmcvs_module_too(called):
    norm = dict(conv_cfg=dict(type="Conv3d"), norm_cfg=dict(type="BN3d"))
    net = ConvModule(3, 3, 3, padding=1, groups=3, bias=False, **norm)
    x = clips(2, 3, 3, 5, 5)
    expected = gradients(copy.deepcopy(net), x)
    same(gradients(quicken(net), x), expected)
    assert net.activate(torch.tensor(-1.0)) == -1, "the norm's kernel has done it"
    assert len(called) == 6


class Scaled(nn.BatchNorm3d):
    """Not what its base class computes."""

    def forward(self, x):
        return 2 * super().forward(x)


class ByParts(nn.Module):
    """Somebody's own: the norm's output is used without the activation, too."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm3d(4), nn.ReLU())

    def forward(self, x):
        norm, act = self.layers
        x = norm(x)
        return act(x) + x


@pytest.mark.parametrize("make", [lambda: nn.Sequential(Scaled(4), nn.ReLU()), ByParts])
def test_networks_of_somebodys_own_compute_what_they_did(make):
    net, x = make(), clips(2, 4, 3, 5, 5)
    expected = copy.deepcopy(net)(x)
    torch.testing.assert_close(quicken(net)(x), expected, rtol=1e-5, atol=1e-6)


def test_compiled_kernels_are_found_on_the_disk_again(tmp_path):
    code = (
        "import torch; from autotsnet.layers import kernels, quick\n"
        "x = torch.randn(2, 4, 2, 3, 3).contiguous(memory_format=torch.channels_last_3d).requires_grad_()\n"
        "quick._Norm.apply(x, torch.ones(4), torch.zeros(4), 1e-5, 'SiLU', None).sum().backward()\n"
        "print([sum(k.stats.cache_hits.values()) for k in (kernels.moments, *kernels.norm_act('SiLU', False))])"
    )
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    said = [subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout for _ in "12"]
    assert said == ["[0, 0, 0]\n", "[1, 1, 1]\n"]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_kernels_do_not_depend_on_threads(threads):
    net = quicken(nn.Sequential(nn.Conv3d(4, 4, 3, padding=1, groups=4), nn.BatchNorm3d(4), nn.SiLU()))
    x = clips(5, 4, 3, 6, 6)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    y = net(x)
    expected = [y, *quick._Norm.apply(x, net[1].weight, net[1].bias, 1e-5, "SiLU", None)]
    torch.set_num_threads(threads)
    found = [net(x), *quick._Norm.apply(x, net[1].weight, net[1].bias, 1e-5, "SiLU", None)]
    torch.set_num_threads(before)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_family_trains_alike(name):
    net = build(name).double().train()
    quicker = quicken(copy.deepcopy(net))
    x = laid_out(torch.randn(2, 3, FRAMES, CROP, CROP, dtype=torch.float64))
    results = []
    for each in (net, quicker):
        torch.manual_seed(0)  # dropout, drop path
        y = each(x)
        y.square().sum().backward()
        results.append({"logits": y, **{n: p.grad for n, p in each.named_parameters()}, **each.state_dict()})
    assert list(results[0]) == list(results[1])
    for key, value in results[0].items():
        if value is not None:
            torch.testing.assert_close(results[1][key], value, rtol=1e-7, atol=1e-9, msg=key)


def test_a_copy_has_parameters_of_its_own():
    net = quicken(nn.Sequential(nn.Conv3d(3, 3, 3, padding=1, groups=3), nn.BatchNorm3d(3), nn.ReLU()))
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    assert twin(clips(2, 3, 3, 5, 5)).abs().sum() > 0


def test_a_supernet_trains_and_recalibrates_alike(called):
    net = SuperNet("tiny", 4)
    space = net.space
    architecture = space.decode(space.sample(1, torch.Generator().manual_seed(0))[0])
    x = laid_out(torch.randn(2, 3, space.macro.frames, space.macro.crop, space.macro.crop))
    net(x, architecture).square().sum().backward()
    assert {"grad_input", "grad_weight", "moments"} <= set(called)
    recalibrate(net, [x, x + 1], architecture)
    found, plain = net.extract(architecture), net.extract(architecture)
    recalibrate(plain, [x, x + 1])
    for a, b in zip(found.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
