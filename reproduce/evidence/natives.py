"""Size and cost of the native variants beside the digits that papers and model zoos print.

Equal digits prove that a family is built correctly and counted as its authors do. Where a source's counter counts norms
too (fvcore's: 5 operations per element in its older form, 2 in its newer one and in mmengine's), our value plus just
these must give its digits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autotsnet.inputs import example, inputs_of
from autotsnet.meta import on_meta
from autotsnet.models import auto_tsnet_uniform
from autotsnet.spaces import preset
from baselines import VARIANTS
from baselines.assemblenet.network import VARIANTS as ASSEMBLENETS
from baselines.assemblenet.network import assemblenet
from baselines.glore import VARIANTS as GLORES
from baselines.movinet import INPUTS as MOVINETS
from baselines.tiny_video_net import VARIANTS as TINY_VIDEO_NETS
from reproduce.evidence.tables import PUBLISHED
from reproduce.measure.macs import count
from reproduce.measure.throughput import Mode
from reproduce.whole_files import write_atomic

NOTES = """\
- Printed digits are the sources' own, GMACs at the frames × crop of the row. Equal: our value, rounded to as many
  decimals, is the same.
- Some counters book norms too, in which the literature's convention sees no multiply-accumulates. Where a row says so,
  our GMACs plus just these are the printed digits.
"""
OVERVIEW = """\
- Params and GMACs are counted, clips/s measured (`make bench`: forward passes at the best batch, fp32, channels-last)
  on the device named. Literature values are the papers' or model zoos' own, at their own settings.
