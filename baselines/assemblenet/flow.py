"""Optical flow as a layer: TV-L1 iterations on the device, differentiable, without parameters.

Representation flow (Piergiovanni and Ryoo, 2019, arXiv 1810.01455) in the form that AssembleNet uses
(``google-research/google-research: assemblenet/rep_flow_2d_layer.py``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-12


class RepresentationFlow(nn.Module):
    """Flow between consecutive frames, at their own resolution.

    One thing differs from the authors' code: grey levels are scaled to 0..255 per clip, not over the whole batch, so
    that a clip's flow does not depend on the rest of its batch. All operations are element-wise, hence free in GMACs.

    Args:
        iterations: of TV-L1; 40 in AssembleNet.
        theta: coupling of the two parts of the energy.
        lam: weight of the data term.
        tau: step of the dual variables.
    """

    def __init__(self, iterations: int = 40, theta: float = 0.3, lam: float = 0.15, tau: float = 0.25) -> None:
        super().__init__()
        self.iterations, self.theta, self.lam, self.tau = iterations, theta, lam, tau

    def forward(self, clips: Tensor) -> Tensor:
        """Clips B 3 T H W to flow B 2 T H W: (x, y) in pixels per frame, the last frame's repeated."""
        grey = clips.mean(1)  # B T H W
        low, high = grey.amin((1, 2, 3), keepdim=True), grey.amax((1, 2, 3), keepdim=True)
        grey = 255 * (grey - low) / (high - low + EPSILON)
        flow = self._tvl1(grey[:, :-1], grey[:, 1:])
        return torch.cat([flow, flow[:, :, -1:]], 2)

    def _tvl1(self, before: Tensor, after: Tensor) -> Tensor:
        """Flow B 2 T H W between frames B T H W."""
        gradient = torch.stack(_central(after), 1)  # B 2 T H W
        square = gradient.square().sum(1) + EPSILON
        constant = after - before
        flow = torch.zeros_like(gradient)
        dual_x = dual_y = flow  # along W and along H, of both components
        limit, rate = self.lam * self.theta, self.tau / self.theta
        for _ in range(self.iterations):
            rho = torch.addcmul(constant, gradient[:, 0], flow[:, 0])
            rho = torch.addcmul(rho, gradient[:, 1], flow[:, 1])
            # Three cases: beyond the limit on either side, and between.
            step = (-rho / square).clamp(-limit, limit)
            flow = torch.addcmul(flow, step[:, None], gradient).add(_divergence(dual_x, dual_y), alpha=self.theta)
            x, y = _forward(flow)
            shrink = 1 + rate * (torch.addcmul(x.square(), y, y) + EPSILON).sqrt()
            dual_x = torch.add(dual_x, x, alpha=rate) / shrink
            dual_y = torch.add(dual_y, y, alpha=rate) / shrink
        return flow


def _central(x: Tensor) -> tuple[Tensor, Tensor]:
    """Half the difference of the neighbours along W and H; one-sided at the border."""
    p = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return (p[..., 1:-1, 2:] - p[..., 1:-1, :-2]) / 2, (p[..., 2:, 1:-1] - p[..., :-2, 1:-1]) / 2


def _forward(x: Tensor) -> tuple[Tensor, Tensor]:
    """Difference to the next along W and H, 0 at the end."""
    return F.pad(x[..., :, 1:] - x[..., :, :-1], (0, 1)), F.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))


def _divergence(x: Tensor, y: Tensor) -> Tensor:
    """Adjoint of ``_forward``, negated: difference to the one before; x is 0 at the end of W, and y of H."""
    out = x + y
    out[..., 1:] -= x[..., :-1]
    out[..., 1:, :] -= y[..., :-1, :]
    return out
