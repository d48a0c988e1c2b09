"""The embedded videos of Something-Something's layout, quick: minutes on a CPU."""

from mmengine.config import read_base

with read_base():
    from .kinetics_quick import *

suite.update(dataset="synthetic-ssv2 quick", layout="ssv2")
