"""What image models are written with: one small network for each way of writing something.

Every network is a convolution, the construct, and a convolution and a mean where the construct leaves a map.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["constructs"]

C = 8  # channels that a construct gets


class Written(nn.Module):
    """A network around a construct.

    Args:
        construct: Of a map ``(N, 8, H, W)``, and of the modules and parameters that come with it.
        parts: Those.
    """

    def __init__(self, construct: Callable[..., Any], parts: tuple[nn.Module | nn.Parameter, ...]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, C, 3, 2, 1), nn.ReLU())
        self.construct = construct
        self.parts = nn.ModuleList(one for one in parts if isinstance(one, nn.Module))
        self.numbers = nn.ParameterList(one for one in parts if isinstance(one, nn.Parameter))
        self.behind = nn.Sequential(nn.LazyConv2d(C, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Any:
        """What the construct gives; of a map, the mean of a convolution of it."""
        y = self.construct(self.stem(x), *self.parts, *self.numbers)
        if isinstance(y, Tensor) and y.ndim == 4 and y.shape[0] == x.shape[0] and y.shape[-1] > 1:
            return self.behind(y).mean((2, 3))
        return y


def number(*shape: int) -> nn.Parameter:
    """A parameter of random numbers."""
    return nn.Parameter(torch.randn(*shape))


def tokens(y: Tensor) -> Tensor:
    """A map as a sequence ``(N, H * W, C)``."""
    return y.flatten(2).transpose(1, 2)


def a_map(t: Tensor, side: int) -> Tensor:
    """A sequence as a map again."""
    return t.transpose(1, 2).unflatten(2, (side, -1))


def heads(t: Tensor, count: int = 2) -> Tensor:
    """A sequence for each head, ``(N, heads, L, C / heads)``."""
    return t.unflatten(-1, (count, -1)).transpose(1, 2)


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention, written out."""
    return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1) @ v


