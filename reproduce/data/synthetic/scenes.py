"""What happens in a synthetic video: polygons that move through a scene, and the classes they make.

Lengths are in units of the frame's short side, the origin is the centre of the frame, y points down. A scene is
drawn from a generator `rng` and a clock `u` of shape T that runs from 0 to 1. T frames, V vertices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations, permutations

import numpy as np

from .presets import Difficulty

PALETTE = {  # RGB
    "red": (225, 45, 45),
    "orange": (245, 145, 30),
    "yellow": (240, 225, 50),
    "green": (50, 185, 70),
    "cyan": (50, 205, 220),
    "blue": (50, 80, 225),
    "purple": (170, 60, 200),
    "white": (245, 245, 245),
}


@dataclass(frozen=True)
class Layer:
    """One filled polygon over time; several contours fill even-odd, so that a second one is a hole."""

    contours: tuple[np.ndarray, ...]
    """Each T V 2."""
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """Layers from back to front, and what the camera does beside its shake."""

    layers: list[Layer]
    camera_xy: np.ndarray | float = 0.0
    """T 2: where the camera looks."""
    camera_zoom: np.ndarray | float = 1.0
    """T: magnification."""
    placeholders: list[str] = field(default_factory=list)
    """What the [something]s of the template stand for."""


# ---- shapes


def _regular(corners: int, turn: float = 0.0, radius: float = 1.0) -> np.ndarray:
    angle = turn + 2 * np.pi * np.arange(corners) / corners
    return radius * np.stack([np.sin(angle), -np.cos(angle)], axis=1)


def _star() -> np.ndarray:
    return _regular(10) * np.where(np.arange(10) % 2, 0.45, 1.1)[:, None]


def _crescent() -> np.ndarray:
    outer = np.linspace(0.25 * np.pi, 1.75 * np.pi, 16)
    inner = outer[::-1][1:-1]
    outer_xy = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    inner_xy = np.stack([0.42 + 0.72 * np.cos(inner), 0.72 * np.sin(inner)], axis=1)
    return np.concatenate([outer_xy, inner_xy])


_CROSS = np.array(
    [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)]
)
_ARROW = np.array([(0, -1.1), (0.9, -0.1), (0.35, -0.1), (0.35, 1), (-0.35, 1), (-0.35, -0.1), (-0.9, -0.1)])

SHAPES = {  # name: contours of unit radius
    "circle": (_regular(20),),
    "star": (_star(),),
    "square": (_regular(4, np.pi / 4, 1.2),),
    "triangle": (_regular(3, 0.0, 1.25),),
    "ring": (_regular(20), _regular(20, 0.0, 0.55)),
    "cross": (_CROSS / 3,),
    "crescent": (_crescent(),),
    "arrow": (_ARROW,),
}
_RECTANGLE = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])
_HAND = np.array([(0.0, -0.8), (0.2, -0.05), (-0.2, -0.05)])
"""A wedge like the hand of a clock: it makes the rotation of every shape visible."""


def _moved(points: np.ndarray, x, y, scale=1.0, angle=0.0, *, width=1.0, height=1.0) -> np.ndarray:
    """`points` V 2, stretched, scaled, turned (clockwise on screen) and shifted over time → T V 2."""
    x, y, scale, angle, width, height = np.broadcast_arrays(*np.atleast_1d(x, y, scale, angle, width, height))
    px = points[:, 0] * (scale * width)[:, None]
    py = points[:, 1] * (scale * height)[:, None]
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    return np.stack([cos * px - sin * py + x[:, None], sin * px + cos * py + y[:, None]], axis=2)


def _pick(rng: np.random.Generator, among, count: int = 1) -> list[str]:
    """`count` different names out of `among`."""
    names = list(among)
    return [names[i] for i in rng.permutation(len(names))[:count]]


def _colour(rng: np.random.Generator, name: str, contrast: float) -> tuple[float, ...]:
    rgb = np.array(PALETTE[name]) + rng.uniform(-15, 15, 3)
    return tuple(np.clip(128 + contrast * (rgb - 128), 0, 255))


def _object(shape: str, colour, x, y, scale, angle=0.0) -> list[Layer]:
    """The shape and, in a darker tone of its colour, its hand."""
    dark = tuple(0.4 * c for c in colour)
    body = tuple(_moved(contour, x, y, scale, angle) for contour in SHAPES[shape])
    return [Layer(body, colour), Layer((_moved(_HAND, x, y, scale, angle),), dark)]


def distractors(rng: np.random.Generator, level: Difficulty, frames: int) -> list[Layer]:
    """Objects that stand still, anywhere in the frame."""
    layers = []
    for _ in range(rng.integers(0, level.distractors + 1)):
        shape, tint = _pick(rng, SHAPES)[0], _colour(rng, _pick(rng, PALETTE)[0], level.contrast)
        x, y = rng.uniform(-0.55, 0.55, 2)
        scale, angle = rng.uniform(0.5, 0.9) * rng.uniform(*level.radius), rng.uniform(0, 2 * np.pi)
        layers += _object(shape, tint, np.full(frames, x), y, scale, angle)
    return layers


# ---- synthetic-kinetics: what it is and what it does make the class


@dataclass(frozen=True)
class _Path:
    """Where an object is: each of shape T, or a scalar."""

    x: np.ndarray | float = 0.0
    y: np.ndarray | float = 0.0
    scale: np.ndarray | float = 1.0
    angle: np.ndarray | float = 0.0


def _wave(rng: np.random.Generator, u: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * (rng.uniform(1.0, 1.75) * u + rng.random()))


def _circle(rng: np.random.Generator, u: np.ndarray, a: float) -> _Path:
    turn = 2 * np.pi * (rng.choice([-1, 1]) * rng.uniform(0.9, 1.4) * u + rng.random())
    return _Path(x=0.24 * a * np.cos(turn), y=0.24 * a * np.sin(turn))


# Every motion is its own mirror image, left to right: training may flip. `a` is the amplitude.
MOTIONS: dict[str, Callable[[np.random.Generator, np.ndarray, float], _Path]] = {
    "swaying sideways": lambda rng, u, a: _Path(x=0.27 * a * _wave(rng, u)),
    "zooming in": lambda rng, u, a: _Path(scale=1.9 ** (a * (2 * u - 1))),
    "bouncing up and down": lambda rng, u, a: _Path(y=0.27 * a * _wave(rng, u)),
    "zooming out": lambda rng, u, a: _Path(scale=1.9 ** (a * (1 - 2 * u))),
    "circling": _circle,
    "rising": lambda rng, u, a: _Path(y=0.3 * a * (1 - 2 * u)),
    "spinning": lambda rng, u, a: _Path(angle=rng.choice([-1, 1]) * 2 * np.pi * rng.uniform(0.6, 1.0) * a * u),
    "falling": lambda rng, u, a: _Path(y=0.3 * a * (2 * u - 1)),
}


_REVERSED = {"zooming in": "zooming out", "rising": "falling"}  # all other motions are themselves, played backwards
_REVERSED |= {backwards: forwards for forwards, backwards in _REVERSED.items()}


def played_backwards(motion: str) -> str:
    """The motion, group of motions or sequence of excursions that one is when its videos are played backwards."""
    if " then " in motion:
        return " then ".join(motion.split(" then ")[::-1])
    return " or ".join(_REVERSED.get(name, name) for name in motion.split(" or "))


# Out and back: played backwards each is itself. `out` runs from 0 to 1 and back, `a` is the amplitude.
EXCURSIONS: dict[str, Callable[[np.random.Generator, np.ndarray, float], _Path]] = {
    "sideways": lambda rng, out, a: _Path(x=rng.choice([-1, 1]) * 0.3 * a * out),
    "closer": lambda rng, out, a: _Path(scale=2.0 ** (a * out)),
    "vertically": lambda rng, out, a: _Path(y=rng.choice([-1, 1]) * 0.3 * a * out),
    "farther": lambda rng, out, a: _Path(scale=0.5 ** (a * out)),
}
# Groups have members that look alike in other groups: only who tells all members apart knows the group.
SHAPE_GROUPS = {
    " or ".join(group): group
    for group in (("circle", "star"), ("square", "triangle"), ("ring", "cross"), ("crescent", "arrow"))
}
MOTION_GROUPS = {
    " or ".join(group): group
    for group in (
        ("rising", "zooming in"),
        ("falling", "zooming out"),
        ("swaying sideways", "spinning"),
        ("bouncing up and down", "circling"),
    )
}


def sequences(steps: int) -> list[tuple[str, ...]]:
    """All orders of `steps` different excursions, those of the same ones together, each before its reverse."""
    orders = (order for of in combinations(EXCURSIONS, steps) for order in permutations(of))
    return [either for order in orders if order < order[::-1] for either in (order, order[::-1])]


def _excursions(rng: np.random.Generator, u: np.ndarray, a: float, order: tuple[str, ...]) -> _Path:
    """One excursion after the other, each in an equal part of the time."""
    x, y, scale = 0 * u, 0 * u, 1 + 0 * u
    for i, name in enumerate(order):
        path = EXCURSIONS[name](rng, np.sin(np.pi * np.clip(len(order) * u - i, 0, 1)), a)
        x, y, scale = x + path.x, y + path.y, scale * path.scale
    return _Path(x, y, scale)


def appearance_motion_classes(count: int, joint: bool = False, steps: int = 1) -> list[tuple[str, str]]:
    """`count` of the pairs (shape, motion): each of n shapes has k of n motions, each motion k shapes.

    Neither the shape nor the motion by itself tells more than one class out of k. 4, 8, 16 and 24 classes have
    (n, k) = (2, 2), (4, 2), (4, 4) and (8, 3).

    Args:
        count: of classes.
        joint: groups of shapes and groups of motions take the place of shapes and motions.
        steps: from 2 on, sequences of excursions take the place of motions.
    """
    n, k = {4: (2, 2), 8: (4, 2), 16: (4, 4), 24: (8, 3)}[count]
    shapes = list(SHAPE_GROUPS if joint else SHAPES)[:n]
    motions = list(MOTION_GROUPS if joint else MOTIONS)[:n]
    if steps > 1:
        motions = [" then ".join(order) for order in sequences(steps)[:n]]
    return [(shapes[i], motions[(i + j) % n]) for i in range(n) for j in range(k)]


def _member(rng: np.random.Generator, name: str, groups: dict[str, tuple[str, ...]]) -> str:
    """Any member of the group of that name; what is no group is itself, and nothing is drawn."""
    return _pick(rng, groups[name])[0] if name in groups else name


def appearance_motion_scene(
    rng: np.random.Generator, u: np.ndarray, level: Difficulty, shape: str, motion: str
) -> Scene:
    """One `shape` doing one `motion`, of random colour, size, place, attitude and extent; of a group, any member."""
    shape, motion = _member(rng, shape, SHAPE_GROUPS), _member(rng, motion, MOTION_GROUPS)
    known = MOTIONS.get(motion) or partial(_excursions, order=tuple(motion.split(" then ")))
    path = known(rng, u, rng.uniform(*level.amplitude))
    x, y = rng.uniform(-0.1, 0.1, 2)
    tint = _colour(rng, _pick(rng, PALETTE)[0], level.contrast)
    scale, angle = rng.uniform(*level.radius), rng.uniform(0, 2 * np.pi)
    actor = _object(shape, tint, path.x + x + 0 * u, path.y + y, path.scale * scale, path.angle + angle)
    return Scene(distractors(rng, level, len(u)) + actor)


# ---- synthetic-ssv2: only the order of time makes the class


class _Actors:
    """Draws the things of one scene and remembers what to call them."""

    def __init__(self, rng: np.random.Generator, level: Difficulty, shapes: tuple[str, ...] = tuple(SHAPES)):
        self.rng, self.level, self.shapes = rng, level, shapes
        self.colours = _pick(rng, PALETTE, 3)
        self.amplitude = rng.uniform(*level.amplitude)
        self.names: list[str] = []

    def colour(self, noun: str) -> tuple[float, ...]:
        """The colour of the next thing, which is called `noun`."""
        name = self.colours[len(self.names)]
        self.names.append(f"a {name} {noun}".replace("a orange", "an orange"))
        return _colour(self.rng, name, self.level.contrast)

    def shape(self, among: tuple[str, ...] = ()) -> tuple[str, tuple[float, ...]]:
        """A shape, by default one of the cast's, and its colour."""
        name = _pick(self.rng, among or self.shapes)[0]
        return name, self.colour(name)

    def radius(self) -> float:
        return self.rng.uniform(*self.level.radius)

    def angle(self) -> float:
        return self.rng.uniform(0, 2 * np.pi)

    def end(self, around: float = 0.28) -> float:
        """Where a motion ends: at a random distance from the middle."""
        return self.amplitude * around * self.rng.uniform(0.8, 1.2)

    def scene(self, u: np.ndarray, layers: list[Layer], **camera) -> Scene:
        still = distractors(self.rng, self.level, len(u))
        return Scene(still + layers, placeholders=self.names, **camera)


