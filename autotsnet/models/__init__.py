"""The networks of the method."""

from autotsnet.models.families import auto_tsnet, auto_tsnet_uniform
from autotsnet.models.supernet import SuperNet, recalibrate
from autotsnet.models.two_stream import TwoStreamNet
from autotsnet.models.x3d import AutoX3DNet, auto_x3d

__all__ = ["AutoX3DNet", "SuperNet", "TwoStreamNet", "auto_tsnet", "auto_tsnet_uniform", "auto_x3d", "recalibrate"]
