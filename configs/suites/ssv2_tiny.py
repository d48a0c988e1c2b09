"""The embedded videos of Something-Something's layout, tiny: seconds: for tests."""

from mmengine.config import read_base

with read_base():
    from .kinetics_tiny import *

suite.update(dataset="synthetic-ssv2 tiny", layout="ssv2")
