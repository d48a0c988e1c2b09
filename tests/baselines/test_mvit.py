"""Attention of MViT: the fused one is the explicit one, which is mmaction2's."""

from importlib import import_module

import pytest
import torch

from reproduce.measure.macs import count

module = import_module("baselines.mvit")
SMALL = {"num_classes": 5, "frames": 4, "crop": 32, "embed_dim": 9, "depth": 4, "downscale": (1, 3), "kv_stride": 2}


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = module.mvit(**SMALL, drop_path=0.0, dropout=0.0)
    for block in net.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.5)  # attention that is far from uniform
    return net


def gradients(net) -> list[torch.Tensor]:
    clips = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    out = net(clips.to(net.fc.weight.dtype))
    return [out, *torch.autograd.grad(out.square().sum(), list(net.parameters()))]


def test_on_a_cpu_it_is_mmaction2s_bit_by_bit(net):
    ours = gradients(net)
    for block in net.blocks:
        del block.attn.forward
    for a, b in zip(ours, gradients(net), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.float64, 1e-14)])
def test_fused_it_has_the_same_logits_and_gradients(net, monkeypatch, dtype, tolerance):
    expected = gradients(net.to(dtype))
    monkeypatch.setattr(module, "explicit", module.fused)
    largest = max(b.abs().max().item() for b in expected)
    for a, b in zip(gradients(net), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * largest)


def test_fused_it_is_the_formula():
    q, k, v = (torch.randn(2, 3, n, 16, dtype=torch.float64) for n in (5, 7, 7))
    formula = torch.einsum("bhqc,bhkc->bhqk", q, k) / 4
    formula = torch.einsum("bhqk,bhkc->bhqc", formula.softmax(-1), v)
    for product in (module.fused, module.explicit):
        torch.testing.assert_close(product(q, k, v), formula, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            product(q.float(), k.float(), v.float()), formula.float(), rtol=1e-6, atol=1e-6, msg=product.__name__
        )


def test_fused_in_bfloat16_it_takes_what_autocast_gives(net, monkeypatch):
    with torch.autocast("cpu", torch.bfloat16):
        expected = gradients(net)
        monkeypatch.setattr(module, "explicit", module.fused)
        found = gradients(net)
    assert found[0].dtype == torch.bfloat16
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=0.02 * expected[0].abs().max().item())


def test_fused_it_costs_the_same_to_the_digit(net, monkeypatch):
    expected = count(net, 4, 32)
    monkeypatch.setattr(module, "explicit", module.fused)
    assert count(net, 4, 32) == expected
    assert expected.by_operator["aten.bmm"] > 0
