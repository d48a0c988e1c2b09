"""AssembleNet (Ryoo et al., 2020): a multi-stream network from a graph. https://arxiv.org/abs/1905.13209

Semantics of blocks and fusion: ``google-research/google-research: assemblenet/assemblenet.py``. All layers have the
same number of frames.

B clips, C channels, T frames, H W pixels, N classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autotsnet.registry import Knob, register_family
from baselines.assemblenet.flow import RepresentationFlow
from baselines.assemblenet.graph import DEPTHS, GRAPHS, LEVELS, STEM, Graph, Node

INNER = (64, 128, 256, 512)  # channels of the 3x3 convolution, by level
EXPANSION = 4
STEM_KERNEL_T, BLOCK_KERNEL_T = 5, 3


def conv_bn(in_chs: int, out_chs: int, kernel: tuple[int, int, int], stride: int = 1, dilation: int = 1) -> nn.Module:
    """Convolution with symmetric padding and batch norm; ``stride`` in space, ``dilation`` in time."""
    padding = (dilation * (kernel[0] // 2), kernel[1] // 2, kernel[2] // 2)
    conv = nn.Conv3d(in_chs, out_chs, kernel, (1, stride, stride), padding, dilation=(dilation, 1, 1), bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(out_chs, eps=1e-5, momentum=0.01))


class SamePool(nn.Module):
    """Max-pool 3x3, stride 2, padded as TensorFlow's SAME: at the bottom and right first."""

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W -> B C T ceil(H/2) ceil(W/2)."""
        pads = [max((-(-n // 2) - 1) * 2 + 3 - n, 0) for n in (x.shape[-1], x.shape[-2])]
        sides = [side for p in pads for side in (p // 2, p - p // 2)]
        return F.max_pool3d(F.pad(x, sides, value=float("-inf")), (1, 3, 3), (1, 2, 2))


def rgb_stem(out_chs: int, dilation: int) -> nn.Module:
    """7x7 per frame, 5 in time, 3x3 max-pool."""
    return nn.Sequential(
        conv_bn(3, out_chs, (1, 7, 7), stride=2),
        nn.ReLU(inplace=True),
        conv_bn(out_chs, out_chs, (STEM_KERNEL_T, 1, 1), dilation=dilation),
        nn.ReLU(inplace=True),
        SamePool(),
    )


def flow_stem(out_chs: int) -> nn.Module:
    """7x7 per frame, 2x2 max-pool; nothing in time, so a dilation has no effect."""
    return nn.Sequential(
        conv_bn(2, out_chs, (1, 7, 7), stride=2),
        nn.ReLU(inplace=True),
        nn.MaxPool3d((1, 2, 2), ceil_mode=True),
    )


class Module(nn.Module):
    """One residual unit of a block: 2D where its place is even, (2+1)D with the block's dilation where it is odd."""

    def __init__(self, in_chs: int, filters: int, inner: int, stride: int, dilation: int, temporal: bool) -> None:
        super().__init__()
        out_chs = EXPANSION * filters
        first = (BLOCK_KERNEL_T, 1, 1) if temporal else (1, 1, 1)
        self.residual = nn.Sequential(
            conv_bn(in_chs, filters, first, dilation=dilation if temporal else 1),
            nn.ReLU(inplace=True),
            conv_bn(filters, inner, (1, 3, 3), stride=stride),
            nn.ReLU(inplace=True),
            conv_bn(inner, out_chs, (1, 1, 1)),
        )
        nn.init.zeros_(self.residual[-1][1].weight)
        project = stride != 1 or in_chs != out_chs
        self.shortcut = conv_bn(in_chs, out_chs, (1, 1, 1), stride=stride) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W -> B 4F T H/s W/s."""
        return F.relu(self.residual(x) + self.shortcut(x))


class Fusion(nn.Module):
    """Weighted sum of several inputs, brought to the smallest size and the largest number of channels.

    Args:
        channels: of each input.
        weights: after the sigmoid, one per input, frozen; empty: learned, starting near 0.5.
    """

    def __init__(self, channels: list[int], weights: tuple[float, ...]) -> None:
        super().__init__()
        self.channels, most = channels, max(channels)
        if len(channels) > 1 and weights:
            self.register_buffer("logits", torch.tensor(weights).logit())
        elif len(channels) > 1:
            self.logits = nn.Parameter(0.01 * torch.randn(len(channels)))
        self.lift = nn.ModuleDict(
            {str(c): nn.Conv3d(c, most, 1, bias=False) for c in sorted(set(channels)) if c != most}
        )

    def forward(self, inputs: list[Tensor], gates: list[Tensor] | None = None) -> Tensor:
        """Tensors B C_i T H_i W_i, each scaled by its gate B C_i T 1 1 -> B max(C_i) T min(H_i) min(W_i)."""
        if gates:
            inputs = [x * gate for x, gate in zip(inputs, gates, strict=True)]
        if len(inputs) == 1:
            return inputs[0]
        smallest = min(x.shape[-1] for x in inputs)
        groups: dict[int, Tensor] = {}
        for x, weight in zip(inputs, self.logits.sigmoid(), strict=True):
            ratio = (x.shape[-1] + 1) // smallest
            if ratio > 1:
                x = F.max_pool3d(x, (1, ratio, ratio), ceil_mode=True)
            x = x * weight
            groups[x.shape[1]] = groups[x.shape[1]] + x if x.shape[1] in groups else x
        lifted = [self.lift[str(c)](x) if str(c) in self.lift else x for c, x in groups.items()]
        return torch.stack(lifted).sum(0) if len(lifted) > 1 else lifted[0]


class PeerAttention(nn.Module):
    """AssembleNet++'s attention: scales the channels of each connection per frame, by the nodes of lower levels.

    Each connection learns how much it uses each of these peers
    (``google-research/google-research: assemblenet/assemblenet_plus.py``). Gates are not negative, so that scaling
    before a max-pool, as here, gives the same as scaling after it, as there.

    Args:
        channels: of each connection.
        below: of each node of a lower level.
    """

    def __init__(self, channels: list[int], below: list[int]) -> None:
        super().__init__()
        self.peers = nn.ModuleList(nn.Linear(c, max(below)) for c in below)
        self.choice = nn.Parameter(0.01 * torch.randn(len(channels), len(below)))
        self.gates = nn.ModuleList(nn.Linear(max(below), c) for c in channels)

    def forward(self, below: list[Tensor]) -> list[Tensor]:
        """Nodes B C_p T H_p W_p -> gates B C_i T 1 1 in 0..1."""
        seen = torch.stack([peer(x.mean((3, 4)).transpose(1, 2)) for peer, x in zip(self.peers, below, strict=True)], 3)
        mixed = [(seen * share).sum(3) for share in self.choice.softmax(1)]  # B T C
        pairs = zip(self.gates, mixed, strict=True)
        return [gate(x).sigmoid().transpose(1, 2)[..., None, None] for gate, x in pairs]


class AssembleNet(nn.Module):
    """Stems and blocks of a graph, pooling, classifier.

    Args:
        graph: the graph.
        num_classes: N.
        modules: residual units of a block, by level.
        width: factor on all channels.
        dropout: probability of a dropout before the classifier.
        flow_iterations: of the representation flow.
        learn_connections: True: connection weights are parameters, even if the graph has some.
        peer_attention: True: see ``PeerAttention``.
    """

    def __init__(
        self,
        graph: Graph,
        num_classes: int,
        modules: tuple[int, ...],
        width: float,
        dropout: float,
        flow_iterations: int,
        learn_connections: bool,
        peer_attention: bool,
    ) -> None:
        super().__init__()
        self.graph = graph

        def scaled(channels: int) -> int:
            return max(1, round(channels * width))

        if any(n.source == "flow" for n in graph.nodes):
            self.flow = RepresentationFlow(flow_iterations)
        self.fusions, self.nodes, self.attentions = nn.ModuleList(), nn.ModuleList(), nn.ModuleDict()
        out_chs: list[int] = []
        for node in graph.nodes:
            filters = scaled(node.filters)
            if node.level == STEM:
                fusion = nn.Identity()
                block = rgb_stem(filters, node.dilation) if node.source == "rgb" else flow_stem(filters)
                out_chs.append(filters)
            else:
                ins = [out_chs[i] for i in node.inputs]
                fusion = Fusion(ins, () if learn_connections else node.weights)
                if peer_attention:
                    below = [out_chs[i] for i in graph.below(node)]
                    self.attentions[str(len(out_chs))] = PeerAttention(ins, below)
                inner = scaled(INNER[node.level])
                block = _block(max(ins), filters, inner, node, modules[node.level])
                out_chs.append(EXPANSION * filters)
            self.fusions.append(fusion)
            self.nodes.append(block)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(out_chs[graph.tops[0]], num_classes)
        self.apply(_init)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to logits ``B N``."""
        sources = {"rgb": clips}
        if hasattr(self, "flow"):
            with torch.no_grad():  # it has no parameters, and nothing below it learns
                sources["flow"] = self.flow(clips)
        outputs: list[Tensor] = []
        for node, fusion, block in zip(self.graph.nodes, self.fusions, self.nodes, strict=True):
            if node.source:
                outputs.append(block(sources[node.source]))
                continue
            gates = None
            if str(len(outputs)) in self.attentions:
                gates = self.attentions[str(len(outputs))]([outputs[i] for i in self.graph.below(node)])
            outputs.append(block(fusion([outputs[i] for i in node.inputs], gates)))
        x = sum(outputs[i].mean((2, 3, 4)) for i in self.graph.tops) / len(self.graph.tops)
        return self.fc(self.dropout(x))