def _between(u: np.ndarray, start, stop) -> np.ndarray:
    return start + (stop - start) * u


def _left_to_right(cast: _Actors, u: np.ndarray) -> Scene:
    shape, tint = cast.shape()
    x, y = _between(u, -cast.end(), cast.end()), cast.rng.uniform(-0.2, 0.2)
    return cast.scene(u, _object(shape, tint, x, y, cast.radius(), cast.angle()))


def _cover(cast: _Actors, u: np.ndarray) -> Scene:
    shape, tint = cast.shape()
    x, y = cast.rng.uniform(-0.12, 0.12, 2)
    radius, side = cast.radius(), cast.angle()
    away = _between(u, 0.55 + 0.1 * cast.rng.random(), 0.0)
    sheet = _moved(_RECTANGLE, x + away * np.cos(side), y + away * np.sin(side), 1.3 * radius, side)
    still = _object(shape, tint, x + 0 * u, y, radius, cast.angle())
    return cast.scene(u, [*still, Layer((sheet,), cast.colour("sheet"))])


def _towards_camera(cast: _Actors, u: np.ndarray) -> Scene:
    shape, tint = cast.shape()
    x, y = cast.rng.uniform(-0.12, 0.12, 2)
    size = cast.radius() * 2.0 ** (cast.amplitude * (2 * u - 1))
    return cast.scene(u, _object(shape, tint, x, y, size, cast.angle()))


