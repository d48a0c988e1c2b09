"""PV-NAS-style: a space of blocks with different convolutions in space and time, and a gradient search over it."""

from baselines.pvnas.network import CANDIDATES, Operations, pvnas
from baselines.pvnas.search import DiverseRates, GradientSearch, branch_macs

__all__ = ["CANDIDATES", "DiverseRates", "GradientSearch", "Operations", "branch_macs", "pvnas"]
