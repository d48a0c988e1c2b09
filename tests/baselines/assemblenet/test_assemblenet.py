"""The found graphs against the built networks, fusion by hand, flow on motions that are known."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autotsnet.meta import on_meta
from baselines.assemblenet import ASSEMBLENET_50, ASSEMBLENET_101, Graph, GraphError, Node, assemblenet
from baselines.assemblenet.flow import RepresentationFlow, _divergence, _forward
from baselines.assemblenet.graph import STEM
from baselines.assemblenet.network import Fusion, PeerAttention, SamePool
from reproduce.measure.macs import count


def rebuilt(net: nn.Module, clips: torch.Tensor) -> Graph:
    """The graph as the network runs it: who reads whom from the tensors, the rest from the layers."""
    producer, inputs = {}, {}

    def note_output(i):
        return lambda module, args, out: producer.__setitem__(id(out), i)

    def note_inputs(i):
        return lambda module, args: inputs.__setitem__(i, tuple(producer[id(x)] for x in args[0]))

    for i, (fusion, block) in enumerate(zip(net.fusions, net.nodes, strict=True)):
        block.register_forward_hook(note_output(i))
        if isinstance(fusion, Fusion):
            fusion.register_forward_pre_hook(note_inputs(i))
    net(clips)

    nodes, sizes = [], {}
    for i, (fusion, block) in enumerate(zip(net.fusions, net.nodes, strict=True)):
        convolutions = [m for m in block.modules() if isinstance(m, nn.Conv3d)]
        dilation = max(c.dilation[0] for c in convolutions)
        if not isinstance(fusion, Fusion):
            source = {3: "rgb", 2: "flow"}[convolutions[0].in_channels]
            nodes.append(Node(STEM, (), convolutions[0].out_channels, dilation, source=source))
            continue
        stride = block[0].residual[2][0].stride[1]
        weights = tuple(fusion.logits.sigmoid().tolist()) if len(inputs[i]) > 1 else ()
        sizes[i] = convolutions[0].out_channels
        level = (64, 128, 256, 512).index(block[0].residual[2][0].out_channels)
        nodes.append(Node(level, inputs[i], sizes[i], dilation, stride, weights))
    return Graph(net.graph.name, tuple(nodes))


@pytest.mark.parametrize("graph", [ASSEMBLENET_50, ASSEMBLENET_101], ids=lambda g: g.name)
def test_the_built_network_is_the_graph_node_by_node(graph):
    net = assemblenet(num_classes=5, graph=graph.name, depth=26, flow_iterations=1).eval()
    with torch.no_grad():
        again = rebuilt(net, torch.randn(1, 3, 2, 32, 32))
    for node, expected in zip(again.nodes, graph.nodes, strict=True):
        assert node.weights == pytest.approx(expected.weights, abs=1e-6)
        assert Node(**{**vars(node), "weights": ()}) == Node(**{**vars(expected), "weights": ()})


@pytest.mark.parametrize(("depth", "modules"), [(26, 26), (38, 38), (50, 50), (68, 68), (77, 77), (101, 101)])
def test_depth_counts_layers_as_a_resnet(depth, modules):
    # Stem, three convolutions in each module of one block per level, classifier.
    net = on_meta(lambda: assemblenet(num_classes=5, depth=depth))
    lengths = {n.level: len(block) for n, block in zip(net.graph.nodes, net.nodes, strict=True) if n.level >= 0}
    assert 2 + 3 * sum(lengths.values()) == depth


def test_modules_alternate_between_2d_and_time():
    net = on_meta(lambda: assemblenet(num_classes=5))
    for node, block in zip(net.graph.nodes, net.nodes, strict=True):
        if node.level < 0:
            continue
        kernels = [unit.residual[0][0].kernel_size[0] for unit in block]
        assert kernels == [3 if i % 2 else 1 for i in range(len(block))]
        assert {u.residual[0][0].dilation[0] for u in block[1::2]} == {node.dilation}


def test_graph_survives_json():
    assert Graph.from_dict(json.loads(json.dumps(ASSEMBLENET_50.to_dict()))) == ASSEMBLENET_50


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (Node(0, (3,), 8), "node 1: inputs .* must be distinct nodes of lower levels"),
        (Node(0, (0, 0), 8), "node 1: inputs"),
        (Node(0, (), 8), "node 1: a block has a level of 0 to 3 and inputs"),
        (Node(0, (0,), 8, weights=(0.1, 0.2)), "node 1: 2 weights for 1 inputs"),
        (Node(STEM, (), 8), "node 1: a stem has a source"),
    ],
)
def test_what_is_no_graph_says_which_node(node, message):
    with pytest.raises(GraphError, match=message):
        Graph("bad", (Node(STEM, (), 8, source="rgb"), node))


def test_fusion_by_hand():
    torch.manual_seed(0)
    fusion = Fusion([2, 4, 2], (0.25, 0.5, 0.75))
    a, b, c = torch.randn(1, 2, 3, 8, 8), torch.randn(1, 4, 3, 4, 4), torch.randn(1, 2, 3, 4, 4)
    lifted = fusion.lift["2"](0.25 * F.max_pool3d(a, (1, 2, 2)) + 0.75 * c)
    torch.testing.assert_close(fusion([a, b, c]), lifted + 0.5 * b)
    assert not list(fusion.parameters())[1:]  # given weights are frozen
    assert Fusion([2, 2], ()).logits.requires_grad


def test_same_pool_pads_an_even_side_at_its_end():
    x = torch.arange(16.0).reshape(1, 1, 1, 4, 4)
    assert SamePool()(x).flatten().tolist() == [10, 11, 14, 15]
    assert SamePool()(torch.zeros(1, 1, 1, 7, 112)).shape[-2:] == (4, 56)


def test_unknown_graph_and_depth():
    with pytest.raises(ValueError, match="unknown graph 'x'; known: assemblenet_50"):
        assemblenet(num_classes=5, graph="x")
    with pytest.raises(ValueError, match="unknown depth 51; known: 26"):
        assemblenet(num_classes=5, depth=51)


def moving_textures(count: int, dx: float, dy: float, size: int = 48) -> torch.Tensor:
    """Smooth random textures that move by (dx, dy) pixels per frame: B 3 T H W."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(count, 1, 14, 14, generator=generator)
    texture = F.interpolate(noise, (2 * size, 2 * size), mode="bicubic", align_corners=True)
    line = torch.arange(size, dtype=torch.float)
    frames = []
    for t in range(3):
        ys = (line + size / 2 - t * dy) / (2 * size - 1) * 2 - 1
        xs = (line + size / 2 - t * dx) / (2 * size - 1) * 2 - 1
        grid = torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1], -1).expand(count, -1, -1, -1)
        frames.append(F.grid_sample(texture, grid, align_corners=True))
    return torch.stack(frames, 2).expand(-1, 3, -1, -1, -1)


