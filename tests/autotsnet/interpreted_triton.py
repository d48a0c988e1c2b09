"""Triton's kernels against torch: run by ``test_triton_kernels.py``, in Triton's interpreter or on a GPU.

The interpreter must be asked for before Triton is imported, hence a process of its own.
"""

import copy
import os

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch.nn import functional as F

from autotsnet.layers import quick, triton_kernels
from autotsnet.layers.quick import convolve_by_triton, quicken

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
BF16 = torch.bfloat16
CASES = [  # kernel, stride, padding
    ((3, 3, 3), (1, 1, 1), (1, 1, 1), torch.float32),
    ((3, 3, 3), (1, 2, 2), (1, 1, 1), BF16),
    ((5, 1, 1), (1, 1, 1), (2, 0, 0), torch.float32),
    ((5, 1, 1), (1, 1, 1), (2, 0, 0), BF16),
    ((1, 5, 7), (1, 2, 2), (0, 2, 3), torch.float32),
    ((2, 4, 3), (2, 3, 1), (1, 0, 2), torch.float32),
]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def clips(*shape: int, dtype=torch.float32) -> torch.Tensor:
    x = torch.randn(*shape, device=DEVICE).to(dtype)
    return x.contiguous(memory_format=torch.channels_last_3d).requires_grad_()


def compared(x: torch.Tensor, weight: torch.Tensor, stride, padding) -> None:
    """Output and gradients are as near to those of double precision as the precision allows."""
    y = triton_kernels.depthwise(x, weight, list(stride), list(padding))
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    g = torch.randn_like(y)
    wide = [a.detach().double().requires_grad_() for a in (x, weight)]
    right = F.conv3d(*wide, None, stride, padding, 1, len(weight))
    found = [y, *torch.autograd.grad(y, [x, weight], g)]
    expected = [right, *torch.autograd.grad(right, wide, g.double())]
    tolerance = 2e-6 if x.dtype == torch.float32 else 8e-3
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == x.dtype
        torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance * b.abs().max().item())


@pytest.mark.parametrize(("kernel", "stride", "padding", "dtype"), CASES)
def test_output_and_gradients(kernel, stride, padding, dtype):
    x, weight = clips(2, 3, 3, 5, 4, dtype=dtype), torch.randn(3, 1, *kernel, device=DEVICE).to(dtype)
    compared(x, weight.requires_grad_(), stride, padding)


def test_more_channels_and_places_than_a_tile(monkeypatch):
    monkeypatch.setattr(triton_kernels, "STEPS", 1)
    monkeypatch.setattr(triton_kernels, "MOST_CHANNELS", 16)
    monkeypatch.setattr(triton_kernels, "TILE", 512)
    x, weight = clips(1, 18, 2, 6, 8), torch.randn(18, 1, 1, 1, 3, device=DEVICE, requires_grad=True)
    compared(x, weight, (1, 1, 1), (0, 0, 1))


def trained(conv: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    y = conv(x)
    return [y, *torch.autograd.grad(y.float().square().sum(), [x, *conv.parameters()])]


@pytest.fixture
def called(monkeypatch):
    """How often the convolution by Triton ran, all clips being on a GPU."""
    calls, original = [], triton_kernels.depthwise
    monkeypatch.setattr(quick, "_on_gpu", lambda x: True)
    monkeypatch.setattr(triton_kernels, "depthwise", lambda *args: calls.append(args) or original(*args))
    return calls


@pytest.mark.parametrize("amp", [False, True])
def test_a_layer_takes_it(called, amp):
    conv = nn.Conv3d(4, 4, (1, 3, 3), (1, 2, 2), (0, 1, 1), groups=4).to(DEVICE)
    x, ours = clips(2, 4, 2, 4, 4), convolve_by_triton(quicken(copy.deepcopy(conv)))
    with torch.autocast(DEVICE, BF16, enabled=amp):
        expected, found = trained(conv, x), trained(copy.deepcopy(ours), x)
    assert len(called) == 1
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=(2e-2 if amp else 1e-5) * b.abs().max().item())


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv3d(4, 4, 3, padding=2, dilation=2, groups=4),
        nn.Conv3d(4, 4, (1, 9, 1), padding=(0, 4, 0), groups=4),
        nn.Conv3d(4, 4, 3, padding=1, groups=2),
        nn.Conv3d(4, 4, 3, padding="same", groups=4),
    ],
    ids=["dilation", "wide", "groups", "same"],
)
def test_what_it_does_not_know_is_torchs(called, conv):
    convolve_by_triton(conv.to(DEVICE))(clips(2, 4, 4, 9, 9))
    assert not called


def test_another_memory_format_and_precision_are_torchs(called):
    conv = convolve_by_triton(nn.Conv3d(4, 4, 3, padding=1, groups=4).to(DEVICE))
    conv(torch.randn(2, 4, 3, 5, 5, device=DEVICE))
    conv.double()(torch.randn(2, 4, 3, 5, 5, device=DEVICE).double().contiguous(memory_format=torch.channels_last_3d))
    assert not called


class Net(nn.Module):
    """``torch.compile`` passes over torch's own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(3, 3, (3, 1, 1), groups=3), nn.BatchNorm3d(3), nn.ReLU())

    def forward(self, x):
        return self.layers(x)


def test_it_is_one_operator_of_a_compiled_network(monkeypatch):
    monkeypatch.setattr(quick, "_on_gpu", lambda x: True)
    net, x, graphs = convolve_by_triton(Net().to(DEVICE)), clips(2, 3, 4, 4, 4), []
    expected = trained(copy.deepcopy(net), x)

    def keep(graph, inputs):
        graphs.append(str(graph.graph))
        return make_boxed_func(graph.forward)

    traced = aot_autograd(fw_compiler=keep)
    net.compile(backend=traced, fullgraph=True, dynamic=False)
    for a, b in zip(trained(net, x), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    forward, backward = graphs
    assert forward.count("call_function[target=torch.ops.autotsnet.depthwise.default]") == 1
    assert "autotsnet.depthwise_grad_input" in backward
    assert "autotsnet.depthwise_grad_weight" in backward