"""
DATASETS = {400: "Kinetics-400", 600: "Kinetics-600", 174: "Something-Something-V2"}


@dataclass(frozen=True)
class Native:
    """One row: a variant, and one source's digits for it.

    Attributes:
        name: of the variant.
        build: its family's build function.
        arguments: of the build function, with ``num_classes``, ``frames`` and ``crop``.
        crop: at which the source counts.
        source: model and variant in ``published.csv``; None: nothing is printed.
        norm: operations that the source's counter counts per element of a norm.
        note: explains other differences.
        dataset: of the source, where the number of classes does not say it.
    """

    name: str
    build: Callable[..., nn.Module]
    arguments: dict[str, Any] = field(hash=False)
    crop: int
    source: tuple[str, str] | None = None
    norm: int = 0
    note: str = ""
    dataset: str = ""


def _of(name: str, model: str, variant: str, crop: int | None = None, **kwargs: Any) -> Native:
    build, arguments = VARIANTS[name]
    return Native(name, build, arguments, crop or arguments["crop"], (model, variant), **kwargs)


def _without_source(name: str, note: str, crop: int) -> Native:
    return Native(name, *VARIANTS[name], crop, note=note)


def _uniform(size: str, classes: int) -> Native:
    macro = preset(size).macro
    arguments = dict(num_classes=classes, frames=macro.frames, crop=macro.crop, space=size)
    note = (
        f"reconstruction: the architecture of Auto-TSNet-{size.upper()} is not public; one choice everywhere, unscaled"
    )
    name = f"auto_tsnet_uniform_{size}" + ("_ssv2" if classes == 174 else "")
    return Native(name, auto_tsnet_uniform, arguments, macro.crop, note=note)


HEAD_OF_174 = "the printed size is that of a head for 174 classes"
LAST_DIGIT = "{} with 5 per norm element; the last digit is unexplained"
NO_HEAD = "with 2 per norm element and without the classifier our GMACs are the printed ones"
TINY = "neither size nor cost is printed in the sources reached"
SSV1 = "Something-Something-V1"
E3D_M = (
    "the convolutions alone are 4.643; as the authors' code counts, with norms and activations, 4.863; neither is 4.7"
)
ASSEMBLENET = "neither size nor cost is printed in the sources reached; the flow is element-wise and not counted"
MOVINET = dict(
    a2="11.791 with 1 per norm element; unexplained",
    a4="104.889 with 1 per norm element; other listings have 105",
)
GLORE = "no digits in the sources reached; the authors' network, instantiated, has as many parameters"
NATIVES = (
    _of("x3d_xs", "X3D", "X3D-XS", note="0.605 cut off, not rounded"),
    _of("x3d_s", "X3D", "X3D-S"),
    _of("x3d_m", "X3D", "X3D-M"),
    _of("x3d_l", "X3D", "X3D-L"),
    _of("x3d_xs", "X3D (PyTorchVideo)", "X3D-XS", 182, norm=5),
    _of("x3d_s", "X3D (PyTorchVideo)", "X3D-S", 182, norm=5, note=LAST_DIGIT.format("2.955")),
    _of("x3d_m", "X3D (PyTorchVideo)", "X3D-M", 256, norm=5),
    _of("x3d_l", "X3D (PyTorchVideo)", "X3D-L", 356, norm=5),
    _of("slow_4x16_r50", "Slow (PyTorchVideo)", "R50 4x16", 256, norm=5),
    _of("slow_8x8_r50", "Slow (PyTorchVideo)", "R50 8x8", 256),
    _of("slow_8x8_r50_ssv2", "Slow (PyTorchVideo)", "R50 8x8", 256, norm=5, note="0.03 M unexplained"),
    _of("slowfast_4x16_r50", "SlowFast", "R50 4x16", note="27.6387 cut off, not rounded"),
    _of("slowfast_4x16_r50", "SlowFast (paper)", "R50 4x16", 256),
    _of("slowfast_4x16_r50", "SlowFast (PyTorchVideo)", "R50 4x16", 256, norm=5),
    _of("slowfast_8x8_r50", "SlowFast (PyTorchVideo)", "R50 8x8", 256),
    _of("slowfast_8x8_r50_ssv2", "SlowFast (PyTorchVideo)", "R50 8x8", 256, norm=5, note="34.046 cut off, not rounded"),
    _of("slowfast_8x8_r101", "SlowFast (PyTorchVideo)", "R101 8x8", 256, norm=5),
    _without_source("slowfast_8x8_r101_50_50", "no digits in the sources reached", 256),
    _without_source("slowfast_16x8_r101", "no digits in the sources reached", 256),
    _of("slowfast_16x8_r101_50_50", "SlowFast (PyTorchVideo)", "R101_50_50 16x8", 256, norm=5),
    _of("slowfast_16x8_r50_ssv2", "SlowFast (VoV3D table)", "R50 16x8", 256),
    _of("slowfast_4x16_r50_mmaction2", "SlowFast (mmaction2 re-train)", "R50 4x16 cosine", 256, norm=2),
    _of("slowfast_8x8_r50_mmaction2", "SlowFast (mmaction2 re-train)", "R50 8x8 cosine", 256, norm=2),
    _of("slowfast_8x8_r101_mmaction2", "SlowFast (mmaction2 re-train)", "R101 8x8 cosine", 256, norm=2),
    _of("tsm_r50_8f", "TSM (mmaction2 re-train)", "TSM ResNet50 50e", norm=2, note=HEAD_OF_174),
    _of("tsm_r50_16f", "TSM (mmaction2 re-train)", "TSM ResNet50 50e", norm=2, note=f"{HEAD_OF_174}; {NO_HEAD}"),
    _of("tsm_mobilenetv2_8f", "TSM (mmaction2 re-train)", "TSM MobileNetV2 100e", 256, norm=2, note=NO_HEAD),
    _of("tsm_r50_8f_ssv2", "TSM (mmaction2 re-train)", "TSM ResNet50", norm=2, note="0.005 M unexplained"),
    _of("tsm_r50_16f_ssv2", "TSM (mmaction2 re-train)", "TSM ResNet50", norm=2, note=f"0.005 M unexplained; {NO_HEAD}"),
    _of("tsm_r101_8f_ssv2", "TSM (mmaction2 re-train)", "TSM ResNet101", norm=2),
    _of("mvit_b_16x4", "MViTv1 (PyTorchVideo)", "MViT-B 16x4", norm=5),
    _of("mvit_b_32x3", "MViTv1 (PyTorchVideo)", "MViT-B 32x3", norm=5, note=LAST_DIGIT.format("170.364")),
    *(_without_source(name, TINY, arguments["crop"]) for name, (_, arguments) in TINY_VIDEO_NETS.items()),
    _of("e3d_s", "E3D", "E3D-S", dataset=SSV1),
    _of("e3d_m", "E3D", "E3D-M", dataset=SSV1, note=E3D_M),
    _of("e3d_l", "E3D", "E3D-L", dataset=SSV1),
    *(
        _of(f"movinet_{size}", "MoViNet", f"{size.upper()}-Base", norm=1, note=MOVINET.get(size, ""))
        for size in MOVINETS
    ),
    *(
        _of(
            f"movinet_{size}_stream", "MoViNet", f"{size.upper()}-Stream", note="the printed cost is the base network's"
        )
        for size in MOVINETS
    ),
    *(
        Native(name, assemblenet, dict(num_classes=400, frames=32, crop=224, **arguments), 224, note=ASSEMBLENET)
        for name, arguments in ASSEMBLENETS.items()
    ),
    *(Native(name, *of, 224, note=GLORE) for name, of in GLORES.items()),
    *(_uniform(size, classes) for classes in (400, 174) for size in "sml"),
)


def norm_elements(build: Callable[[], nn.Module], frames: int, crop: int) -> int:
    """How many elements all norms of a network see in one view."""
    net = on_meta(build).eval()
    seen: list[int] = []
    for module in net.modules():
        if isinstance(module, _BatchNorm | nn.LayerNorm):
            module.register_forward_hook(lambda module, inputs, output: seen.append(output.numel()))
    with torch.no_grad():
        net(*example(inputs_of(net), frames, crop))
    return sum(seen)


@cache
def _published() -> pd.DataFrame:
    return pd.read_csv(PUBLISHED, dtype=str)  # the digits as they are printed


def printed(native: Native) -> pd.Series:
    """The row of ``published.csv`` with a source's digits; a ValueError if there is not exactly one."""
    table = _published()
    rows = table[
        (table.model == native.source[0])
        & (table.variant == native.source[1])
        & (table.dataset == (native.dataset or DATASETS[native.arguments["num_classes"]]))
        & (table.frames == str(native.arguments["frames"]))
        & table.gflops_per_view.notna()
    ]
    if len(rows) != 1:
        raise ValueError(f"published.csv has {len(rows)} rows with a cost of {native.source}, {native.name} needs one")
    return rows.iloc[0]


