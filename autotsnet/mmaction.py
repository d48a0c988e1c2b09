"""Our networks, the supernet and the search in stock mmaction2 and mmengine configs.

``custom_imports = dict(imports=["autotsnet.mmaction"])`` makes these known, see configs/mmaction2:

=====================================  ===============================================================================
``autotsnet.Backbone``                 a network up to its head, for mmaction2's ``Recognizer3D`` and its heads
``autotsnet.Recognizer``               a whole network, or a supernet, on ``inputs`` and ``data_samples``
``autotsnet.ClipPreprocessor``         mmaction2's recognizers on this project's ``clips`` and ``label``
``autotsnet.ProgressiveSearchLoop``    the search, as ``train_cfg``
``autotsnet.ArchitectureHook``         writes what the search has found
``autotsnet.PlainCheckpointHook``      checkpoints that can be resumed and tested, of a search or a training
=====================================  ===============================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmaction.models.data_preprocessors import ActionDataPreprocessor
from mmaction.models.heads import BaseHead
from mmaction.structures import ActionDataSample
from mmengine.model import BaseModel
from safetensors.torch import load_file
from torch import Tensor, nn

from autotsnet import hooks  # noqa: F401  (registers them)
from autotsnet.registry import MODELS
from autotsnet.search import progressive  # noqa: F401  (registers the loop)

NORMAL = dict(mean=[114.75] * 3, std=[57.375] * 3, format_shape="NCTHW")
"""Arguments of ``ActionDataPreprocessor``: the normalisation that this project trains with."""


def _network(net: nn.Module | dict, num_classes: int) -> nn.Module:
    return net if isinstance(net, nn.Module) else MODELS.build({"num_classes": num_classes, **net})


@MODELS.register_module()
class Backbone(nn.Module):
    """A network without its head: clips B 3 T H W to ``features``, B C T' H' W'.

    The features of a two-stream network are one map: the fast stream is averaged over time to the frames of the slow
    stream. The mean of the map is then the input of the network's own head.

    Args:
        net: the network, or its config: ``dict(type="auto_tsnet", architecture="architecture.json")``, ``x3d``, ...
        pretrained: weights of the network, with or without head: ``.safetensors``, or a checkpoint of mmengine.
        out_channels: the expected C, which a head needs as ``in_channels``; None: not checked.

    Raises:
        ValueError: the network has no ``features``, C is not ``out_channels``, or the weights do not fit the network.
    """

    def __init__(
        self, net: nn.Module | dict, pretrained: str | Path | None = None, out_channels: int | None = None
    ) -> None:
        super().__init__()
        self.net = _network(net, num_classes=1)
        if not hasattr(self.net, "features"):
            raise ValueError(
                f"{type(self.net).__name__} has no features(), it cannot be a backbone; autotsnet.Recognizer takes any "
                "network as a whole"
            )
        self.out_channels = getattr(self.net, self.net.head[0]).weight.shape[1]
        if out_channels not in (None, self.out_channels):
            raise ValueError(
                f"the features of this network have {self.out_channels} channels, not {out_channels}; change "
                "out_channels, and in_channels of the head"
            )
        for name in self.net.head:
            delattr(self.net, name)
        if pretrained:
            state = {k: v for k, v in _weights(pretrained).items() if k.partition(".")[0] not in self.net.head}
            shapes, own = ({k: v.shape for k, v in s.items()} for s in (state, self.net.state_dict()))
            if odd := sorted(k for k in shapes.keys() | own.keys() if shapes.get(k) != own.get(k)):
                raise ValueError(
                    f"{pretrained} does not hold the weights of this network: {len(odd)} tensors are absent, unknown "
                    f"or of another shape, {odd[0]} among them"
                )
            self.net.load_state_dict(state)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips B 3 T H W, normalised -> B C T' H' W'."""
        return self.net.features(clips)


def _weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a network, or of a model that holds it as ``net``."""
    if Path(path).suffix == ".safetensors":
        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return {name.removeprefix("net."): tensor for name, tensor in state.items()}


@MODELS.register_module()
class LogitsHead(BaseHead):
    """A head of mmaction2 for a network that has its own head: losses and predictions from logits."""

    def __init__(self, num_classes: int, average_clips: str | None = "prob", **kwargs) -> None:
        kwargs.setdefault("loss_cls", dict(type="mmaction.CrossEntropyLoss"))
        super().__init__(num_classes, in_channels=num_classes, average_clips=average_clips, **kwargs)

    def forward(self, x: Tensor, **kwargs) -> Tensor:
        """Return the logits unchanged."""
        return x


@MODELS.register_module()
class Recognizer(BaseModel):
    """A whole network in place of a recognizer of mmaction2; with a supernet, the model that the search loop trains.

    Args:
        net: the network, or its config: any family, or ``dict(type="SuperNet", space="m")``.
        num_classes: N.
        cls_head: arguments of mmaction2's ``BaseHead``: ``label_smooth_eps``, ``average_clips``, ``topk``, ...
        data_preprocessor: mmaction2's, by default with the mean and the standard deviation of this project.
    """

    def __init__(
        self,
        net: nn.Module | dict,
        num_classes: int,
        cls_head: dict[str, Any] | None = None,
        data_preprocessor: dict | nn.Module | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor or ActionDataPreprocessor(**NORMAL))
        self.net = _network(net, num_classes)
        self.cls_head = LogitsHead(num_classes, **(cls_head or {}))

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[ActionDataSample] | None = None,
        mode: str = "tensor",
        architecture: object = None,
    ) -> Tensor | dict[str, Tensor] | list[ActionDataSample]:
        """Logits (``tensor``), losses (``loss``), or the samples with their scores (``predict``).

        Args:
            inputs: B V 3 T H W, normalised.
            data_samples: one per video.
            mode: one of the three.
            architecture: the subnet to run, if the network is a supernet.
        """
        logits = self.net(inputs.flatten(0, 1), *(() if architecture is None else (architecture,)))
        if mode == "tensor":
            return logits
        if mode == "predict":
            return self.cls_head.predict_by_feat(logits, data_samples)
        losses = self.cls_head.loss_by_feat(logits, data_samples)
        return dict(loss=losses.pop("loss_cls"), **losses)


@MODELS.register_module()
class ClipPreprocessor(ActionDataPreprocessor):
    """mmaction2's preprocessor for this project's batches: ``clips`` B V T H W 3 and ``label`` B."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**{**NORMAL, **kwargs})

    def forward(self, data: dict, training: bool = False) -> dict:
        """Return ``inputs``, B V 3 T H W, and ``data_samples``."""
        samples = [ActionDataSample().set_gt_labels(int(label)) for label in data["label"]]
        return super().forward(dict(inputs=[*data["clips"].permute(0, 1, 5, 2, 3, 4)], data_samples=samples), training)
