"""A space: the temporal kernels of two layers, 1 or 3; with the family that is built from its architectures."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from autotsnet.architecture import Architecture
from autotsnet.inputs import RGB, example
from autotsnet.registry import Knob, register_family
from autotsnet.space import SPACES, Product, SharedWeights, Stage, Variable
from reproduce.measure.macs import count

KERNELS = (1, 3)


@dataclass(frozen=True)
class Kernels(Architecture):
    kernels: tuple[int, ...]

    argument = "kernels"

    def to_dict(self):
        return dict(kernels=list(self.kernels))

    @classmethod
    def from_dict(cls, data):
        return cls(tuple(data["kernels"]))


class KernelNet(SharedWeights):
    """Largest kernels; smaller ones are their middles."""

    def __init__(self, num_classes, width, kernels=(3, 3)):
        super().__init__()
        sizes = zip((3, width), kernels, strict=True)
        self.layers = nn.ModuleList(nn.Conv3d(c, width, (k, 3, 3), (1, 2, 2)) for c, k in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm3d(width) for _ in kernels)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x, architecture=None):
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            size = layer.weight.shape[2]
            k = architecture.kernels[i] if architecture else size
            weight = layer.weight[:, :, (size - k) // 2 : (size + k) // 2]
            x = norm(F.conv3d(x, weight, layer.bias, layer.stride, (k // 2, 1, 1))).relu()
        return self.fc(x.mean((2, 3, 4)))


@register_family(Knob("width", 2, 128, 1), architecture=Kernels)
def kernel_net(*, num_classes, frames=8, crop=32, width=8, kernels=None):
    return KernelNet(num_classes, width, kernels["kernels"] if kernels else KERNELS)


@SPACES.register_module(name="kernels")
class KernelSpace:
    name = "kernels"
    variables = tuple(Variable(f"layer.{i}", KERNELS, "kernels", f"layer.{i}") for i in (0, 1))
    counts = torch.tensor([2, 2])

    def __init__(self, frames, crop, width=8):
        self.frames, self.crop, self.width = frames, crop, width

    def blocks(self):
        return ((2,), (2,))

    def sample(self, num, generator):
        return Product(self.blocks()).sample(num, generator)

    def mutate(self, codes, generator):
        return Product(self.blocks()).mutate(codes, generator)

    def neighbours(self, code):
        return torch.stack([torch.cat([1 - code[:1], code[1:]]), torch.cat([code[:1], 1 - code[1:]])])

    def encode(self, architecture):
        return torch.tensor([KERNELS.index(k) for k in architecture.kernels])

    def decode(self, code, alone=None):
        return Kernels(tuple(KERNELS[c] for c in code.tolist()))

    def static_model(self, architecture, num_classes):
        return KernelNet(num_classes, self.width, architecture.kernels)

    def supernet(self, num_classes):
        return KernelNet(num_classes, self.width)

    def example(self, batch=1):
        return example(RGB, self.frames, self.crop, batch, "cpu")[0]

    def cost(self, num_classes, alone=None):

        def gmacs(*kernels):
            return count(lambda: KernelNet(num_classes, self.width, kernels), self.frames, self.crop).gmacs

        return Table(torch.tensor([[gmacs(a, b) for b in KERNELS] for a in KERNELS], dtype=torch.float64))

    def stages(self, options, num_classes):
        return (Stage("kernels", ("kernels",), options.warmup, options.steps),)


@dataclass(frozen=True)
class Table:
    values: torch.Tensor

    def gmacs(self, codes):
        return self.values[codes[:, 0], codes[:, 1]]

    def range(self):
        return self.values.min().item(), self.values.max().item()
