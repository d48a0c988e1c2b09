"""Any recognizer of an mmaction2 config as a family: built for N classes, the solver scales its backbone's width.

The training parts of a config (initial weights, normalisation, losses, test settings) are not used.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

from mmaction.registry import MODELS
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from autotsnet.inputs import RGB, example
from autotsnet.meta import on_meta
from autotsnet.registry import Knob

WIDTHS = (Knob("base_channels", 4, 512, 0.125), Knob("widen_factor", 0.1, 8, 0.01))
"""The arguments that set the width of mmaction2's backbones: of the ResNets in 3D, of the MobileNets."""
SCRATCH = dict(pretrained=None, pretrained2d=False, norm_eval=False, frozen_stages=-1)
"""Arguments of a backbone without pretrained weights."""
KINDS = ("Recognizer2D", "Recognizer3D")
PARTS = ("type", "backbone", "neck", "cls_head")


class Channels(int):
    """Channels of the first stage, with a fraction; the other stages have multiples, rounded one by one.

    With 24.125 the stages have 24, 48, 96 and 193, see ``baselines.residual.stage_widths``. mmaction2's ResNets expect
    whole numbers; if a budget allows few channels only, the costs of two neighbours differ by 5 to 25 %.
    """

    def __new__(cls, width: float) -> Channels:
        """The nearest whole number."""
        self = super().__new__(cls, round(width))
        self.width = width
        return self

    def __mul__(self, factor: int) -> int:
        return round(self.width * factor)

    __rmul__ = __mul__


class Recognizer(nn.Module):
    """A recognizer as a plain module from clips ``B 3 T H W`` to logits ``B N``."""

    def __init__(self, model: nn.Module, of_frames: bool) -> None:
        super().__init__()
        self.model, self.of_frames = model, of_frames

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``B 3 T H W`` to logits ``B N``."""
        return self.features(clips, "head")

    def features(self, clips: Tensor, stage: str) -> Any:
        """The output of ``stage``: ``neck``, or ``head``."""
        inputs = clips.transpose(1, 2).contiguous() if self.of_frames else clips[:, None]  # B T 3 H W, B 1 3 T H W
        return self.model.extract_feat(inputs, stage=stage)[0]


def width_knobs(model: dict) -> tuple[Knob, ...]:
    """Those of ``WIDTHS`` that the backbone of a config takes."""
    with DefaultScope.overwrite_default_scope("mmaction"):
        return tuple(knob for knob in WIDTHS if _takes(model["backbone"], knob.name))


def recognizer(model: dict, *, num_classes: int, frames: int, crop: int, **knobs: float) -> nn.Module:
    """Build the recognizer of a config.

    Args:
        model: ``model`` of the config.
        num_classes: N.
        frames: T; 2D models get it as their number of segments.
        crop: side of the frames in pixels.
        knobs: arguments of the backbone; if there are any, the head's input follows the features' channels.

    Returns:
        A module from clips ``B 3 T H W`` to logits ``B N``, from scratch.
    """
    model = _plain({part: model[part] for part in PARTS if model.get(part)})
    of_frames = model["type"].endswith("Recognizer2D")
    if "base_channels" in knobs:
        knobs["base_channels"] = Channels(knobs["base_channels"])
    with DefaultScope.overwrite_default_scope("mmaction"):
        model["backbone"] |= knobs | {k: v for k, v in SCRATCH.items() if _takes(model["backbone"], k)}
        if (model["backbone"].get("init_cfg") or {}).get("type") == "Pretrained":
            del model["backbone"]["init_cfg"]
        for part in ("backbone", "cls_head"):
            if _takes(model[part], "num_segments"):
                model[part]["num_segments"] = frames
        model["cls_head"]["num_classes"] = num_classes
        if knobs:
            body = {part: value for part, value in model.items() if part != "cls_head"}
            trunk = on_meta(lambda: Recognizer(MODELS.build(body), of_frames)).eval()
            found = trunk.features(*example(RGB, frames, crop), "neck")
            streams = found if isinstance(found, (tuple, list)) else (found,)
            model["cls_head"]["in_channels"] = sum(stream.shape[1] for stream in streams)
        net = Recognizer(MODELS.build(model), of_frames)
        if not next(net.parameters()).is_meta:
            logging.disable(logging.INFO)  # mmengine logs every parameter
            try:
                for part in ("backbone", "neck", "cls_head"):
                    if part in model:
                        getattr(net.model, part).init_weights()
            finally:
                logging.disable(logging.NOTSET)
    return net


def _takes(part: dict, name: str) -> bool:
    """Whether the class of a config's part, or one of its base classes, has an argument."""
    kind = MODELS.get(part["type"])
    if kind is None:
        raise ValueError(f"mmaction2 has no {part['type']}")
    return any(name in inspect.signature(c.__init__).parameters for c in kind.__mro__ if "__init__" in vars(c))


def _plain(config: Any) -> Any:
    """A copy in plain dicts; the recipe, not the model, decides about batch norm over several GPUs."""
    if isinstance(config, dict):
        return {k: "BN3d" if k == "type" and v == "SyncBN" else _plain(v) for k, v in config.items()}
    return [_plain(v) for v in config] if isinstance(config, (list, tuple)) else config
