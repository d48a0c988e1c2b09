"""The embedded videos of Something-Something's layout, full: hours on a GPU."""

from mmengine.config import read_base

with read_base():
    from .kinetics_full import *

suite.update(dataset="synthetic-ssv2 full", layout="ssv2")
