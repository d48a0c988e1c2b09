"""A run's specification back to its config, its network, and its trained weights."""

from __future__ import annotations

import importlib.metadata
import math
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config
from safetensors import SafetensorError
from safetensors.torch import load_file

from autotsnet.inputs import example
from reproduce.budget import memory_folder
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.engines import chosen, engine
from reproduce.engine.inference import accelerate
from reproduce.engine.runner import CheckpointError
from reproduce.protocol import Protocol
from reproduce.records import device_name
from reproduce.spec import RunSpec
from reproduce.user_model import define


def config_of(spec: RunSpec) -> Config:
    """The config of a run.

    Raises:
        SpecError: its network is no family.
    """
    if spec.source:
        define(spec.source, spec.entry)
    _ = spec.family  # what a file says is built is a family
    return spec.config


def model_of(config: Config) -> VideoClassifier:
    """The untrained model of a config."""
    return VideoClassifier(config.net, label_smoothing=config.get("label_smoothing", 0.0))


def trained(spec: RunSpec, folder: Path) -> VideoClassifier:
    """The model of a finished training."""
    model, path = model_of(config_of(spec)), folder / "model.safetensors"
    path.open("rb").close()  # of a file that may not be read safetensors says that it is not there
    try:
        model.net.load_state_dict(load_file(path))
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete {folder} to run it anew") from error
    return model.eval()


def for_test(
    spec: RunSpec, folder: Path, protocol: Protocol, name: str = "torch", precision: str = "fp32"
) -> VideoClassifier:
    """The model of a finished training as it is tested.

    Args:
        spec: the run.
        folder: of the run.
        protocol: of the test.
        name: of its engine, see ``engines``.
        precision: ``fp32`` or ``bf16``.
    """
    model = trained(spec, folder)
    clips = example(model.inputs, protocol.sampling.frames, protocol.crops.test_size, device="cpu")
    if (name, precision) == ("torch", "fp32"):
        accelerate(model.net, *clips)
    else:
        model.net = engine(model.net, clips, name, precision)
        model.channels_last = name == "torch"  # compilers choose orders of their own
    return model


def engine_for(spec: RunSpec, folder: Path, protocol: Protocol, videos: int, at_once: int, precision: str) -> str:
    """The engine that a run's test is quickest with, of ``engines``; on a GPU torch.

    Args:
        spec: the run.
        folder: of the run.
        protocol: of the test.
        videos: that are to be tested.
        at_once: videos of a batch.
        precision: ``fp32`` or ``bf16``.
    """
    if torch.cuda.is_available():
        return "torch"
    model, side, frames = trained(spec, folder), protocol.crops.test_size, protocol.sampling.frames
    batch = torch.empty(at_once, protocol.views, frames, side, side, sum(model.channels), device="meta")
    clips = min(model.views_at_once(batch), at_once * protocol.views)
    found = importlib.metadata.version("openvino") if find_spec("openvino") else ""
    key = spec.net, spec.source, frames, side, clips, torch.get_num_threads(), device_name(), torch.__version__, found
    passes = math.ceil(videos * protocol.views / clips)
    views = example(model.inputs, frames, side, clips, "cpu")
    return chosen(lambda: trained(spec, folder).net, views, passes, precision, memory_folder(), key)