def _round_then_square(cast: _Actors, u: np.ndarray) -> Scene:
    (x, y), centre = cast.rng.uniform(-0.15, 0.15, 2), cast.rng.uniform(0.4, 0.6)
    shown = np.clip((u - centre) / 0.15 + 0.5, 0, 1)
    layers = []
    for shape, visible in (("circle", 1 - shown), ("square", shown)):
        layers += _object(shape, cast.colour(shape), x, y, cast.radius() * visible, cast.angle())
    return cast.scene(u, layers)


def _closer(cast: _Actors, u: np.ndarray) -> Scene:
    side, layers = cast.angle(), []
    middle = cast.rng.uniform(-0.08, 0.08, 2)
    for sign in (-1, 1):
        shape, tint = cast.shape()
        radius = 0.8 * cast.radius()
        distance = sign * _between(u, radius + cast.end(0.22), radius)
        x, y = middle[0] + distance * np.cos(side), middle[1] + distance * np.sin(side)
        layers += _object(shape, tint, x, y, radius, cast.angle())
    return cast.scene(u, layers)


def _open(cast: _Actors, u: np.ndarray) -> Scene:
    tint, size, hinge = cast.colour("box"), 1.2 * cast.radius(), cast.rng.choice([-1, 1])
    x, y = cast.rng.uniform(-0.1, 0.1, 2)
    body = _moved(_RECTANGLE, x + 0 * u, y + 0.6 * size, size, height=0.6)
    lid_points = np.array([(0, -0.3), (-2 * hinge, -0.3), (-2 * hinge, 0), (0, 0)])  # the hinge is the origin
    lid = _moved(lid_points, x + hinge * size, y, size, hinge * _between(u, 0.0, 1.9 * cast.amplitude))
    dark = tuple(0.5 * c for c in tint)
    return cast.scene(u, [Layer((lid,), dark), Layer((body,), tint)])