def _rounded(value: float, digits: str) -> str:
    """A value with as many decimals as are printed."""
    return f"{value:.{len(digits.partition('.')[2])}f}"


def row(native: Native) -> dict[str, str]:
    """One row of the table."""
    arguments = native.arguments | {"crop": native.crop}
    frames = arguments["frames"]

    def build() -> nn.Module:
        return native.build(**arguments)

    counted = count(build, frames, native.crop)
    out = {
        "variant": native.name,
        "family": native.build.__name__,
        "frames×crop": f"{frames}×{native.crop}²",
        "classes": str(arguments["num_classes"]),
        "params M": f"{counted.params / 1e6:.3f}",
        "printed params M": "–",
        "GMACs": f"{counted.gmacs:.3f}",
        "printed GMACs": "–",
        "agreement": "nothing to compare with",
        "note": native.note,
        "source": "–",
    }
    if native.source is None:
        return out
    source = printed(native)
    agreement = []
    for what, ours, digits in (
        ("params", counted.params / 1e6, source.params_m),
        ("GMACs", counted.gmacs, source.gflops_per_view),
    ):
        if pd.isna(digits):
            continue
        out[f"printed {what} M" if what == "params" else f"printed {what}"] = digits
        if _rounded(ours, digits) == digits:
            agreement.append(f"{what} equal")
            continue
        if what == "GMACs" and native.norm:
            with_norms = ours + native.norm * norm_elements(build, frames, native.crop) / 1e9
            if _rounded(with_norms, digits) == digits:
                agreement.append(f"GMACs equal with {native.norm} per norm element")
                continue
        agreement.append(f"{what} {100 * (ours / float(digits) - 1):+.2f} %")
    return out | {"agreement": "; ".join(agreement), "source": source.source}


def overview(results: Path, classes: int) -> str:
    """What is known about a data set's native variants without its videos: cost, speed, literature accuracy.

    Args:
        results: with ``tables/natives.csv``, made first if it is not there, and the files of ``make bench``.
        classes: of the data set: 400 or 174.
    """
    path = results / "tables" / "natives.csv"
    if not path.exists():
        render(results)
    counted = pd.read_csv(path, dtype=str, keep_default_na=False)
    speeds = {}  # device -> variant, frames×crop -> clips/s
    for file in sorted(results.glob("throughput/*.json")):
        data = json.loads(file.read_text())
        speeds[f"clips/s, {data['device']}"] = {
            (r["variant"], f"{r['frames']}×{r['crop']}²"): f"{r['clips_per_s']:.3g}"
            for r in data["rows"]
            if (r["source"], r["mode"]) == ("ours", str(Mode())) and "error" not in r
        }
    rows = {}
    for native, (_, row) in zip(NATIVES, counted.iterrows(), strict=True):
        if native.arguments["num_classes"] != classes or native.dataset:
            continue
        key = row.variant, row["frames×crop"]
        known = dict(row[["variant", "frames×crop", "params M", "GMACs"]])
        known |= {device: speed.get(key, "–") for device, speed in speeds.items()}
        source = printed(native) if native.source else None
        if source is None or pd.isna(source.top1):
            cells = {"literature top-1 %": "–", "literature source": "–"}
        else:
            cells = {"literature top-1 %": f"{source.top1} ({source.views} views)", "literature source": source.source}
        if rows.get(key, {}).get("literature top-1 %", "–") == "–":
            rows[key] = known | cells
    table = pd.DataFrame(rows.values()).to_markdown(index=False, disable_numparse=True)
    return f"## Native variants, {DATASETS[classes]}: nothing trained here\n\n{table}\n\n{OVERVIEW}"


def render(results: Path) -> str:
    """Make the table, write it as Markdown and CSV to ``results/tables``, and return the Markdown."""
    frame, tables = pd.DataFrame([row(native) for native in NATIVES]), results / "tables"
    write_atomic(tables / "natives.csv", lambda p: frame.to_csv(p, index=False))
    markdown = rendered(results)
    write_atomic(tables / "natives.md", lambda p: p.write_text(markdown))
    return markdown


def rendered(results: Path) -> str:
    """``natives.csv`` as Markdown."""
    frame = pd.read_csv(results / "tables" / "natives.csv", dtype=str, keep_default_na=False)
    table = frame.to_markdown(index=False, disable_numparse=True)
    return f"## Native variants: size and cost beside the printed digits\n\n{table}\n\n{NOTES}"
