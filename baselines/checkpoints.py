"""Checkpoints of PySlowFast, pytorchvideo, mmaction2, MoViNet's PyTorch port and TSM's authors, to ours and back.

A map is a table of names, ours and theirs, read in both directions. It is strict: each tensor of the source becomes one
of ours, with its shape; an unknown name is an error, and so is a missing tensor. Two kinds of tensors may be filled in,
and are listed: batch counters, which no evaluation reads, and norms of shortcuts, which pytorchvideo's X3D does not
have and which become the identity.

    >>> state, header = read("X3D_M.pyth", "x3d_m")
    >>> save_file(state, "x3d_m.safetensors", header)
    >>> model = load("x3d_m.safetensors")
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.serialization import safe_globals

import baselines
from autotsnet.meta import on_meta

VERSION = 1  # of the maps; part of the header of each converted file
STATE_KEYS = ("model_state", "state_dict")  # the tensors of PySlowFast and pytorchvideo; of mmaction2 and TSM
MOVINET_K400 = "the files published for Kinetics-400 are reported to be those for Kinetics-600: tensorflow/models#13566"
_LEAF = r"(?P<leaf>(\.(weight|bias|running_mean|running_var|num_batches_tracked))?)"

Names = dict[str, "str | tuple[str, ...]"]
Layout = Callable[[Tensor], Tensor]


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file, why, and the way out."""


