"""A judge: it trains nothing, and likes small kernels."""

import torch

from autotsnet.search.judges import JUDGES


@JUDGES.register_module(name="small")
class Small:
    clips, images = 1, 0

    def __init__(self, runner, held_out, space):
        pass

    def scores(self, codes, alone=None, final=False):
        return -codes.sum(1).to(torch.float64)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
