"""PV-NAS-style: a space of blocks with different convolutions in space and time, and a gradient search over it."""

from baselines.pvnas.gradient import DiverseRates, GradientSearch, branch_macs
from baselines.pvnas.network import CANDIDATES, Operations, pvnas

__all__ = ["CANDIDATES", "DiverseRates", "GradientSearch", "Operations", "branch_macs", "pvnas"]
