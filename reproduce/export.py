"""Trained networks for other runtimes: a torch.export program, an ONNX graph, an OpenVINO model, checked against torch.

What is exported is the network alone: normalised clips ``B C T H W`` in, one per input, logits ``B N`` out. B is free,
H and W are the test crop's. T is free from 3 on where nothing depends on it (X3D, Slow, E3D, MoViNet, AssembleNet,
Auto-X3D-style). It is fixed where the network is built for it (TSM, MViT, Tiny Video Networks), and where it settles
what the graph is: which frames the slow stream sees (SlowFast, Auto-TSNet), how layers pad (EvaNet), how the shift
moves memory (PV-NAS-style), how many positions there are (GloRe's network).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from autotsnet.inputs import example, inputs_of
from reproduce.engine.engines import to_openvino
from reproduce.engine.rebuild import trained
from reproduce.spec import RunSpec
from reproduce.whole_files import write_atomic

TOLERANCE = 1e-4  # of a logit; relative to the largest logit if that is above 1
TRACED, CHECKED = 2, 3  # clips per batch: the check runs another batch size than the trace


class ExportError(RuntimeError):
    """An exported network does not compute what the network computes."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        program: the torch.export program, ``model.pt2``.
        graph: the ONNX graph, ``model.onnx``.
        openvino: the OpenVINO model, ``model.xml`` with ``model.bin``, if it was asked for; T is the trace's.
        shape: of the clips, ``B×3×T×48×48``, with letters where it is free; of each input.
        difference: largest to torch's logits, of all, over the largest logit where that is above 1.
    """

    program: Path
    graph: Path
    openvino: Path | None
    shape: str
    difference: float


def export_run(folder: Path, out: Path | None = None, trust: bool = False, openvino: bool = False) -> Exported:
    """Export the network of a finished training.

    Args:
        folder: of the run.
        out: folder to write to; by default the run's.
        trust: run the text of a user's model in the folder.
        openvino: write an OpenVINO model, too.

    Raises:
        ValueError: no run, not trained yet, or not trusted.
        ModuleNotFoundError: OpenVINO is asked for and not installed.
        ExportError: the exported network disagrees with torch; its files are removed.
    """
    spec = RunSpec.load(folder, trust)
    if not (folder / "model.safetensors").exists():
        raise ValueError(f"{folder} is not trained yet: it has no model.safetensors; finish its run")
    crops = spec.protocol["crops"]
    frames, crop = spec.protocol["sampling"]["frames"], crops.get("test_size", crops["size"])
    return export(trained(spec, folder).net, frames, crop, out or folder, openvino)


def export(net: nn.Module, frames: int, crop: int, out: Path, openvino: bool = False) -> Exported:
    """Write ``model.pt2`` and ``model.onnx`` of a network in evaluation mode on the CPU.

    Args:
        net: clips ``B C T H W`` to logits ``B N``.
        frames: T of the trace.
        crop: H and W.
        out: folder to write to.
        openvino: write ``model.xml`` and ``model.bin``, too.

    Raises:
        ExportError: the exported network disagrees with torch; its files are removed.
        OutputError: the folder cannot be written.
    """
    if openvino and not find_spec("openvino"):
        raise ModuleNotFoundError("OpenVINO is not installed: pip install openvino")
    free = {0: "batch"} if getattr(net, "fixed_frames", False) else {0: "batch", 2: "frames"}
    inputs = inputs_of(net)
    program = _program(net, example(inputs, frames, crop, TRACED, "cpu"), free)
    clips = example(inputs, frames + 1 if 2 in free else frames, crop, CHECKED, "cpu")
    with torch.no_grad():
        logits = net(*clips)

    def checked(run: Callable[..., Tensor], what: Path) -> float:
        difference = ((run(*clips) - logits).abs().max() / logits.abs().max().clamp(min=1)).item()
        if not difference <= TOLERANCE:
            raise ExportError(f"{what}: logits differ from torch's by {difference:.1e}, more than {TOLERANCE:g}")
        return difference

    path, graph = out / "model.pt2", out / "model.onnx"
    difference = checked(program.module(), path)
    write_atomic(path, lambda p: _save(program, p))
    converted = _convert(program, ["clips"] if len(inputs) == 1 else list(inputs), free)

    def write(p: Path) -> None:
        nonlocal difference
        converted.save(p, external_data=False)
        difference = max(difference, checked(_session(p), graph))

    write_atomic(graph, write)
    if openvino:
        with TemporaryDirectory(dir=out) as temporary:
            run = _saved_openvino(net, example(inputs, *clips[0].shape[2:4], 1, "cpu"), Path(temporary, "model.xml"))
            difference = max(difference, checked(run, out / "model.xml"))
            for name in ("model.bin", "model.xml"):
                os.replace(Path(temporary, name), out / name)
    shapes = (f"B×{c.shape[1]}×{'T' if 2 in free else frames}×{crop}×{crop}" for c in clips)
    return Exported(path, graph, out / "model.xml" if openvino else None, " and ".join(shapes), difference)


def _program(net: nn.Module, clips: tuple[Tensor, ...], free: dict[int, str]) -> ExportedProgram:
    dims = {axis: Dim(name, min=3 if name == "frames" else 1) for axis, name in free.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter, of its own calls
        return torch.export.export(net, clips, dynamic_shapes=(dims,) * len(clips))


def _save(program: ExportedProgram, path: Path) -> None:
    with path.open("wb") as file:
        torch.export.save(program, file)


def _convert(program: ExportedProgram, names: list[str], free: dict[int, str]) -> torch.onnx.ONNXProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=names,
            output_names=["logits"],
            dynamic_shapes=(free,) * len(names),
        )


def _saved_openvino(net: nn.Module, clips: tuple[Tensor, ...], path: Path) -> Callable[..., Tensor]:
    model = to_openvino(net, clips)
    import openvino

    openvino.save_model(model, path, compress_to_fp16=False)
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda *clips: torch.from_numpy(compiled([clip.numpy() for clip in clips])[0])


def _session(path: Path) -> Callable[..., Tensor]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*clips: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {n: c.numpy() for n, c in zip(names, clips, strict=True)})[0])

    return run
