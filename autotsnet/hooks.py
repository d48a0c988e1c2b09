"""Hooks for mmengine's Runner, the stock one and this project's."""

from __future__ import annotations

from pathlib import Path

from mmengine.hooks import Hook
from mmengine.runner import Runner

from autotsnet.registry import HOOKS


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Remove the log history from checkpoints, and add the state of a loop that has one.

    The history holds objects that ``torch.load`` refuses since 2.6: mmengine 0.10.7 cannot read its own checkpoints.
    """

    priority = "LOWEST"

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep tensors and plain data only."""
        checkpoint["message_hub"] = dict(log_scalars={}, runtime_info={}, resumed_keys={})
        if hasattr(runner.train_loop, "state_dict"):
            checkpoint["loop"] = runner.train_loop.state_dict()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restore the state of the loop."""
        if "loop" in checkpoint:
            runner.train_loop.load_state_dict(checkpoint["loop"])


@HOOKS.register_module()
class ArchitectureHook(Hook):
    """Write the found architecture to ``architecture.json`` in the work folder."""

    def after_train(self, runner: Runner) -> None:
        """Write the file on one rank."""
        if runner.rank == 0:
            runner.train_loop.architecture.save(Path(runner.work_dir, "architecture.json"))