def _downwards(cast: _Actors, u: np.ndarray) -> Scene:
    shape, tint = cast.shape()
    x, y = cast.rng.uniform(-0.2, 0.2), _between(u, -cast.end(), cast.end())
    return cast.scene(u, _object(shape, tint, x, y, cast.radius(), cast.angle()))


def _clockwise(cast: _Actors, u: np.ndarray) -> Scene:
    shape, tint = cast.shape(("arrow", "triangle", "crescent"))
    x, y = cast.rng.uniform(-0.12, 0.12, 2)
    angle = cast.angle() + 4.0 * cast.amplitude * u
    return cast.scene(u, _object(shape, tint, x, y, 1.2 * cast.radius(), angle))


def _into(cast: _Actors, u: np.ndarray) -> Scene:
    shape, tint = cast.shape()
    x, floor = cast.rng.uniform(-0.12, 0.12), cast.rng.uniform(0.15, 0.25)
    radius = 0.8 * cast.radius()
    thing = _object(shape, tint, x, _between(u, floor - 0.4 - cast.end(0.1), floor), radius, cast.angle())
    front = _moved(_RECTANGLE, x + 0 * u, floor, 1.4 * radius, height=0.9)
    return cast.scene(u, [*thing, Layer((front,), cast.colour("bin"))])