@dataclass(frozen=True)
class KeyMap:
    """The names of a source and ours, for one family.

    Attributes:
        names: ours to theirs, of modules or tensors; ``{b}`` stands for a number, ``{path}`` for anything. With
            several of theirs, their tensors are concatenated to ours. The first that fits is used.
        layouts: for our tensors with another layout, named as in ``names``, the function that makes ours from theirs,
            and its inverse; the first that fits is used.
        bare_shortcuts: the source has no norm on a shortcut between equal widths; our norm there is the identity.
    """

    names: Names
    layouts: dict[str, tuple[Layout, Layout]] = field(default_factory=dict)
    bare_shortcuts: bool = False

    def ours(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Their state dict under our names.

        Raises:
            KeyError: an unknown name, two tensors of one name, or a missing part.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            name, of = self.find(key)
            if name is None:
                raise KeyError(f"{key}: not a name of the expected model")
            parts.setdefault(name, dict.fromkeys(of))
            if key not in parts[name] or parts[name][key] is not None:
                raise KeyError(f"{key}: a second tensor for {name}")
            parts[name][key] = tensor
        ours = {}
        for name, tensors in parts.items():
            if any(tensor is None for tensor in tensors.values()):
                raise KeyError(f"{name}: not all of {', '.join(tensors)}")
            tensor = torch.cat(tuple(tensors.values())) if len(tensors) > 1 else next(iter(tensors.values()))
            ours[name] = self._layout(name)[0](tensor)
        return ours | self._identities(ours)

    def theirs(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our state dict under their names: the inverse of ``ours``.

        Raises:
            KeyError: an unknown name.
            CheckpointError: a norm that the source does not have is not the identity.
        """
        identities = self._identities(state)
        for name, tensor in identities.items():
            if not torch.equal(state[name], tensor):
                raise CheckpointError(f"{name} is not that of an identity, and the target has no norm there")
        theirs = {}
        for name, tensor in state.items():
            if name in identities:
                continue
            keys = next((keys for ours, to in self.names.items() if (keys := _translate(name, ours, to))), None)
            if keys is None:
                raise KeyError(f"{name}: not a name of this family")
            tensor = self._layout(name)[1](tensor)
            chunks = tensor.chunk(len(keys)) if len(keys) > 1 else (tensor,)
            theirs |= {key: chunk.clone() for key, chunk in zip(keys, chunks, strict=True)}
        return theirs

    def find(self, key: str) -> tuple[str | None, tuple[str, ...]]:
        """Our name of their tensor, and the names of all of theirs in it; None and an empty tuple if unknown."""
        for ours, theirs in self.names.items():
            for part in (theirs,) if isinstance(theirs, str) else theirs:
                name = _translate(key, part, ours)
                if name:
                    return name[0], _translate(name[0], ours, theirs)
        return None, ()

    def _layout(self, name: str) -> tuple[Layout, Layout]:
        fitting = (layout for ours, layout in self.layouts.items() if _pattern(ours).fullmatch(name))
        return next(fitting, (_same, _same))

    def _identities(self, ours: dict[str, Tensor]) -> dict[str, Tensor]:
        """The norms that the source leaves out."""
        identities = {}
        for key, weight in ours.items():
            if self.bare_shortcuts and key.endswith("downsample.conv.weight") and len(weight) == weight.shape[1]:
                norm = key.removesuffix("conv.weight") + "bn."
                ones = torch.ones(len(weight))
                identities |= {norm + "weight": ones, norm + "bias": 0 * ones, norm + "running_mean": 0 * ones}
                # A norm divides by the root of variance plus eps, here by 1.
                identities |= {norm + "running_var": ones - 1e-5, norm + "num_batches_tracked": torch.tensor(0)}
        return identities


def _same(tensor: Tensor) -> Tensor:
    return tensor


@cache
def _pattern(template: str) -> re.Pattern:
    escaped = re.escape(template).replace(r"\{path\}", "(?P<path>.+)")
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", escaped) + _LEAF)


def _translate(key: str, template: str, to: str | tuple[str, ...]) -> tuple[str, ...]:
    """A key that fits a template, rewritten in other templates; empty if it does not fit."""
    match = _pattern(template).fullmatch(key)
    if not match:
        return ()
    fields = match.groupdict()
    return tuple(name.format(**fields) + fields["leaf"] for name in ((to,) if isinstance(to, str) else to))


# The tables --------------------------------------------------------------------------------------------------


def _under(names: Names, ours: str, theirs: str) -> Names:
    """The same names under prefixes."""
    return {ours + name: theirs + of for name, of in names.items()}


def _stages(names: Names, ours: str, theirs: str) -> Names:
    """The same for stages ``{s}``, from 1; ``{next}`` is one more, as PySlowFast counts the stem."""
    stages = ((ours.replace("{s}", f"{s}"), theirs.replace("{next}", f"{s + 1}")) for s in (1, 2, 3, 4))
    return {name: of for a, b in stages for name, of in _under(names, a, b).items()}


# Our residual blocks are mmaction2's. Their parts in pytorchvideo (models/resnet.py, models/x3d.py) and in PySlowFast
# (slowfast/models/resnet_helper.py):
_PYTORCHVIDEO = {
    "downsample.conv": "branch1_conv",
    "downsample.bn": "branch1_norm",
    "conv1.conv": "branch2.conv_a",
    "conv1.bn": "branch2.norm_a",
    "conv2.conv": "branch2.conv_b",
    "conv2.bn": "branch2.norm_b",
    "conv3.conv": "branch2.conv_c",
    "conv3.bn": "branch2.norm_c",
}
_PYTORCHVIDEO_X3D = _PYTORCHVIDEO | {
    "conv2.bn": "branch2.norm_b.0",
    "se_module.fc1": "branch2.norm_b.1.block.0",
    "se_module.fc2": "branch2.norm_b.1.block.2",
}
_PYSLOWFAST = {
    "downsample.conv": "branch1",
    "downsample.bn": "branch1_bn",
    "conv1.conv": "branch2.a",
    "conv1.bn": "branch2.a_bn",
    "conv2.conv": "branch2.b",
    "conv2.bn": "branch2.b_bn",
    "se_module.fc1": "branch2.se.fc1",
    "se_module.fc2": "branch2.se.fc2",
    "conv3.conv": "branch2.c",
    "conv3.bn": "branch2.c_bn",
}
# Our MViT blocks are mmaction2's, with query, key and value in one; the other names are the same everywhere.
_MVIT_BLOCKS = {
    "blocks.{b}.attn.qkv": ("blocks.{b}.attn.q", "blocks.{b}.attn.k", "blocks.{b}.attn.v"),
    "blocks.{b}.{path}": "blocks.{b}.{path}",
}
_POSITIONS = {f"pos_embed_{of}": f"pos_embed_{of}" for of in ("spatial", "temporal", "class")} | {
    "cls_token": "cls_token"
}


def _pytorchvideo_pathway(ours: str, theirs: str) -> Names:
    return _under({"conv": "conv", "bn": "norm"}, f"{ours}.conv1.", f"blocks.0.{theirs}") | _under(
        _PYTORCHVIDEO, f"{ours}.layer{{s}}.{{b}}.", f"blocks.{{s}}.{theirs}res_blocks.{{b}}."
    )


def _pyslowfast_pathway(ours: str, theirs: str) -> Names:
    return _under({"conv": "conv", "bn": "bn"}, f"{ours}.conv1.", f"s1.{theirs}_stem.") | _stages(
        _PYSLOWFAST, f"{ours}.layer{{s}}.{{b}}.", f"s{{next}}.{theirs}_res{{b}}."
    )


def _fast_last(weight: Tensor) -> Tensor:
    """Reorder the classifier's columns from fast, slow (mmaction2) to slow, fast; the fast ones are a ninth."""
    return weight.roll(-(weight.shape[-1] // 9), -1)


def _fast_first(weight: Tensor) -> Tensor:
    return weight.roll(weight.shape[-1] // 9, -1)


def _movinet(conv: str) -> Names:
    """MoViNet's names in its PyTorch port, whose converted files have the names of TensorFlow's translated.

    Args:
        conv: the port's name of a convolution: of three axes in a base network, of two in a stream.
    """
    unit = {"conv": f"conv_1.{conv}", "norm": "conv_1.norm"}
    layer, theirs = "blocks.{b}.{l}.", "blocks.b{b}_l{l}."
    return {
        **_under(unit, "stem.", "conv1."),
        **_under(unit, f"{layer}expand.", f"{theirs}expand."),
        **_under(unit, f"{layer}depthwise.", f"{theirs}deep."),
        **_under({"conv": f"conv_2.{conv}", "norm": "conv_2.norm"}, f"{layer}temporal.", f"{theirs}deep."),
        f"{layer}se.reduce": f"{theirs}se.fc1.conv_1.{conv}",
        f"{layer}se.expand": f"{theirs}se.fc2.conv_1.{conv}",
        **_under(unit, f"{layer}project.", f"{theirs}project."),
        **_under(unit, f"{layer}shortcut.{{i}}.", f"{theirs}res.{{i}}."),
        f"{layer}scale": f"{theirs}alpha",
        **_under(unit, "project.", "conv7."),
        "hidden": f"classifier.0.conv_1.{conv}",
        "fc": f"classifier.3.conv_1.{conv}",
    }


def _planar(axis: int) -> tuple[Layout, Layout]:
    """Convolutions of two axes that have three here, the one at ``axis`` of length 1; norms stay."""
    return (
        lambda tensor: tensor.unsqueeze(axis) if tensor.dim() == 4 else tensor,
        lambda tensor: tensor.squeeze(axis) if tensor.dim() == 5 else tensor,
    )


def _pointwise(axes: int) -> tuple[Layout, Layout]:
    """Convolutions of 1x1 or 1x1x1 that are linear layers here."""
    return lambda weight: weight.flatten(1), lambda weight: weight[(..., *[None] * axes)]


MAPS: dict[str, dict[str, KeyMap]] = {
    "pytorchvideo": {
        "x3d": KeyMap(
            {
                "conv1_s.conv": "blocks.0.conv.conv_t",
                "conv1_t.conv": "blocks.0.conv.conv_xy",
                "conv1_t.bn": "blocks.0.norm",
                **_under(_PYTORCHVIDEO_X3D, "layer{s}.{b}.", "blocks.{s}.res_blocks.{b}."),
                "conv5.conv": "blocks.5.pool.pre_conv",
                "conv5.bn": "blocks.5.pool.pre_norm",
                "lin5": "blocks.5.pool.post_conv",
                "fc": "blocks.5.proj",
            },
            bare_shortcuts=True,
        ),
        "slow": KeyMap({**_pytorchvideo_pathway("path", ""), "fc": "blocks.5.proj"}),
        "slowfast": KeyMap(
            {
                **_pytorchvideo_pathway("slow_path", "multipathway_blocks.0."),
                **_pytorchvideo_pathway("fast_path", "multipathway_blocks.1."),
                "laterals.{s}.conv": "blocks.{s}.multipathway_fusion.conv_fast_to_slow",
                "laterals.{s}.bn": "blocks.{s}.multipathway_fusion.norm",
                "fc": "blocks.6.proj",
            }
        ),
        "mvit": KeyMap(
            {
                "patch_embed": "patch_embed.patch_model",
                **_under(_POSITIONS, "", "cls_positional_encoding."),
                **_MVIT_BLOCKS,
                "norm": "norm_embed",
                "fc": "head.proj",
            }
        ),
    },
    "pyslowfast": {
        "x3d": KeyMap(
            {
                "conv1_s.conv": "s1.pathway0_stem.conv_xy",
                "conv1_t.conv": "s1.pathway0_stem.conv",
                "conv1_t.bn": "s1.pathway0_stem.bn",
                **_stages(_PYSLOWFAST, "layer{s}.{b}.", "s{next}.pathway0_res{b}."),
                "conv5.conv": "head.conv_5",
                "conv5.bn": "head.conv_5_bn",
                "lin5": "head.lin_5",
                "fc": "head.projection",
            }
        ),
        "slow": KeyMap({**_pyslowfast_pathway("path", "pathway0"), "fc": "head.projection"}),
        "slowfast": KeyMap(
            {
                **_pyslowfast_pathway("slow_path", "pathway0"),
                **_pyslowfast_pathway("fast_path", "pathway1"),
                **{f"laterals.{s}.conv": f"s{s + 1}_fuse.conv_f2s" for s in range(4)},
                **{f"laterals.{s}.bn": f"s{s + 1}_fuse.bn" for s in range(4)},
                "fc": "head.projection",
            }
        ),
        # Older files have query, key and value in one, as here: the general name of the blocks covers them.
        "mvit": KeyMap(
            {"patch_embed": "patch_embed.proj", **_POSITIONS, **_MVIT_BLOCKS, "norm": "norm", "fc": "head.projection"}
        ),
    },
    "mmaction2": {
        "x3d": KeyMap(
            {"fc": "cls_head.fc2", "lin5": "cls_head.fc1", "{path}": "backbone.{path}"},
            # A linear layer there, a convolution of 1x1x1 here.
            layouts={"lin5.weight": (lambda weight: weight[..., None, None, None], lambda weight: weight.flatten(1))},
        ),
        "slow": KeyMap({"fc": "cls_head.fc_cls", "path.{path}": "backbone.{path}"}),
        "slowfast": KeyMap(
            {
                "fc": "cls_head.fc_cls",
                "laterals.0.{path}": "backbone.slow_path.conv1_lateral.{path}",
                **{f"laterals.{s}.{{path}}": f"backbone.slow_path.layer{s}_lateral.{{path}}" for s in (1, 2, 3)},
                "{path}": "backbone.{path}",
            },
            layouts={"fc.weight": (_fast_last, _fast_first)},
        ),
        "tsm": KeyMap({"fc": "cls_head.fc_cls", "{path}": "backbone.{path}"}),
        "tsm_mobilenetv2": KeyMap({"fc": "cls_head.fc_cls", "{path}": "backbone.{path}"}),
    },
    # Atze00/MoViNet-pytorch; the networks of a base and of a stream have different names.
    "movinet-pytorch": {
        "movinet": KeyMap(_movinet("conv3d"), layouts={"hidden.weight": _pointwise(3), "fc.weight": _pointwise(3)})
    },
    "movinet-pytorch, streams": {
        "movinet": KeyMap(
            _movinet("conv2d"),
            layouts={
                "hidden.weight": _pointwise(2),
                "fc.weight": _pointwise(2),
                "{path}.temporal.conv.weight": _planar(4),
                "{path}.weight": _planar(2),
            },
        )
    },
    # torchvision's names, under a data-parallel wrapper.
    "mit-han-lab": {
        "tsm": KeyMap(
            _under(
                {
                    "conv1.conv": "base_model.conv1",
                    "conv1.bn": "base_model.bn1",
                    "layer{s}.{b}.downsample.conv": "base_model.layer{s}.{b}.downsample.0",
                    "layer{s}.{b}.downsample.bn": "base_model.layer{s}.{b}.downsample.1",
                    "layer{s}.{b}.conv{c}.conv.net": "base_model.layer{s}.{b}.conv{c}.net",
                    "layer{s}.{b}.conv{c}.conv": "base_model.layer{s}.{b}.conv{c}",
                    "layer{s}.{b}.conv{c}.bn": "base_model.layer{s}.{b}.bn{c}",
                    "fc": "new_fc",
                },
                "",
                "module.",
            )
        ),
    },
}


# From a file to a model --------------------------------------------------------------------------------------


def convert(
    theirs: dict[str, Tensor], variant: str, num_classes: int | None = None
) -> tuple[dict[str, Tensor], str, list[str]]:
    """Convert a state dict of another project to that of a variant; its names tell the source.

    Args:
        theirs: of PySlowFast, pytorchvideo, mmaction2, MoViNet's PyTorch port or TSM's authors.
        variant: a name of ``baselines.VARIANTS``.
        num_classes: N of the source, if it is not the variant's own.

    Returns:
        The state dict of the variant's network, the source, and the tensors that were filled in.

    Raises:
        CheckpointError: the tensors are not those of the variant.
        ValueError: no such variant.
    """
    expected = _shapes(variant, num_classes)
    maps = {source: families[_family(variant)] for source, families in MAPS.items() if _family(variant) in families}
    source = max(maps, key=lambda source: _fit(maps[source], expected, theirs))
    unknown = [key for key in theirs if maps[source].find(key)[0] is None]
    try:
        ours = maps[source].ours({key: tensor for key, tensor in theirs.items() if key not in unknown})
    except (KeyError, IndexError, RuntimeError) as error:  # the last two where parts or layouts have other shapes
        raise CheckpointError(f"not {variant}: {error.args[0]}; {_looks_like(theirs)}") from None
    ours |= {name: torch.tensor(0) for name in expected if name.endswith("num_batches_tracked") and name not in ours}
    missing = [name for name in expected if name not in ours]
    unknown += [name for name in ours if name not in expected]
    if missing or unknown:
        faults = [f"{_some(missing)} missing"] * bool(missing) + [f"no place for {_some(unknown)}"] * bool(unknown)
        raise CheckpointError(f"not {variant}: {', '.join(faults)}; {_looks_like(theirs)}")
    classes = ours["fc.bias"].numel()
    if classes != expected["fc.bias"][0]:
        native = expected["fc.bias"][0]
        said = f"{classes} classes, {variant} has {native}; if that is meant, say --classes {classes}"
        raise CheckpointError(said + (f" ({MOVINET_K400})" if (_family(variant), classes) == ("movinet", 600) else ""))
    wrong = [name for name, shape in expected.items() if ours[name].shape != shape]
    if wrong:
        shapes = f"{tuple(ours[wrong[0]].shape)} for {tuple(expected[wrong[0]])}"
        raise CheckpointError(f"not {variant}: {_some(wrong)} of other shapes, {shapes}; {_looks_like(theirs)}")
    found = {maps[source].find(key)[0] for key in theirs}
    return ours, source, [name for name in expected if name not in found]


def _input(source: str, variant: str) -> str:
    """What weights were trained on, by their authors' recipes; this suite's clips are RGB, mean 0.45, std 0.225."""
    if source in ("mmaction2", "mit-han-lab") and not variant.startswith(("x3d", "mvit")):
        return "RGB, mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    if source.startswith("movinet"):
        return "RGB, mean 0, std 1"
    channels = "BGR" if source == "pyslowfast" and variant.endswith("_ssv2") else "RGB"
    return f"{channels}, mean 0.45, std 0.225"


def read(path: str | Path, variant: str, num_classes: int | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a checkpoint file of another project, see ``convert``.

    Returns:
        The state dict of the variant's network, and where it comes from: a header for safetensors, text to text.

    Raises:
        CheckpointError: the file cannot be read, holds code, or does not fit the variant.
        ValueError: no such variant.
    """
    path = Path(path)
    _family(variant)
    file = _load(path)
    key = next((key for key in STATE_KEYS if key in file), None)
    theirs = file[key] if key else file
    entries = theirs.items() if isinstance(theirs, dict) else ()
    if not entries or not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in entries):
        raise CheckpointError(f"{path} has no state dict, neither as a whole nor under {' or '.join(STATE_KEYS)}")
    try:
        ours, source, made_up = convert(theirs, variant, num_classes)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    header = {
        "format": "pt",
        "variant": variant,
        "num_classes": str(len(ours["fc.bias"])),
        "input": _input(source, variant),
        "source": source,
        "source_file": path.name,
        "source_sha256": _sha256(path),
        "map_version": str(VERSION),
        "made_up": json.dumps(made_up),
        "unused": json.dumps(sorted(map(str, file.keys() - {key})) if key else []),
    }
    return {name: tensor.contiguous() for name, tensor in ours.items()}, header


def open_file(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State dict and header of a file that ``import-weights`` wrote.

    Raises:
        CheckpointError: it cannot be read, or has no header of ours.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, the file is no dict
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); write it with import-weights") from error
    if header.get("variant") not in baselines.VARIANTS:
        raise CheckpointError(f"{path} does not say which variant it is; write it with import-weights")
    return state, header


def load(path: str | Path) -> nn.Module:
    """The network of a file that ``import-weights`` wrote, in evaluation mode.

    Raises:
        CheckpointError: the file cannot be read, or has no header of ours.
    """
    state, header = open_file(path)
    build, arguments = baselines.VARIANTS[header["variant"]]
    model = build(**arguments | {"num_classes": int(header["num_classes"])})
    model.load_state_dict(state, strict=True)
    return model.eval()


def to_mmaction2(state: dict[str, Tensor], variant: str) -> dict:
    """A checkpoint that mmaction2 loads, from a state dict of ours.

    mmaction2's SlowFast needs ``lateral_norm=True`` for all variants but its own, and takes other slow frames.

    Raises:
        CheckpointError: mmaction2 has no such model.
    """
    maps = MAPS["mmaction2"]
    if _family(variant) not in maps:
        raise CheckpointError(f"mmaction2 has no {variant}; it has {', '.join(maps)}")
    return {"state_dict": maps[_family(variant)].theirs(state), "meta": {"variant": variant, "map_version": VERSION}}


def _family(variant: str) -> str:
    if variant not in baselines.VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known: {', '.join(baselines.VARIANTS)}")
    return baselines.VARIANTS[variant][0].__name__


@cache
def _shapes(variant: str, num_classes: int | None = None) -> dict[str, torch.Size]:
    """Shapes of the tensors of a variant."""
    _family(variant)
    build, arguments = baselines.VARIANTS[variant]
    if num_classes:
        arguments = arguments | {"num_classes": num_classes}
    return {name: tensor.shape for name, tensor in on_meta(lambda: build(**arguments)).state_dict().items()}


class _Ignored:
    """Takes the place of the classes that a file names, and builds nothing."""

    def __new__(cls, *_):
        return super().__new__(cls)

    def __setstate__(self, _) -> None:
        pass


# mmengine pickles its log history into checkpoints. It is not needed: these names are bound to a class that does
# nothing, so that none of its code is run.
_LOG_HISTORY = [
    (_Ignored, name)
    for name in (
        "mmengine.logging.history_buffer.HistoryBuffer",
        "builtins.getattr",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.ndarray",
        "numpy.dtype",
    )
]


def _load(path: Path) -> dict:
    try:
        with safe_globals(_LOG_HISTORY), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # what follows is one line
            file = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        why = f"holds more than tensors ({code[1]})" if code else "is no archive of tensors, or a damaged one"
        raise CheckpointError(
            f"{path} {why} and is refused, none of its code was run; if you trust it, save its state dict alone"
        ) from error
    except Exception as error:  # the reader may raise anything on a damaged file
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path} cannot be read ({reason}); is it complete?") from error
    if not isinstance(file, dict):
        raise CheckpointError(f"{path} holds a {type(file).__name__}, not a dict of tensors")
    return file


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _fit(names: KeyMap, expected: dict[str, torch.Size], theirs: dict[str, Tensor]) -> int:
    """Number of tensors of a source with an expected name and, except for the first axis, the expected shape."""
    ours = ((names.find(key)[0], tensor) for key, tensor in theirs.items())
    return sum(name in expected and tensor.shape[1:].numel() == expected[name][1:].numel() for name, tensor in ours)


def _looks_like(theirs: dict[str, Tensor]) -> str:
    """Which variant of which source a checkpoint is nearest to, as text."""
    fits = {
        (variant, source): _fit(names, _shapes(variant), theirs) / max(len(theirs), len(_shapes(variant)))
        for variant in baselines.VARIANTS
        for source, families in MAPS.items()
        for family, names in families.items()
        if family == _family(variant)
    }
    best = max(fits.values())
    if best < 0.5:
        return f"it looks like no model known here, its names are {_some(list(theirs))}"
    nearest = [names for names, fit in fits.items() if fit == best]  # several have the same tensors
    return f"it looks like {' or '.join(variant for variant, _ in nearest)} of {nearest[0][1]}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
