"""The networks of the method."""

from autotsnet.models.families import auto_tsnet, auto_tsnet_uniform
from autotsnet.models.supernet import SuperNet, recalibrate
from autotsnet.models.two_stream import TwoStreamNet

__all__ = ["SuperNet", "TwoStreamNet", "auto_tsnet", "auto_tsnet_uniform", "recalibrate"]