def _fold(cast: _Actors, u: np.ndarray) -> Scene:
    tint, size, side = cast.colour("napkin"), 1.2 * cast.radius(), cast.angle()
    x, y = cast.rng.uniform(-0.1, 0.1, 2)
    halves = np.array([(-1.0, -1.0), (0.0, -1.0), (0.0, 1.0), (-1.0, 1.0)])
    lying = _moved(halves, x + 0 * u, y, size, side)
    flap = _moved(halves, x, y, size, side, width=-np.cos(np.pi * u))
    pale = tuple(0.6 * c for c in tint)
    return cast.scene(u, [Layer((lying,), tint), Layer((flap,), pale)])


def _camera_left(cast: _Actors, u: np.ndarray) -> Scene:
    shape, tint = cast.shape()
    x, y = cast.rng.uniform(-0.08, 0.08), cast.rng.uniform(-0.2, 0.2)
    look = np.stack([_between(u, cast.end(0.22), -cast.end(0.22)), 0 * u], axis=1)
    return cast.scene(u, _object(shape, tint, x + 0 * u, y, cast.radius(), cast.angle()), camera_xy=look)


def _camera_in(cast: _Actors, u: np.ndarray) -> Scene:
    shape, tint = cast.shape()
    x, y = cast.rng.uniform(-0.12, 0.12, 2)
    still = _object(shape, tint, x + 0 * u, y, cast.radius(), cast.angle())
    return cast.scene(u, still, camera_zoom=1.6 ** (cast.amplitude * (2 * u - 1)))


