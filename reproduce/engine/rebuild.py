"""A run's specification back to its config, its network, and its trained weights."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from safetensors import SafetensorError
from safetensors.torch import load_file

from autotsnet.inputs import example
from reproduce.engine.classifier import VideoClassifier
from reproduce.engine.inference import accelerate
from reproduce.engine.runner import CheckpointError
from reproduce.protocol import Protocol
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


def for_test(spec: RunSpec, folder: Path, protocol: Protocol) -> VideoClassifier:
    """The model of a finished training as it is tested."""
    model, side = trained(spec, folder), protocol.crops.test_size
    accelerate(model.net, *example(model.inputs, protocol.sampling.frames, side, device="cpu"))
    return model