@pytest.mark.parametrize("motion", [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.7, -0.7)])
def test_flow_points_where_the_texture_moves(motion):
    flow = RepresentationFlow()(moving_textures(4, *motion))
    true = torch.tensor(motion)[None, :, None, None, None]
    cosine = F.cosine_similarity(flow, true.expand_as(flow), dim=1)[:, :, 4:-4, 4:-4]
    assert (cosine > 0.7).float().mean() > 0.95  # within 45 degrees


def test_flow_agrees_with_opencvs_tvl1():
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "optflow"):
        pytest.skip("OpenCV without its contributed modules")
    clips = moving_textures(2, 1.0, 0.5)
    ours = RepresentationFlow()(clips)[:, :, 0]
    for clip, flow in zip(clips, ours, strict=True):
        first, second = ((255 * f.mean(0)).byte().numpy() for f in clip.unbind(1)[:2])
        theirs = torch.from_numpy(cv2.optflow.DualTVL1OpticalFlow_create().calc(first, second, None)).permute(2, 0, 1)
        moving = theirs.norm(dim=0) > 0.3
        cosine = F.cosine_similarity(flow, theirs, dim=0)[moving]
        assert (cosine > 0.7).float().mean() > 0.95


def test_flow_of_a_clip_does_not_depend_on_its_batch_and_can_be_learnt_through():
    clips = torch.rand(2, 3, 3, 16, 16, requires_grad=True)
    flow = RepresentationFlow(5)
    torch.testing.assert_close(flow(clips)[:1], flow(clips[:1]))
    flow(clips).square().sum().backward()
    assert clips.grad.isfinite().all()
    assert clips.grad.abs().sum() > 0


def test_still_and_flat_clips_have_no_flow():
    still = torch.rand(1, 3, 1, 16, 16).expand(-1, -1, 4, -1, -1)
    assert RepresentationFlow(10)(still).abs().max() < 1e-5
    assert RepresentationFlow(10)(torch.zeros(1, 3, 4, 16, 16)).abs().max() < 1e-5


def test_divergence_is_the_negative_adjoint_of_the_gradient():
    u, px, py = torch.randn(3, 5, 6, 7, dtype=torch.float64)
    gx, gy = _forward(u)
    # Dual variables are 0 where the forward difference is.
    px[..., -1], py[..., -1, :] = 0, 0
    torch.testing.assert_close((gx * px + gy * py).sum(), -(u * _divergence(px, py)).sum())


def test_peer_attention_by_hand():
    torch.manual_seed(0)
    attention = PeerAttention([3, 5], [3, 4, 5])
    below = [torch.randn(2, c, 6, 4, 4) for c in (3, 4, 5)]
    gates = attention(below)
    assert [g.shape for g in gates] == [(2, 3, 6, 1, 1), (2, 5, 6, 1, 1)]
    share = attention.choice[1].softmax(0)
    frame = sum(w * peer(x[1, :, 2].mean((1, 2))) for w, peer, x in zip(share, attention.peers, below, strict=True))
    torch.testing.assert_close(gates[1][1, :, 2, 0, 0], attention.gates[1](frame).sigmoid())


def test_peer_attention_gates_every_connection_and_is_counted():
    net = assemblenet(num_classes=3, width=0.1, depth=26, flow_iterations=1, peer_attention=True)
    clips = torch.randn(1, 3, 4, 32, 32)
    plain = count(lambda: assemblenet(num_classes=3, width=0.1, depth=26, flow_iterations=1), 4, 32).macs
    more = count(lambda: assemblenet(num_classes=3, width=0.1, depth=26, flow_iterations=1, peer_attention=True), 4, 32)
    linears = [m for a in net.attentions.values() for m in (*a.peers, *a.gates)]
    assert more.macs - plain == 4 * sum(m.weight.numel() for m in linears)  # once per frame
    net.train()(clips).sum().backward()
    ungated = [name for name, p in net.attentions.named_parameters() if "gates" in name and not p.grad.abs().sum()]
    assert not ungated
