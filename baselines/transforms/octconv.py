"""OctConv (Chen et al., 2019): a share of the channels lives at half height and width. https://arxiv.org/abs/1904.05049

    transforms=[dict(type="octconv", alpha=0.25)]

Layers follow ``facebookresearch/OctConv`` (``utils/symbol/symbol_octconv.py``). Time is left as it is: pooling and
up-sampling are in space only. The authors' video networks are not public; what is ours is in ``baselines/README.md``.

B clips, C channels, T frames, H W pixels. Layers also take frames BT C H W.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from autotsnet.layers.attention import NonLocal, TemporalAttention
from autotsnet.layers.glore import GraphReasoning
from autotsnet.transforms import MODEL_TRANSFORMS, dry_run

MIXING = (GraphReasoning, NonLocal, TemporalAttention)  # whose output at one position depends on others: see ``Whole``
POOLS = (F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, Tensor.mean)  # to one size: frequencies are put side by side
# A stage's number in a name; what joins two streams before the next stage belongs to the one before.
STAGE = re.compile(r"(?:\w+\.)*layer(\d+)|groups\.\w+\.(\d+)|(?:laterals|fusions)\.(\d+)")


def halved(x: Tensor) -> Tensor:
    """B C T H W -> B C T H/2 W/2, means of 2×2.

    Raises:
        ValueError: H or W is odd.
    """
    if x.shape[-2] % 2 or x.shape[-1] % 2:
        raise ValueError(f"OctConv: a map of {x.shape[-2]}×{x.shape[-1]} has no half; leave its stage out of `inside`")
    return F.avg_pool2d(x, 2) if x.dim() == 4 else F.avg_pool3d(x, (1, 2, 2))


def doubled(x: Tensor) -> Tensor:
    """B C T H W -> B C T 2H 2W, each position four times."""
    return F.interpolate(x, size=(*x.shape[2:-2], 2 * x.shape[-2], 2 * x.shape[-1]), mode="nearest")


@dataclass(frozen=True, eq=False)
class Octave:
    """Features at two frequencies. A function of torch that acts on each element acts on both.

    Attributes:
        high: B C T H W.
        low: B C' T H/2 W/2.
    """

    high: Tensor
    low: Tensor

    @staticmethod
    def split(x: Tensor, low: int) -> Octave:
        """B C T H W -> its first channels, and the last ``low`` ones at half the height and width."""
        return Octave(x[:, :-low], halved(x[:, -low:]))

    def whole(self) -> Tensor:
        """Both at full height and width, B C+C' T H W."""
        return torch.cat([self.high, doubled(self.low)], 1)

    def _parts(self, x: object) -> tuple:
        """What of an argument beside these features belongs to each frequency."""
        if isinstance(x, Octave):
            return x.high, x.low
        if isinstance(x, Tensor) and x.dim() > 3:  # features, or a scale per channel
            high, low = x[:, : self.high.shape[1]], x[:, self.high.shape[1] :]
            return high, low if low.shape[-1] == 1 else halved(low)
        return x, x

    @classmethod
    def __torch_function__(cls, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        """See https://docs.pytorch.org/docs/stable/notes/extending.html."""
        kwargs = kwargs or {}
        if func is torch.cat:
            features, *more = args
            highs = [x.high if isinstance(x, Octave) else x for x in features]
            lows = [x.low for x in features if isinstance(x, Octave)]
            return cls(torch.cat(highs, *more, **kwargs), torch.cat(lows, *more, **kwargs))
        like = next(x for x in args if isinstance(x, Octave))
        high, low = (func(*part, **kwargs) for part in zip(*map(like._parts, args), strict=True))
        return torch.cat([high, low], 1) if func in POOLS else cls(high, low)

    def __add__(self, other: object) -> Octave:
        return self.__torch_function__(torch.add, (), (self, other))

    def __mul__(self, other: object) -> Octave:
        return self.__torch_function__(torch.mul, (), (self, other))

    __radd__, __rmul__ = __add__, __mul__

    def mean(self, *args, **kwargs) -> Tensor:
        """Over all of H and W: B C+C', as of one tensor."""
        return self.__torch_function__(Tensor.mean, (), (self, *args), kwargs)

    def repeat_interleave(self, *args, **kwargs) -> Octave:
        """Along time."""
        return self.__torch_function__(Tensor.repeat_interleave, (), (self, *args), kwargs)


class OctConv(nn.Module):
    """A convolution between features at two frequencies, up to four: ``hl`` is from high to low.

    A stride of 2 is a pooling. The convolution's own weights are dealt out: their number stays. A depthwise one has no
    exchange.

    Args:
        conv: the plain convolution.
        low_in: how many of its input channels are low; 0: the input is a plain tensor.
        low_out: how many of its output channels are low; 0: the output is a plain tensor.

    Raises:
        ValueError: strides in space are neither 1 nor 2, a frequency gets no channel, groups do not divide channels, or
            a depthwise convolution would exchange.
    """

    def __init__(self, conv: nn.Conv2d | nn.Conv3d, low_in: int, low_out: int) -> None:
        super().__init__()
        self.strided = conv.stride[-1] == 2
        if conv.stride[-2:] not in ((1, 1), (2, 2)):
            raise ValueError(f"OctConv: a stride of {conv.stride[-2:]} in space; only 1 and 2 exist")
        if not (0 <= low_in < conv.in_channels and 0 <= low_out < conv.out_channels):
            raise ValueError(
                f"OctConv: {low_in} low of {conv.in_channels} channels in, {low_out} of {conv.out_channels} out; each "
                "frequency needs a channel"
            )
        ins, outs = _shares(conv.in_channels, low_in), _shares(conv.out_channels, low_out)
        self.depthwise = conv.groups == conv.in_channels == conv.out_channels > 1
        if self.depthwise and low_in != low_out:
            raise ValueError(f"OctConv: a depthwise convolution has {low_in} low channels in and {low_out} out")
        for channels in (*ins.values(), *outs.values()):
            if not self.depthwise and len(channels) % conv.groups:
                raise ValueError(
                    f"OctConv: {conv.groups} groups do not divide {len(channels)} channels of one frequency; change "
                    "alpha or the width"
                )
        for path in ("hh", "lh", "ll", "hl"):
            i, o = path
            if i in ins and o in outs and not (self.depthwise and i != o):
                self.add_module(path, _path(conv, ins[i], outs[o], self.depthwise, biased=path in ("hh", "ll")))
        if conv.bias is not None and low_out and not low_in:
            self.hl.bias = nn.Parameter(conv.bias.detach()[-low_out:].clone())

    def forward(self, x: Tensor | Octave) -> Tensor | Octave:
        """B C T H W, or the same at two frequencies -> B C' T H/s W/s, or the same at two frequencies."""
        high, low = (x.high, x.low) if isinstance(x, Octave) else (x, None)
        if self.strided:
            high = halved(high)
        y = self.hh(high)
        if hasattr(self, "lh"):
            more = self.lh(low)
            y = y + (more if self.strided else doubled(more))
        to_low = []
        if hasattr(self, "ll"):
            to_low.append(self.ll(halved(low) if self.strided else low))
        if hasattr(self, "hl"):
            to_low.append(self.hl(halved(high)))
        return Octave(y, sum(to_low[1:], to_low[0])) if to_low else y


def _shares(channels: int, low: int) -> dict[str, range]:
    """Channels of each frequency that has any."""
    shares = dict(h=range(channels - low), l=range(channels - low, channels))
    return {frequency: share for frequency, share in shares.items() if share}


def _path(conv: nn.Module, ins: range, outs: range, depthwise: bool, biased: bool) -> nn.Conv2d | nn.Conv3d:
    """A convolution of some channels of another, without its stride in space."""
    groups = len(ins) if depthwise else conv.groups
    stride = *conv.stride[:-2], 1, 1
    columns = slice(None) if depthwise else slice(ins.start // groups, ins.stop // groups)
    rows = slice(outs.start, outs.stop)
    kind = nn.Conv3d if len(conv.stride) == 3 else nn.Conv2d
    with torch.device("meta"):
        shape = conv.kernel_size, stride, conv.padding, conv.dilation
        path = kind(len(ins), len(outs), *shape, groups, bias=False, padding_mode=conv.padding_mode)
    path.weight = nn.Parameter(conv.weight.detach()[rows, columns].clone())
    if biased and conv.bias is not None:
        path.bias = nn.Parameter(conv.bias.detach()[rows].clone())
    return path


class OctNorm(nn.Module):
    """A batch norm for each frequency; scales, shifts and statistics are dealt out.

    Args:
        norm: the plain one.
        low: how many of its channels are low.
    """

    def __init__(self, norm: _BatchNorm, low: int) -> None:
        super().__init__()
        kind = nn.BatchNorm2d if isinstance(norm, nn.BatchNorm2d) else nn.BatchNorm3d
        for name, share in zip(("high", "low"), _shares(norm.num_features, low).values(), strict=True):
            with torch.device("meta"):
                part = kind(len(share), norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
            for stored, whole in ((part._parameters, norm._parameters), (part._buffers, norm._buffers)):
                for key, tensor in whole.items():
                    if tensor is not None:
                        mine = (tensor.detach()[share.start : share.stop] if tensor.dim() else tensor).clone()
                        stored[key] = nn.Parameter(mine) if stored is part._parameters else mine
            self.add_module(name, part)

    def forward(self, x: Octave) -> Octave:
        """The same shapes."""
        return Octave(self.high(x.high), self.low(x.low))


class Whole(nn.Module):
    """A layer that mixes positions sees both frequencies at full size, and its output is split again.

    Args:
        layer: B C T H W -> the same shape.
        low: how many of its channels are low.
    """

    def __init__(self, layer: nn.Module, low: int) -> None:
        super().__init__()
        self.layer, self.low = layer, low

    def forward(self, x: Octave) -> Octave:
        """The same shapes."""
        return Octave.split(self.layer(x.whole()), self.low)


@MODEL_TRANSFORMS.register_module()
def octconv(
    net: nn.Module,
    alpha: float,
    inside: Sequence[str] | None = None,
    *,
    clips: tuple[Tensor, ...] | None = None,
) -> nn.Module:
    """Let the convolutions of some stages give features at two frequencies.

    Which layers read such features is seen while the network runs once on the meta device: the first convolutions
    outside that do give plain features again. Sums, concatenations, squeeze-excitation, shifts and activations act on
    each frequency.

    Args:
        net: changed in place; its weights stay, their number too.
        alpha: share of the low channels, rounded down.
        inside: modules whose convolutions have two frequencies; by default all residual stages but the last, and what
            joins streams between these.
        clips: of the network's size, on the meta device.

    Raises:
        ValueError: alpha is not between 0 and 1 or leaves a frequency without channels, no such module, an odd map,
            groups that do not divide, or a network that does not stand it.
    """
    name, known = type(net).__name__, dict(net.named_modules())
    if not 0 < alpha < 1:
        raise ValueError(f"octconv: alpha={alpha} is no share of channels; give one above 0 and below 1")
    if clips is None:
        raise ValueError(f"octconv: build {name} with frames and crop, the sizes of its maps are not known otherwise")
    inside = _stages(known) if inside is None else list(inside)
    if absent := [module for module in inside if module not in known]:
        raise ValueError(f"octconv: {name} has no module {absent[0]!r}")
    if not inside:
        raise ValueError(f"octconv: {name} has no stages layer1, layer2, …; name its modules by `inside`")
    for module, (low_in, low_out) in _plan(net, alpha, tuple(inside), clips).items():
        layer = known[module]
        if isinstance(layer, _BatchNorm):
            new = OctNorm(layer, low_in)
        elif isinstance(layer, MIXING):
            new = Whole(layer, low_in)
        else:
            try:
                new = OctConv(layer, low_in, low_out)
            except ValueError as error:
                raise ValueError(f"octconv: {module} of {name}: {error}") from error
        net.set_submodule(module, new.train(layer.training))
    return net


def _stages(known: dict[str, nn.Module]) -> list[str]:
    numbers = {}
    for name in known:
        if found := STAGE.fullmatch(name):
            layer, group, join = found.groups()
            numbers[name] = int(layer or join) if group is None else int(group) + 1
    last = max(numbers.values(), default=0)
    return [name for name, number in numbers.items() if 0 < number < last]


def _plan(net: nn.Module, alpha: float, inside: tuple[str, ...], clips: tuple[Tensor, ...]) -> dict:
    """Low channels that each layer will read and give, by its name; of those that do either.

    The layers compute what they do; between them, hooks split features and put them together.
    """
    plan: dict[str, tuple[int, int]] = {}

    def before(name: str, layer: nn.Module, inputs: tuple) -> tuple | None:
        if isinstance(inputs[0], Octave):
            low = inputs[0].low.shape[1]
            plan[name] = low, low
            return inputs[0].whole(), *inputs[1:]
        return None

    def after(name: str, layer: nn.Module, inputs: tuple, out: Tensor) -> Octave | None:
        low_in, low_out = plan.get(name, (0, 0))
        if isinstance(layer, nn.Conv2d | nn.Conv3d) and not layer.groups == layer.in_channels == layer.out_channels > 1:
            gate = max(inputs[0].shape[-2:]) == 1  # of one position
            low_out = int(alpha * layer.out_channels) if _within(name, inside) and not gate else 0
            if _within(name, inside) and not gate and not low_out:
                raise ValueError(
                    f"alpha={alpha} leaves none of the {layer.out_channels} channels of {name} to the low frequency; "
                    "raise alpha or the width, or name fewer modules by `inside`"
                )
        if low_in or low_out:
            plan[name] = low_in, low_out
        if not low_out:
            return None
        if (out.shape[-2] | out.shape[-1]) % 2:
            raise ValueError(
                f"maps of {name} are {out.shape[-2]}×{out.shape[-1]} and have no half; name fewer modules by `inside`, "
                "or change the crop"
            )
        return Octave.split(out, low_out)

    mixing = tuple(name for name, m in net.named_modules() if isinstance(m, MIXING))
    hooks = []
    for name, layer in net.named_modules():
        known = isinstance(layer, nn.Conv2d | nn.Conv3d | _BatchNorm) and not _within(name, mixing)
        if known or name in mixing:
            hooks.append(layer.register_forward_pre_hook(partial(before, name)))
            hooks.append(layer.register_forward_hook(partial(after, name)))
    try:
        dry_run(net, clips)
    except Exception as error:  # whatever a network raises that gets features at two frequencies
        raise ValueError(f"octconv: {type(net).__name__}: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    return plan


def _within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)
