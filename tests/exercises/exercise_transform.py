"""A transform: the network sees blurred clips."""

from torch import nn

from autotsnet.transforms import MODEL_TRANSFORMS


@MODEL_TRANSFORMS.register_module(name="blur")
class Blur(nn.Module):
    def __init__(self, net, size=3):
        super().__init__()
        self.pool, self.net = nn.AvgPool3d((1, size, size), 1, (0, size // 2, size // 2)), net

    def forward(self, clips):
        return self.net(self.pool(clips))