def _in_windows(y: Tensor, size: int = 8) -> Tensor:
    n, c, h, w = y.shape
    t = y.permute(0, 2, 3, 1).reshape(n, h // size, size, w // size, size, c).transpose(2, 3).reshape(-1, size**2, c)
    t = attended(t, t, t).reshape(n, h // size, w // size, size, size, c)
    return t.transpose(2, 3).reshape(n, h, w, c).permute(0, 3, 1, 2)


def _axial(y: Tensor) -> Tensor:
    rows = y.permute(0, 2, 3, 1)
    rows = attended(rows, rows, rows)
    columns = rows.transpose(1, 2)
    return attended(columns, columns, columns).permute(0, 3, 2, 1)


def _rotary(y: Tensor) -> Tensor:
    t = heads(tokens(y))
    angle = torch.arange(t.shape[2], dtype=t.dtype)[:, None] / 100
    halves = torch.cat([-t[..., 2:], t[..., :2]], -1)
    turned = t * angle.cos() + halves * angle.sin()
    return attended(turned, turned, t).transpose(1, 2).flatten(2).mean(1)


def _coordinates(y: Tensor) -> Tensor:
    n, _, h, w = y.shape
    grid = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    return torch.cat([y, torch.stack(grid).to(y).expand(n, -1, -1, -1)], 1)


def _coordinate_attention(y: Tensor, squeeze: nn.Module) -> Tensor:
    h, w = y.shape[2:]
    both = torch.cat([y.mean(3, keepdim=True), y.mean(2, keepdim=True).permute(0, 1, 3, 2)], 2)
    down, across = squeeze(both).sigmoid().split([h, w], 2)
    return y * down * across.permute(0, 1, 3, 2)


def _involution(y: Tensor, kernels: nn.Module) -> Tensor:
    n, c, h, w = y.shape
    weights = kernels(y).view(n, 1, 9, h, w)
    return (weights * F.unfold(y, 3, padding=1).view(n, c, 9, h, w)).sum(2)


def _halo(y: Tensor) -> Tensor:
    n, c, _, w = y.shape
    q = F.unfold(y, 8, stride=8).view(n, c, 64, -1).permute(0, 3, 2, 1)
    k = F.unfold(y, 12, stride=8, padding=2).view(n, c, 144, -1).permute(0, 3, 2, 1)
    t = attended(q, k, k).permute(0, 3, 2, 1).reshape(n, c * 64, -1)
    return F.fold(t, (w, w), 8, stride=8)


def _mobile(y: Tensor) -> Tensor:
    n, c, _, w = y.shape
    t = F.unfold(y, 2, stride=2).view(n, c, 4, -1)
    t = t * (t * t.softmax(-1)).sum(-1, keepdim=True)
    return F.fold(t.reshape(n, c * 4, -1), (w, w), 2, stride=2)


def _vlad(y: Tensor, assign: nn.Module, centres: Tensor) -> Tensor:
    share = assign(y).softmax(1).flatten(2)
    return torch.einsum("nkl,ncl->nkc", share, y.flatten(2)) - share.sum(-1)[..., None] * centres


def _covariance(y: Tensor) -> Tensor:
    t = y.flatten(2)
    t = t - t.mean(2, keepdim=True)
    return t @ t.transpose(1, 2) / t.shape[2]


def _transformed(y: Tensor) -> Tensor:
    turn = torch.tensor([[0.9, 0.1, 0.0], [-0.1, 0.9, 0.0]]).to(y).expand(len(y), -1, -1)
    return F.grid_sample(y, F.affine_grid(turn, list(y.shape), align_corners=False), align_corners=False)


def _written_part(y: Tensor) -> Tensor:
    z = y.clone()
    z[:, :4] = 2 * z[:, 4:]
    return z


def _copied(y: Tensor) -> Tensor:
    return torch.empty_like(y).copy_(2 * y)


def _filled(y: Tensor) -> Tensor:
    return y + torch.zeros_like(y).fill_(0.5)


def _unpooled(y: Tensor) -> Tensor:
    small, where = F.max_pool2d(y, 2, return_indices=True)
    return F.max_unpool2d(small, where, 2)


def _soft_pool(y: Tensor) -> Tensor:
    return F.avg_pool2d(y * y.exp(), 2) / F.avg_pool2d(y.exp(), 2)


def _complex(y: Tensor, real: nn.Module, imaginary: nn.Module) -> Tensor:
    z = torch.complex(real(y), imaginary(y))
    return z.abs()


def _complex_convolution(y: Tensor) -> Tensor:
    weight = torch.complex(torch.ones(4, C, 3, 3), torch.ones(4, C, 3, 3)).to(y.dtype.to_complex())
    return F.conv2d(y.to(weight.dtype), weight).abs()


def _fourier(y: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(y) * 0.5)


def _decided(y: Tensor) -> Tensor:
    return y if y.mean() > 0 else 2 * y


def _gem(y: Tensor) -> Tensor:
    return F.avg_pool2d(y.clamp(min=1e-6).pow(3), y.shape[-2:]).pow(1 / 3).flatten(1)


def _grn(y: Tensor) -> Tensor:
    size = torch.norm(y, p=2, dim=(2, 3), keepdim=True)
    return y * size / (size.mean(1, keepdim=True) + 1e-6)


def _window_means(y: Tensor) -> Tensor:
    n, c, h, w = y.shape
    return y.view(n, c, h // 4, 4, w // 4, 4).mean((3, 5))


def _focus(y: Tensor) -> Tensor:
    return torch.cat([y[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)


def _shuffled(y: Tensor) -> Tensor:
    n, c, h, w = y.shape
    return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def _pyramid(y: Tensor, *levels: nn.Module) -> Tensor:
    side = y.shape[-2:]
    return torch.cat([y, *(F.interpolate(one(y), size=side, mode="bilinear") for one in levels)], 1)


def _standardised(y: Tensor, conv: nn.Conv2d) -> Tensor:
    weight = conv.weight - conv.weight.mean((1, 2, 3), keepdim=True)
    return F.conv2d(y, weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5), conv.bias, padding=1)


def _scales(y: Tensor) -> tuple[Tensor, Tensor]:
    return tokens(y), tokens(F.avg_pool2d(y, 2))


def _over_scales(y: Tensor) -> Tensor:
    t = torch.cat(_scales(y), 1)
    return attended(t, t, t).mean(1)


def _by_scale(y: Tensor) -> Tensor:
    first, second = _scales(y)
    t = torch.cat([first, second], 1)
    one, other = (t * 2).split([first.shape[1], second.shape[1]], 1)
    return a_map(one, y.shape[2]) + F.interpolate(a_map(other, y.shape[2] // 2), scale_factor=2)


def _lstm(y: Tensor, lstm: nn.LSTM) -> Tensor:
    return lstm(tokens(y))[0].mean(1)


def _with_class(y: Tensor, token: Tensor) -> Tensor:
    t = torch.cat([token.expand(len(y), -1, -1), tokens(y)], 1)
    return attended(t, t, t)[:, 0]


def _positions_added(y: Tensor, places: Tensor) -> Tensor:
    own = F.interpolate(places, y.shape[-2:], mode="bicubic", align_corners=False)
    return y + own


def _pruned(y: Tensor) -> Tensor:
    t = tokens(y)
    best = t.mean(-1).topk(16, dim=1).indices
    return t.gather(1, best[..., None].expand(-1, -1, t.shape[-1])).mean(1)


def _linear_attention(y: Tensor) -> Tensor:
    q, k = (F.elu(tokens(y)) + 1 for _ in range(2))
    context = torch.einsum("nlc,nld->ncd", k, tokens(y))
    return (torch.einsum("nlc,ncd->nld", q, context) / (q @ k.sum(1)[..., None])).mean(1)


def _bilateral(y: Tensor) -> Tensor:
    n, c, h, w = y.shape
    near = F.unfold(y, 3, padding=1).view(n, c, 9, h, w)
    weight = (near - y[:, :, None]).square().neg().exp()
    return (weight * near).sum(2) / weight.sum(2)


def _attention_pool(y: Tensor, attention: nn.MultiheadAttention, places: Tensor) -> Tensor:
    t = y.flatten(2).permute(2, 0, 1)
    t = torch.cat([t.mean(0, keepdim=True), t], 0) + places
    return attention(t[:1], t, t, need_weights=False)[0][0]


def _selective(y: Tensor, one: nn.Module, other: nn.Module, choose: nn.Module) -> Tensor:
    both = torch.stack([one(y), other(y)], 1)
    share = choose(both.sum(1).mean((2, 3), keepdim=True)).unflatten(1, (2, C)).softmax(1)
    return (both * share).sum(1)


def _non_local(y: Tensor) -> Tensor:
    t = y.flatten(2)
    return y + (t @ (t.transpose(1, 2) @ t).softmax(-1)).view_as(y)


def _context(y: Tensor, score: nn.Module) -> Tensor:
    share = score(y).flatten(2).softmax(-1)
    return y + (y.flatten(2) @ share.transpose(1, 2))[..., None]


def conv(*args: Any, **chosen: Any) -> nn.Conv2d:
    """A convolution that takes what a construct gets."""
    return nn.Conv2d(C, *(args or (C, 3)), **chosen)


Parts = tuple[nn.Module | nn.Parameter, ...]
Case = Callable[[], tuple[Callable[..., Any], Parts]]


def _of_module(make: Callable[[], nn.Module]) -> Case:
    return lambda: ((lambda y, module: module(y)), (make(),))


def _of_function(construct: Callable[..., Any], *makers: Callable[[], nn.Module | nn.Parameter]) -> Case:
    return lambda: (construct, tuple(make() for make in makers))


def _norms() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(conv(padding=1))


MODULES: dict[str, Callable[[], nn.Module]] = {
    # convolutions
    "convolution": conv,
    "convolution, strided": lambda: conv(C, 3, stride=2, padding=1),
    "convolution, dilated": lambda: conv(C, 3, padding=2, dilation=2),
    "convolution, grouped": lambda: conv(C, 3, padding=1, groups=4),
    "convolution, depthwise": lambda: conv(C, 7, padding=3, groups=C),
    "convolution, same": lambda: conv(C, 4, padding="same"),
    "convolution, 1 x 7": lambda: conv(C, (1, 7), padding=(0, 3)),
    "convolution, reflected border": lambda: conv(C, 3, padding=1, padding_mode="reflect"),
    "convolution, replicated border": lambda: conv(C, 3, padding=1, padding_mode="replicate"),
    "convolution, circular border": lambda: conv(C, 3, padding=1, padding_mode="circular"),
    "transposed convolution": lambda: nn.ConvTranspose2d(C, C, 4, 2, 1),
    "transposed convolution, no overlap": lambda: nn.ConvTranspose2d(C, C, 2, 2),
    "weight norm": _norms,
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(conv(padding=1)),
    "zero pad": lambda: nn.Sequential(nn.ZeroPad2d(1), conv()),
    "reflection pad": lambda: nn.Sequential(nn.ReflectionPad2d(1), conv()),
    "replication pad": lambda: nn.Sequential(nn.ReplicationPad2d(1), conv()),
    "circular pad": lambda: nn.Sequential(nn.CircularPad2d(1), conv()),
    "constant pad": lambda: nn.Sequential(nn.ConstantPad2d(1, 0.5), conv()),
    # pooling
    "max pool": lambda: nn.MaxPool2d(3, 2, 1),
    "max pool, ceiling": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
    "max pool, dilated": lambda: nn.MaxPool2d(3, 1, 1, dilation=2),
    "average pool": lambda: nn.AvgPool2d(2),
    "average pool, border not counted": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "adaptive average to 1": lambda: nn.AdaptiveAvgPool2d(1),
    "adaptive average to 7": lambda: nn.AdaptiveAvgPool2d(7),
    "adaptive average to a row": lambda: nn.AdaptiveAvgPool2d((1, None)),
    "adaptive maximum to 1": lambda: nn.AdaptiveMaxPool2d(1),
    "adaptive maximum to 5": lambda: nn.AdaptiveMaxPool2d(5),
    "Lp pool": lambda: nn.LPPool2d(2, 2),
    "fractional max pool": lambda: nn.FractionalMaxPool2d(2, output_ratio=0.5),
    # normalisation
    "batch norm": lambda: nn.BatchNorm2d(C),
    "group norm": lambda: nn.GroupNorm(2, C),
    "group norm of one group": lambda: nn.GroupNorm(1, C),
    "instance norm": lambda: nn.InstanceNorm2d(C, affine=True),
    "local response norm": lambda: nn.LocalResponseNorm(3),
    "layer norm over channels and space": lambda: nn.LayerNorm([C, 32, 32]),
    "layer norm over space": lambda: nn.LayerNorm([32, 32]),
    # shapes
    "pixel shuffle": lambda: nn.PixelShuffle(2),
    "pixel unshuffle": lambda: nn.PixelUnshuffle(2),
    "channel shuffle": lambda: nn.ChannelShuffle(4),
    "upsample, nearest": lambda: nn.Upsample(scale_factor=2),
    "upsample, bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    "upsample, bicubic": lambda: nn.Upsample(scale_factor=2, mode="bicubic"),
    "flatten and linear": lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(4)),
    "softmax over channels": lambda: nn.Softmax2d(),
    "softmax over channels, flattened": lambda: nn.Sequential(nn.Softmax(1), nn.AdaptiveAvgPool2d(1)),
    **{f"activation {name}": (lambda name=name: getattr(nn, name)()) for name in (
        "ReLU6 LeakyReLU PReLU ELU SELU CELU GELU SiLU Mish Softplus Hardswish Hardsigmoid Tanh LogSigmoid Softsign "
        "Hardtanh Tanhshrink").split()},
    "activation GLU": lambda: nn.GLU(1),
    "dropout": lambda: nn.Dropout2d(0.5),
}  # fmt: skip

FUNCTIONS: dict[str, tuple[Any, ...]] = {
    # convolutions written out
    "standardised weights": (_standardised, lambda: conv(padding=1)),
    "unfold and matrix": (
        lambda y, w: (w @ F.unfold(y, 3, padding=1)).unflatten(2, y.shape[2:]),
        lambda: number(4, C * 9),
    ),
    "unfold and fold": (lambda y: F.fold(F.unfold(y, 3, padding=1), y.shape[2:], 3, padding=1),),
    "patches by unfold": (
        lambda y, w: (F.unfold(y, 4, stride=4).transpose(1, 2) @ w).mean(1),
        lambda: number(C * 16, 4),
    ),
    "patches by Tensor.unfold": (lambda y: y.unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5)),),
    "involution": (_involution, lambda: conv(9, 1)),
    "complex parts": (_complex, lambda: conv(padding=1), lambda: conv(padding=1)),
    "complex convolution": (_complex_convolution,),
    "1d convolution of tokens, kernel 1": (lambda y, m: m(y.flatten(2)).mean(-1), lambda: nn.Conv1d(C, 4, 1)),
    "1d convolution of tokens, kernel 3": (
        lambda y, m: m(y.flatten(2)).mean(-1),
        lambda: nn.Conv1d(C, 4, 3, padding=1),
    ),
    "1d convolution of channels": (
        lambda y, m: y * m(y.mean((2, 3))[:, None])[:, 0, :, None, None].sigmoid(),
        lambda: nn.Conv1d(1, 1, 3, padding=1),
    ),
    "3d convolution of one slice": (lambda y, m: m(y[:, :, None])[:, :, 0], lambda: nn.Conv3d(C, 4, (1, 3, 3))),
    "padding to a multiple": (lambda y: F.pad(y, (0, 3, 0, 3)).mul(2)[:, :, :-3, :-3],),
    # pooling written out
    "mean": (lambda y: y.mean((2, 3)),),
    "mean of mean": (lambda y: y.mean(3).mean(2),),
    "sum of sum": (lambda y: y.sum(-1).sum(-1),),
    "amax": (lambda y: y.amax((2, 3)),),
    "max of max": (lambda y: y.max(3)[0].max(2)[0],),
    "max over flattened": (lambda y: y.flatten(2).max(-1).values,),
    "min over flattened": (lambda y: (-y).flatten(2).min(-1)[0],),
    "standard deviation": (lambda y: y.std((2, 3)),),
    "variance and mean": (lambda y: torch.cat(torch.var_mean(y, (2, 3)), 1),),
    "norm over space": (lambda y: y.norm(dim=(2, 3)),),
    "vector norm over space": (lambda y: torch.linalg.vector_norm(y, dim=(2, 3)),),
    "generalised mean": (_gem,),
    "logsumexp over space": (lambda y: y.logsumexp((2, 3)),),
    "median over space": (lambda y: y.flatten(2).median(-1).values,),
    "top 5 of space": (lambda y: y.flatten(2).topk(5, -1).values.mean(-1),),
    "sort over space": (lambda y: y.flatten(2).sort(-1).values[..., -3:],),
    "quantile over space": (lambda y: y.flatten(2).quantile(0.5, dim=-1),),
    "argmax over space": (lambda y: y.flatten(2).argmax(-1).double(),),
    "product over space": (lambda y: (y * 0.01 + 1).flatten(2).prod(-1),),
    "cumulative sum over space": (lambda y: y.cumsum(-1),),
    "unpooling": (_unpooled,),
    "soft pooling": (_soft_pool,),
    "window means by view": (_window_means,),
    "average of tokens, 1d": (lambda y: F.avg_pool1d(y.flatten(2), 4).mean(-1),),
    "adaptive average of tokens, 1d": (lambda y: F.adaptive_avg_pool1d(y.flatten(2), 1),),
    "strips": (lambda y: y * (y.mean(3, keepdim=True) + y.mean(2, keepdim=True)).sigmoid(),),
    "coordinate attention": (_coordinate_attention, lambda: conv(C, 1)),
    "pyramid of pools": (
        _pyramid,
        lambda: nn.AdaptiveAvgPool2d(1),
        lambda: nn.AdaptiveAvgPool2d(2),
        lambda: nn.AdaptiveAvgPool2d(4),
    ),
    "spatial pyramid": (lambda y: torch.cat([F.adaptive_max_pool2d(y, n).flatten(1) for n in (1, 2, 4)], 1),),
    "blur and subsample": (
        lambda y: F.conv2d(F.pad(y, (1, 1, 1, 1), "reflect"), torch.ones(C, 1, 3, 3).to(y) / 9, stride=2, groups=C),
    ),
    # normalisation written out
    "layer norm, channels last": (lambda y, m: m(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), lambda: nn.LayerNorm(C)),
    "layer norm, written out": (
        lambda y: (y - y.mean(1, keepdim=True)) / (y.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt(),
    ),
    "RMS norm": (lambda y: F.rms_norm(y.permute(0, 2, 3, 1), (C,)).permute(0, 3, 1, 2),),
    "unit length of channels": (lambda y: F.normalize(y, dim=1),),
    "filter response norm": (lambda y: y * (y.square().mean((2, 3), keepdim=True) + 1e-6).rsqrt(),),
    "global response norm": (_grn,),
    "centred over space": (lambda y: y - y.mean((2, 3), keepdim=True),),
    "standardised over everything": (lambda y: (y - y.mean((1, 2, 3), keepdim=True)) / y.std((1, 2, 3), keepdim=True),),
    # arithmetic
    "residual": (lambda y, m: y + m(y), lambda: conv(padding=1)),
    "residual of a shorter part": (lambda y, m: y + F.pad(m(y), (1, 1, 1, 1)), lambda: conv()),
    "product of two maps": (lambda y, m: y * m(y), lambda: conv(padding=1)),
    "quotient of two maps": (lambda y: y / (1 + y.abs()),),
    "larger of two maps": (lambda y, m: torch.maximum(y, m(y)), lambda: conv(padding=1)),
    "gate of halves": (lambda y: y.chunk(2, 1)[0] * y.chunk(2, 1)[1].sigmoid(),),
    "glu": (lambda y: F.glu(y, 1),),
    "highway": (lambda y, m: torch.lerp(y, m(y), y.sigmoid()), lambda: conv(padding=1)),
    "where": (lambda y: torch.where(y > 0.1, y, 0.1 * y),),
    "masked_fill": (lambda y: y.masked_fill(y < 0.1, 0.0),),
    "comparison counted": (lambda y: (y > 0.1).to(y.dtype).mean((2, 3)),),
    "addcmul": (lambda y: torch.addcmul(y, y, y, value=0.5),),
    "hypot": (lambda y: torch.hypot(y, y + 1),),
    "atan2": (lambda y: torch.atan2(y, y + 1),),
    "logaddexp": (lambda y: torch.logaddexp(y, 2 * y),),
    "cosine similarity of maps": (lambda y, m: F.cosine_similarity(y, m(y), dim=1)[:, None], lambda: conv(padding=1)),
    "cosine similarity with a mean": (lambda y: F.cosine_similarity(y, y.mean((2, 3), keepdim=True), dim=1)[:, None],),
    "distance of maps": (
        lambda y, m: F.pairwise_distance(y.permute(0, 2, 3, 1), m(y).permute(0, 2, 3, 1))[:, None],
        lambda: conv(padding=1),
    ),
    "sum over channels": (lambda y: y * y.sum(1, keepdim=True),),
    "maximum over channels": (lambda y: y * y.max(1, keepdim=True)[0].sigmoid(),),
    "argmax over channels": (lambda y: F.one_hot(y.argmax(1), C).permute(0, 3, 1, 2).to(y.dtype) * y,),
    "logsumexp over channels": (lambda y: y - y.logsumexp(1, keepdim=True),),
    "norm over channels": (lambda y: y / (y.norm(dim=1, keepdim=True) + 1),),
    "median over channels": (lambda y: y.median(1, keepdim=True).values,),
    "cumulative sum over channels": (lambda y: y.cumsum(1),),
    "sort over channels": (lambda y: y.sort(1).values,),
    "top 3 of channels": (lambda y: y.topk(3, 1).values,),
    "gather of channels": (lambda y: y.gather(1, y.argsort(1)),),
    "product over channels": (lambda y: (1 + y).prod(1, keepdim=True),),
    "maxout": (lambda y: y.unflatten(1, (4, 2)).max(2)[0],),
    "log softmax over channels": (lambda y: y.log_softmax(1),),
    # copies and the like
    "zeros_like": (lambda y: torch.cat([y, torch.zeros_like(y)], 1),),
    "ones_like": (lambda y: y + torch.ones_like(y[:, :1]),),
    "full_like": (lambda y: torch.cat([y, torch.full_like(y, 0.5)], 1),),
    "randn_like": (lambda y: y + 0 * torch.randn_like(y),),
    "new_zeros": (lambda y: torch.cat([y, y.new_zeros(y.shape)], 1),),
    "empty_like and copy_": (_copied,),
    "fill_": (_filled,),
    "in place": (lambda y: y.clone().add_(1).mul_(2).relu_(),),
    "part overwritten": (_written_part,),
    # shapes
    "channels last": (lambda y: y.permute(0, 2, 3, 1).mul(2).permute(0, 3, 1, 2),),
    "height and width swapped": (lambda y: y.transpose(2, 3),),
    "rotated by 90": (lambda y: torch.rot90(y, 1, (2, 3)),),
    "rotated by 180": (lambda y: torch.rot90(y, 2, (2, 3)),),
    "mirrored": (lambda y: y.flip(-1) + y,),
    "rolled": (lambda y: y.roll((2, 3), (2, 3)),),
    "every second position": (lambda y: y[:, :, ::2, ::2],),
    "focus": (_focus,),
    "cropped": (lambda y: y[:, :, 4:-4, 4:-4],),
    "channels shuffled by view": (_shuffled,),
    "channels chosen": (lambda y: y[:, [0, 3, 5]],),
    "index_select": (lambda y: y.index_select(1, torch.tensor([0, 3, 5])),),
    "unbind": (lambda y: sum(y.unflatten(1, (2, 4)).unbind(1)),),
    "stacked and averaged": (lambda y, m: torch.stack([y, m(y)]).mean(0), lambda: conv(padding=1)),
    "repeated channels": (lambda y: y.repeat(1, 2, 1, 1),),
    "repeated positions": (lambda y: y.repeat_interleave(2, 2).repeat_interleave(2, 3),),
    "tiled": (lambda y: y.tile(1, 1, 2, 2),),
    "coordinates put beside": (_coordinates,),
    "batch of halves": (lambda y: torch.cat([y[:, :4], y[:, 4:]], 0).mean((2, 3)).chunk(2)[0],),
    "resized, bilinear": (lambda y: F.interpolate(y, size=(20, 24), mode="bilinear"),),
    "resized, bicubic, antialias": (lambda y: F.interpolate(y, size=(20, 24), mode="bicubic", antialias=True),),
    "resized, area": (lambda y: F.interpolate(y, size=(20, 24), mode="area"),),
    "resized, nearest exact": (lambda y: F.interpolate(y, size=(20, 24), mode="nearest-exact"),),
    "grid_sample": (_transformed,),
    "a position taken": (lambda y: y[:, :, 16, 16],),
    # sequences and attention
    "tokens and back": (lambda y: a_map(tokens(y) * 2, y.shape[2]),),
    "linear over channels": (lambda y, m: m(tokens(y)).mean(1), lambda: nn.Linear(C, 4)),
    "self attention": (lambda y: attended(*[tokens(y)] * 3).mean(1),),
    "self attention, fused": (lambda y: F.scaled_dot_product_attention(*[heads(tokens(y))] * 3).mean(2),),
    "self attention, bmm": (lambda y: torch.bmm(torch.bmm(tokens(y), y.flatten(2)).softmax(-1), tokens(y)).mean(1),),
    "self attention, baddbmm": (
        lambda y: (
            torch.baddbmm(torch.zeros(1, 1, 1).to(y), tokens(y), y.flatten(2), alpha=0.5).softmax(-1) @ tokens(y)
        ).mean(1),
    ),
    "self attention, einsum": (
        lambda y: torch.einsum(
            "nij,njc->nic", torch.einsum("nic,njc->nij", tokens(y), tokens(y)).softmax(-1), tokens(y)
        ).mean(1),
    ),
    "multi-head attention": (
        lambda y, m: m(*[tokens(y)] * 3)[0].mean(1),
        lambda: nn.MultiheadAttention(C, 2, batch_first=True),
    ),
    "encoder layer": (
        lambda y, m: m(tokens(y)).mean(1),
        lambda: nn.TransformerEncoderLayer(C, 2, 16, batch_first=True),
    ),
    "decoder layer": (
        lambda y, m, q: m(q.expand(len(y), -1, -1), tokens(y)),
        lambda: nn.TransformerDecoderLayer(C, 2, 16, batch_first=True),
        lambda: number(1, 3, C),
    ),
    "windows": (_in_windows,),
    "axial attention": (_axial,),
    "rotary positions": (_rotary,),
    "attention by cosine": (
        lambda y: (lambda t: ((F.normalize(t, dim=-1) @ F.normalize(t, dim=-1).mT) * 10).softmax(-1) @ t)(
            tokens(y)
        ).mean(1),
    ),
    "attention by distance": (lambda y: (lambda t: (-torch.cdist(t, t)).softmax(-1) @ t)(tokens(y)).mean(1),),
    "attention with a bias": (
        lambda y, b: (lambda t: (t @ t.mT + b).softmax(-1) @ t)(tokens(y)).mean(1),
        lambda: number(1024, 1024),
    ),
    "attention, topk": (
        lambda y: (lambda t, s: s.masked_fill(s < s.topk(5, -1).values[..., -1:], -torch.inf).softmax(-1) @ t)(
            tokens(y), tokens(y) @ y.flatten(2)
        ).mean(1),
    ),
    "attention over channels": (lambda y: ((y.flatten(2) @ tokens(y)).softmax(-1) @ y.flatten(2)).view_as(y),),
    "attention to pooled keys": (lambda y: attended(tokens(y), *[tokens(F.avg_pool2d(y, 4))] * 2).mean(1),),
    "linear attention": (_linear_attention,),
    "queries that are learned": (
        lambda y, q: attended(q.expand(len(y), -1, -1), tokens(y), tokens(y)),
        lambda: number(1, 3, C),
    ),
    "attention pooling of CLIP": (_attention_pool, lambda: nn.MultiheadAttention(C, 2), lambda: number(1025, 1, C)),
    "class token": (_with_class, lambda: number(1, 1, C)),
    "positions added": (_positions_added, lambda: number(1, C, 8, 8)),
    "tokens of two scales": (_over_scales,),
    "tokens of two scales, parted": (_by_scale,),
    "tokens pruned": (_pruned,),
    "tokens learned": (
        lambda y, m: torch.einsum("nkl,nlc->nkc", m(y).flatten(2).softmax(-1), tokens(y)),
        lambda: conv(4, 1),
    ),
    "halo attention": (_halo,),
    "unfolded attention of MobileViT v2": (_mobile,),
    "dense layer over positions": (lambda y, m: m(y.flatten(2)).mean(-1), lambda: nn.Linear(1024, 16)),
    "LSTM over positions": (_lstm, lambda: nn.LSTM(C, 4, batch_first=True)),
    "Fourier transform": (_fourier,),
    # blocks
    "squeeze and excite": (lambda y, m: y * m(y.mean((2, 3), keepdim=True)).sigmoid(), lambda: conv(C, 1)),
    "squeeze and excite, linear": (
        lambda y, m: y * m(y.mean((2, 3))).sigmoid()[..., None, None],
        lambda: nn.Linear(C, C),
    ),
    "spatial attention": (
        lambda y, m: y * m(torch.cat([y.mean(1, keepdim=True), y.max(1, keepdim=True)[0]], 1)).sigmoid(),
        lambda: nn.Conv2d(2, 1, 7, padding=3),
    ),
    "mean and maximum": (lambda y: torch.cat([y.mean((2, 3)), y.amax((2, 3))], 1),),
    "selective kernels": (_selective, lambda: conv(padding=1), lambda: conv(C, 5, padding=2), lambda: conv(2 * C, 1)),
    "non-local": (_non_local,),
    "global context": (_context, lambda: conv(1, 1)),
    "dense connection": (lambda y, m: torch.cat([y, m(y)], 1), lambda: conv(padding=1)),
    "feature pyramid": (lambda y, m: y + F.interpolate(m(y), scale_factor=2), lambda: conv(C, 3, stride=2, padding=1)),
    "bilateral filter": (_bilateral,),
    "bilinear pooling": (lambda y: y.flatten(2) @ tokens(y),),
    "covariance": (_covariance,),
    "VLAD": (_vlad, lambda: conv(4, 1), lambda: number(4, C)),
    "cosine classifier": (
        lambda y, w: F.linear(F.normalize(y.mean((2, 3)), dim=1), F.normalize(w, dim=1)),
        lambda: number(5, C),
    ),
    "drop path": (lambda y: y + F.dropout(y, 0.5, False),),
    "decision by a value": (_decided,),
    "a dictionary": (lambda y: {"out": y.mean((2, 3)), "aux": [y.amax((2, 3))]},),
    "checkpointed": (
        lambda y, m: torch.utils.checkpoint.checkpoint(m, y, use_reentrant=False),
        lambda: conv(padding=1),
    ),
    "half and back": (lambda y: y.to(torch.bfloat16).to(y.dtype) if y.dtype == torch.float32 else y,),
}


def constructs() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Name, and what makes the network."""
    cases: dict[str, Case] = {name: _of_module(make) for name, make in MODULES.items()}
    cases |= {name: _of_function(*parts) for name, parts in FUNCTIONS.items()}
    for name, case in cases.items():
        yield name, lambda case=case: _built(*case())


@torch.no_grad()
def _built(construct: Callable[..., Any], parts: Parts) -> Written:
    model = Written(construct, parts).eval()
    model(torch.rand(1, 3, 64, 64))
    if isinstance(model.behind[0], nn.LazyConv2d):  # the construct leaves no map
        model.behind = nn.Sequential()
    return model
