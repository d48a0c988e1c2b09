"""What the residual baselines share: stage widths and the initialisation for training from scratch."""

from __future__ import annotations

from torch import nn


def stage_widths(base: float, stages: int = 4) -> list[int]:
    """Channels of a net whose width doubles at each stage: ``base, 2 base, 4 base, …``, rounded one by one.

    A fractional base gives widths between those of the integers: 24.125 is 24, 48, 96, 193. So the budget solver
    comes within half a percent of the budget, with all stages in proportion.
    """
    return [max(1, round(base * 2**i)) for i in range(stages)]


def init_weights(model: nn.Module, *, classifier_std: float, zero_init: tuple[type[nn.Module], ...] = ()) -> None:
    """Initialise in place: convolutions He normal, fan out; norms 1 and 0; linear layers N(0, classifier_std), bias 0.

    Args:
        model: the net.
        classifier_std: standard deviation of the linear layers.
        zero_init: classes of residual blocks whose last norm starts with gamma 0, so that they start as their shortcut;
            as in mmaction2 their last convolution is ``conv3`` or ``conv2``.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=classifier_std)
            nn.init.zeros_(module.bias)
        elif isinstance(module, zero_init):
            last = module.conv3 if hasattr(module, "conv3") else module.conv2
            nn.init.zeros_(last.bn.weight)