def _sequence(cast: _Actors, u: np.ndarray, order: tuple[str, ...]) -> Scene:
    shape, tint = cast.shape()
    x, y = cast.rng.uniform(-0.1, 0.1, 2)
    path = _excursions(cast.rng, u, cast.amplitude, order)
    return cast.scene(u, _object(shape, tint, path.x + x, path.y + y, path.scale * cast.radius(), cast.angle()))


@dataclass(frozen=True)
class ReversiblePair:
    """Two classes that are each other played backwards; `stage` draws the first."""

    forwards: str
    backwards: str
    stage: Callable[[_Actors, np.ndarray], Scene]
    swaps: bool = False
    """The backward template names the things in the opposite order."""
    shapes: tuple[str, ...] = tuple(SHAPES)
    """What the things may be, where the scene leaves it open."""


PAIRS = (
    ReversiblePair("Moving [something] from left to right", "Moving [something] from right to left", _left_to_right),
    ReversiblePair("Covering [something] with [something]", "Uncovering [something]", _cover),
    ReversiblePair("Moving [something] towards the camera", "Moving [something] away from the camera", _towards_camera),
    ReversiblePair(
        "Showing [something round] before [something square]",
        "Showing [something square] before [something round]",
        _round_then_square,
        swaps=True,
    ),
    ReversiblePair(
        "Moving [something] and [something] closer to each other",
        "Moving [something] and [something] away from each other",
        _closer,
    ),
    ReversiblePair("Opening [something]", "Closing [something]", _open),
    ReversiblePair("Moving [something] down", "Moving [something] up", _downwards),
    ReversiblePair("Turning [something] clockwise", "Turning [something] anticlockwise", _clockwise),
    ReversiblePair("Putting [something] into [something]", "Taking [something] out of [something]", _into),
    ReversiblePair("Folding [something]", "Unfolding [something]", _fold),
    ReversiblePair(
        "Turning the camera left while filming [something]",
        "Turning the camera right while filming [something]",
        _camera_left,
    ),
    ReversiblePair(
        "Approaching [something] with your camera",
        "Moving away from [something] with your camera",
        _camera_in,
    ),
)
ANY_SHAPE = tuple(PAIRS[i] for i in (0, 2, 6, 4))
"""Pairs whose things may be of any shape."""


def time_order_pairs(count: int, joint: bool = False, steps: int = 1) -> list[ReversiblePair]:
    """The pairs that make `count` classes: 2k and 2k + 1 are a pair.

    Args:
        count: of classes.
        joint: each of a quarter of the pairs comes with each group of shapes, which its templates name.
        steps: from 2 on, the pairs are sequences of excursions.
    """
    pairs = ANY_SHAPE if joint else PAIRS
    if steps > 1:
        pairs = tuple(map(_ordered, sequences(steps)[::2]))
    if not joint:
        return list(pairs[: count // 2])
    motions = pairs[: count // 2 // len(SHAPE_GROUPS)]
    return [_restricted(pair, group) for group in SHAPE_GROUPS for pair in motions]


def _ordered(order: tuple[str, ...]) -> ReversiblePair:
    forwards, backwards = (f"Moving [something] {', then '.join(steps)}" for steps in (order, order[::-1]))
    return ReversiblePair(forwards, backwards, partial(_sequence, order=order))


def _restricted(pair: ReversiblePair, group: str) -> ReversiblePair:
    forwards, backwards = (text.replace("something", group) for text in (pair.forwards, pair.backwards))
    return replace(pair, forwards=forwards, backwards=backwards, shapes=SHAPE_GROUPS[group])


def time_order_scene(rng: np.random.Generator, u: np.ndarray, level: Difficulty, pair: ReversiblePair) -> Scene:
    """The forward class of a pair; the other one is this video with its frames reversed."""
    return pair.stage(_Actors(rng, level, pair.shapes), u)
