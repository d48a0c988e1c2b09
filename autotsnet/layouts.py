"""The layouts of the presets: the fixed parts, and the candidates of all others."""

from __future__ import annotations

from dataclasses import dataclass

from autotsnet.architecture import ATTENTIONS, FUSIONS, MacroArchitecture


@dataclass(frozen=True)
class GroupSpace:
    """Candidates of one block group of one stream; C is shared by its blocks, t, k and e are each block's own."""

    depth: int
    channels: tuple[int, ...]
    t: tuple[int, ...] = (1, 3, 5)
    k: tuple[int, ...] = (3, 5)
    e: tuple[float, ...] = (1.0, 1.5, 2.25, 3.0)


@dataclass(frozen=True)
class Layout:
    """A macro-architecture and the candidates of its positions.

    Attributes:
        name: the preset's name.
        macro: what is fixed.
        slow: block groups of the slow stream.
        fast: block groups of the fast stream.
        target: budget in GMACs per view that the preset is made for.
        fusions: candidates at each fusion position.
        attentions: candidates at each attention position.
    """

    name: str
    macro: MacroArchitecture
    slow: tuple[GroupSpace, ...]
    fast: tuple[GroupSpace, ...]
    target: float
    fusions: tuple[str, ...] = FUSIONS
    attentions: tuple[str, ...] = ATTENTIONS

    def __post_init__(self) -> None:
        """Check that candidate 0 of the types is ``none``: earlier stages are searched with it."""
        for name in ("fusions", "attentions"):
            if getattr(self, name)[:1] != ("none",):
                raise ValueError(f"space {self.name!r}: the first of {name} must be 'none', got {getattr(self, name)}")


def _groups(
    depths: tuple[int, ...], *channels: tuple[int, ...], t: tuple[int, ...] = (1, 3, 5)
) -> tuple[GroupSpace, ...]:
    return tuple(GroupSpace(d, c, t=t) for d, c in zip(depths, channels, strict=True))


_S_AND_M = dict(
    slow=_groups((3, 5, 11, 7), (24, 32, 40, 48), (48, 64, 80, 96), (96, 128, 160, 192), (160, 224, 288, 352)),
    fast=_groups((3, 5, 11, 7), (8, 12, 16, 24), (16, 24, 32, 48), (32, 48, 64, 96), (64, 96, 128, 192)),
)

# S, M, L: crops and depths of X3D-S, -M, -L (arXiv 2004.04730); targets: X3D's S and M, and 19.4 GMACs, which follows
# from Auto-TSNet-L's "nearly 11 times fewer FLOPs" than SlowFast 16×8 R101 (213). Widths are ours: the costs of each
# space reach well below and well above its target. tiny is for CPUs.
LAYOUTS = {
    found.name: found
    for found in (
        Layout(
            "tiny",
            MacroArchitecture(frames=8, crop=64, alpha=4, stems=(16, 8), strides=(2, 2, 2), head=128),
            slow=_groups((1, 2, 2), (16, 24, 32), (32, 48, 64), (64, 96, 128), t=(1, 3)),
            fast=_groups((1, 2, 2), (8, 12, 16), (16, 24, 32), (32, 48, 64)),
            target=0.03,
        ),
        Layout(
            "s",
            MacroArchitecture(frames=16, crop=160, alpha=4, stems=(32, 16), strides=(2, 2, 2, 2), head=2048),
            **_S_AND_M,
            target=2.0,
        ),
        Layout(
            "m",
            MacroArchitecture(frames=16, crop=224, alpha=4, stems=(32, 16), strides=(2, 2, 2, 2), head=2048),
            **_S_AND_M,
            target=4.7,
        ),
        Layout(
            "l",
            MacroArchitecture(frames=16, crop=312, alpha=4, stems=(32, 16), strides=(2, 2, 2, 2), head=2048),
            slow=_groups(
                (5, 10, 25, 15),
                (24, 32, 48, 64),
                (48, 64, 96, 128),
                (96, 128, 192, 256),
                (192, 256, 320, 384),
            ),
            fast=_groups((5, 10, 25, 15), (8, 16, 24, 32), (16, 32, 48, 64), (32, 64, 96, 128), (64, 96, 128, 192)),
            target=19.4,
        ),
    )
}


def layout(name: str) -> Layout:
    """The preset of that name.

    Raises:
        ValueError: no such preset; the message lists them.
    """
    if name not in LAYOUTS:
        raise ValueError(f"unknown search space {name!r}; known: {', '.join(LAYOUTS)}")
    return LAYOUTS[name]
