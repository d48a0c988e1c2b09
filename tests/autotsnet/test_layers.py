"""Layers by hand: what each computes beside its shape."""

import torch

from autotsnet.architecture import BlockChoice
from autotsnet.layers.attention import Attention
from autotsnet.layers.elastic import Channels
from autotsnet.layers.fusion import TSFusion
from autotsnet.layers.mbconv3d import MBConv3D

X = torch.randn(2, 8, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def attention(kind: str):
    """A block whose branch is switched on."""
    torch.manual_seed(0)
    block = Attention((kind,), Channels("c", 8), "a").ops[kind].eval()
    for name, parameter in block.named_parameters():
        if name.startswith("out.1"):
            torch.nn.init.ones_(parameter)
    return block


def rows(layer, x: torch.Tensor) -> torch.Tensor:
    """A 1x1x1 convolution as the matrix that it is, on ... C."""
    return x @ layer.weight.flatten(1).T


def last(block, y: torch.Tensor) -> torch.Tensor:
    """Input and branch together; ``y`` is B T H W C."""
    return X + block.out(y.permute(0, 4, 1, 2, 3))


def test_squeeze_and_excitation_is_a_gate_per_channel():
    block = attention("se")
    mean = X.mean((2, 3, 4))
    gate = rows(block.expand, rows(block.reduce, mean).relu()).sigmoid()
    torch.testing.assert_close(block(X), X * gate[:, :, None, None, None])


def test_frames_attend_to_frames_by_their_means():
    block = attention("temporal")
    frames = X.mean((3, 4)).transpose(1, 2)  # B T C
    query, key = rows(block.query, 9 * frames), rows(block.key, 9 * frames)
    weights = (query @ key.transpose(1, 2) / key.shape[2] ** 0.5).softmax(2)
    value = rows(block.value, 9 * X.permute(0, 2, 3, 4, 1))
    scaled = block(9 * X) - 9 * X + X
    torch.testing.assert_close(scaled, last(block, torch.einsum("bst,bthwc->bshwc", weights, value)))
    assert (weights - 1 / 3).abs().max() > 0.05, "otherwise a scale would not show"


def test_glore_reasons_over_a_graph_of_nodes():
    block = attention("glore")
    flat = X.flatten(2).transpose(1, 2)  # B L C
    state, assign = rows(block.reduce, flat), rows(block.assign, flat)
    graph = assign.transpose(1, 2) @ state / state.shape[1]  # B N S
    nodes = block.nodes.weight.flatten(1)
    graph = rows(block.states, (torch.eye(len(nodes)) - nodes) @ graph).relu()
    y = (assign @ graph).unflatten(1, X.shape[2:])
    torch.testing.assert_close(block(X), last(block, y))


def test_a_slow_frame_is_added_to_the_fast_frames_of_its_time():
    slow, fast = Channels("slow", 6), Channels("fast", 4)
    fusion = TSFusion(("slow_to_fast",), slow, fast, alpha=4, kernel=5, name="f").eval()
    x_slow, x_fast = torch.randn(2, 6, 2, 3, 3), torch.zeros(2, 4, 8, 3, 3)
    _, y = fusion(x_slow, x_fast)
    branch = fusion.ops["slow_to_fast"](x_slow)
    for t in range(8):
        torch.testing.assert_close(y[:, :, t], branch[:, :, t // 4])


def test_a_block_adds_its_input_where_shapes_agree():
    c, other = Channels("c", 8), Channels("d", 8)
    block = MBConv3D((c,), c, BlockChoice(3, 3, 2.0), stride=1, name="b").eval()
    assert torch.equal(block(X), X), "its last norm starts at zero"
    for ins, stride in (((c,), 2), ((other,), 1)):
        assert not MBConv3D(ins, c, BlockChoice(3, 3, 2.0), stride=stride, name="b").residual