def _block(in_chs: int, filters: int, inner: int, node: Node, modules: int) -> nn.Module:
    units = []
    for i in range(modules):
        stride = node.stride if i == 0 else 1
        units.append(Module(in_chs, filters, inner, stride, node.dilation, temporal=i % 2 == 1))
        in_chs = EXPANSION * filters
    return nn.Sequential(*units)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


@register_family(Knob("width", 0.03, 2.0, 0.002), architecture=Graph)
def assemblenet(
    *,
    num_classes: int,
    frames: int = 32,
    crop: int = 224,
    width: float = 1.0,
    graph: str | dict = "assemblenet_50",
    depth: int = 50,
    modules: tuple[int, ...] | None = None,
    dropout: float = 0.5,
    flow_iterations: int = 40,
    learn_connections: bool = False,
    peer_attention: bool = False,
) -> nn.Module:
    """AssembleNet; the defaults are AssembleNet-50 with the connection weights that its authors found.

    ::

        clip B 3 T H W -> RGB stems, flow stems of its TV-L1 flow -> blocks of levels 0 to 3, as the graph connects
             them -> pool -> linear -> logits B N

    The cost of the flow is not in the GMACs, as in the paper's: it is element-wise.

    Args:
        num_classes: N.
        frames: T; nothing strides in time. The dilations are made for 32 or more: with 8, most taps fall on padding.
        crop: side of the frames in pixels; the net pools globally, any crop will do.
        width: knob; factor on all channels.
        graph: name of a found graph, or a graph as plain data.
        depth: 26, 38, 50, 68, 77 or 101: how many residual units the blocks have.
        modules: residual units of a block by level, in place of those of ``depth``.
        dropout: probability of a dropout before the classifier.
        flow_iterations: of the representation flow.
        learn_connections: True: learn the connection weights again.
        peer_attention: True: AssembleNet++'s attention on every connection.

    Returns:
        A module from clips ``B 3 T H W`` to logits ``B N``.

    Raises:
        GraphError: the data are not a graph.
        ValueError: unknown name or depth.
    """
    if isinstance(graph, str):
        if graph not in GRAPHS:
            raise ValueError(f"unknown graph {graph!r}; known: {', '.join(GRAPHS)}")
        graph = GRAPHS[graph]
    else:
        graph = Graph.from_dict(graph)
    if modules is None:
        if depth not in DEPTHS:
            raise ValueError(f"unknown depth {depth}; known: {', '.join(map(str, DEPTHS))}")
        modules = DEPTHS[depth]
    if len(modules) != LEVELS:
        raise ValueError(f"modules={modules}: give {LEVELS} numbers, one per level")
    return AssembleNet(
        graph, num_classes, tuple(modules), width, dropout, flow_iterations, learn_connections, peer_attention
    )


VARIANTS: dict[str, dict] = {
    "assemblenet_50": {"graph": "assemblenet_50", "depth": 50},
    "assemblenet_101": {"graph": "assemblenet_101", "depth": 101},
}
