"""GloRe units after blocks of any network, as their authors wrote them. https://arxiv.org/abs/1811.12814

    transforms=[dict(type="glore", after=["layer2.0", "layer3.1"])]

Unit and initialisation follow ``facebookresearch/GloRe``: ``network/global_reasoning_unit.py``, ``initializer.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autotsnet.layers.glore import GraphReasoning
from autotsnet.transforms import MODEL_TRANSFORMS, dry_run


class GloReUnit(GraphReasoning):
    """The unit of the authors' networks: N nodes, 2 N states; the identity when it is new.

    Args:
        channels: C.
        nodes: N; by default C/4, as in the published networks.
        dims: 3 for clips B C T H W, 2 for frames B C H W, each of which is then a graph of its own.
        normalize: divide by the number of positions. The authors do so for clips that change their size; without it,
            large clips overflow in 16 bit.
    """

    as_code = True

    def __init__(self, channels: int, nodes: int | None = None, dims: int = 3, normalize: bool = False) -> None:
        super().__init__()
        self.normalize = normalize
        nodes = max(1, channels // 4) if nodes is None else nodes
        states = 2 * nodes
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.reduce = conv(channels, states, 1)
        self.assign = conv(channels, nodes, 1)
        self.nodes = conv(nodes, nodes, 1)
        self.states = conv(states, states, 1, bias=False)
        self.out = nn.Sequential(conv(states, channels, 1, bias=False), norm(channels, eps=1e-4))
        for layer in (self.reduce, self.assign, self.nodes, self.states, self.out[0]):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.out[1].weight)


@MODEL_TRANSFORMS.register_module()
def glore(
    net: nn.Module,
    after: Sequence[str],
    nodes: int | None = None,
    normalize: bool = False,
    *,
    clips: tuple[Tensor, ...] | None = None,
) -> nn.Module:
    """Put a unit after each of some blocks.

    Args:
        net: changed in place; with new units it gives the same logits.
        after: names of the blocks, as in ``named_modules``. Their outputs must be features B C T H W or B C H W.
        nodes: N of each unit; by default a quarter of the block's channels.
        normalize: see ``GloReUnit``.
        clips: of the network's size, on the meta device.

    Raises:
        ValueError: no such block, or one that does not give features; or the size of the clips is not known.
    """
    name, known = type(net).__name__, dict(net.named_modules())
    for block in after:
        if block not in known or not block:
            some = ", ".join([n for n in known if n.count(".") == 1][:6])
            raise ValueError(f"glore: {name} has no block {block!r}; it has {some}, …")
    if nodes is not None and nodes < 1:
        raise ValueError(f"glore: nodes={nodes}; at least one node is needed")
    if clips is None:
        raise ValueError(f"glore: build {name} with frames and crop, the sizes of its features are not known otherwise")
    shapes = {}
    hooks = [
        known[block].register_forward_hook(lambda _, inputs, out, block=block: shapes.update({block: out.shape}))
        for block in after
    ]
    try:
        dry_run(net, clips)
    finally:
        for hook in hooks:
            hook.remove()
    for block in after:
        shape = shapes.get(block, ())
        if len(shape) not in (4, 5):
            raise ValueError(f"glore: block {block!r} of {name} gives {tuple(shape)}, not features B C T H W")
        with torch.device(next(net.parameters()).device):
            unit = GloReUnit(shape[1], nodes, len(shape) - 2, normalize)
        net.set_submodule(block, nn.Sequential(known[block], unit))
    return net
