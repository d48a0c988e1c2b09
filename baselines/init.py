"""What the residual baselines share: stage widths and the initialisation for training from scratch."""

from __future__ import annotations

from torch import nn


def stage_widths(base: float, stages: int = 4) -> list[int]:
    """Channels of a net whose width doubles at each stage: ``base, 2 base, 4 base, …``, rounded one by one.

    A fractional base gives widths between those of the integers: 24.125 is 24, 48, 96, 193. This is what lets
    the budget solver land within half a percent without bending one stage out of proportion.
    """
    return [max(1, round(base * 2**i)) for i in range(stages)]


def init_weights(model: nn.Module, *, blocks: tuple[type[nn.Module], ...], classifier_std: float) -> None:
    """Initialise in place as PySlowFast does (``slowfast/utils/weight_init_helper.py``).

    Convolutions: He normal, fan out. Norms: 1 and 0, but gamma 0 in the last norm of each residual block, so
    that every block starts as its shortcut. Linear layers: N(0, classifier_std), bias 0.

    Args:
        model: the net.
        blocks: classes of its residual blocks; as in mmaction2 their last convolution is ``conv3`` or ``conv2``.
        classifier_std: standard deviation of the linear layers.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=classifier_std)
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, blocks):
            last = module.conv3 if hasattr(module, "conv3") else module.conv2
            nn.init.zeros_(last.bn.weight)
