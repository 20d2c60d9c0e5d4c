"""Ways in which models are written: each gives what the same thing gives that is written plainly."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.ao.nn.quantized import FloatFunctional

import lm_plugins as lm
from tests.masking import samples

N, SIZE, C = 2, 16, 8
PATCHES = SIZE // 2
TOKENS = PATCHES * PATCHES
VISIBLE = samples.region(N, 4, 4, density=0.5, seed=4).repeat_interleave(4, 1).repeat_interleave(4, 2)
CLASS_TOKEN = torch.randn(1, 1, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Written(nn.Module):
    """A function of an embedded image, and modules that it uses."""

    def __init__(self, function, *parts):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, C, 2, 2)
        self.parts = nn.ModuleList(parts)
        self.function = function

    def forward(self, x):
        return self.function(self.embed(x), *self.parts)


def tokens(y):
    return y.flatten(2).transpose(1, 2)


def with_class_token(y):
    return torch.cat([CLASS_TOKEN.expand(y.shape[0], -1, -1), tokens(y)], 1)


def rest(y):
    return with_class_token(y)[:, 1:].mean(1)


def both(parts):
    class_token, others = parts
    return torch.cat([class_token, 2 * others], 1).mean(1)


SEQUENCES = {
    "split, the rest": (lambda y: with_class_token(y).split((1, TOKENS), 1)[1].mean(1), rest),
    "split, the class token": (
        lambda y: with_class_token(y).split((1, TOKENS), 1)[0][:, 0],
        lambda y: with_class_token(y)[:, 0],
    ),
    "split and joined again": (
        lambda y: both(with_class_token(y).split((1, TOKENS), 1)),
        lambda y: torch.cat([CLASS_TOKEN.expand(y.shape[0], -1, -1), 2 * tokens(y)], 1).mean(1),
    ),
    "tensor_split": (lambda y: with_class_token(y).tensor_split((1,), 1)[1].mean(1), rest),
    "from behind": (lambda y: with_class_token(y)[:, -TOKENS:].mean(1), rest),
    "to the end": (lambda y: with_class_token(y)[:, 1 : TOKENS + 1].mean(1), rest),
    "narrowed": (lambda y: with_class_token(y).narrow(1, 1, TOKENS).mean(1), rest),
    "chosen": (lambda y: with_class_token(y).index_select(1, torch.arange(1, TOKENS + 1)).mean(1), rest),
    "no class token": (
        lambda y: torch.cat([tokens(y)[:, :0], 2 * tokens(y)[:, 0:]], 1).mean(1),
        lambda y: (2 * tokens(y)).mean(1),
    ),
    "constants in the channels": (
        lambda y: torch.cat([tokens(y), torch.ones(y.shape[0], TOKENS, 3, dtype=y.dtype)], -1).mean(1),
        lambda y: F.pad(tokens(y).mean(1), (0, 3), value=1.0),
    ),
    "the class token beside every other": (
        lambda y: torch.cat([with_class_token(y)[:, 1:], with_class_token(y)[:, :1].expand(-1, TOKENS, -1)], -1).mean(
            1
        ),
        lambda y: torch.cat([rest(y), with_class_token(y)[:, 0]], -1),
    ),
}


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("how", ["drop", "mask"])
def test_sequences_are_cut_and_joined(name, how):
    written, plainly = (Written(function).double().eval() for function in SEQUENCES[name])
    # Another share of every image is visible, and of one nothing.
    visible, x = VISIBLE.clone(), torch.randn(N, 3, SIZE, SIZE, dtype=torch.float64)
    for _ in range(2):
        options = lm.MaskingOptions(tokens=how)
        got = lm.LayerMasked(written, options)(x, visible)
        shown = visible.flatten(1).any(1)  # a mean of nothing is 0, of constants beside it as well
        torch.testing.assert_close(
            got[shown], lm.LayerMasked(plainly, options)(x, visible)[shown], rtol=1e-10, atol=1e-10
        )
        hidden = torch.where(visible[:, None], x, torch.nan)
        torch.testing.assert_close(lm.LayerMasked(written, options)(hidden, visible), got, rtol=0, atol=0)
        visible[0] = False


def depthwise(y, convolution):
    """A convolution of one channel, for every channel."""
    weight, bias = convolution.weight.repeat(C, 1, 1, 1), convolution.bias.repeat(C)
    return F.conv2d(y, weight, bias, padding=1, groups=C).mean((2, 3))


MAPS = {
    "channels as images": (
        lambda y, conv: conv(y.flatten(0, 1).unsqueeze(1)).mean((2, 3)).reshape(-1, 2 * C),
        2,
        depthwise,
    ),
    "by layers": (
        lambda y, conv: (
            nn.Sequential(nn.Flatten(0, 1), nn.Unflatten(0, (-1, 1)), conv)(y).mean((2, 3)).reshape(-1, 2 * C)
        ),
        2,
        depthwise,
    ),
    "and back": (
        lambda y, conv: conv(y.flatten(0, 1).unsqueeze(1)).squeeze(1).unflatten(0, (-1, C)).mean((2, 3)),
        1,
        depthwise,
    ),
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("count", [1, 2])
def test_channels_are_folded_into_the_batch(name, count):
    function, outputs, plainly = MAPS[name]
    convolution = nn.Conv2d(1, outputs, 3, padding=1)
    x, visible = torch.randn(count, 3, SIZE, SIZE, dtype=torch.float64), VISIBLE[:count]
    got, expected = (
        lm.LayerMasked(Written(one, convolution).double().eval())(x, visible) for one in (function, plainly)
    )
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)  # weights of padding are float32


@pytest.mark.parametrize("count", [1, 2])
def test_maps_of_different_regions_are_stacked(count):
    fine, coarse = nn.Conv2d(C, C, 3, padding=1), nn.Conv2d(C, C, 3, 2, 1)

    def scales(y, fine, coarse):
        return fine(y), F.interpolate(coarse(y), scale_factor=2.0)

    x, visible = torch.randn(count, 3, SIZE, SIZE, dtype=torch.float64), VISIBLE[:count]
    in_front, behind = (
        lm.LayerMasked(Written(function, fine, coarse).double().eval())(x, visible)
        for function in (
            lambda y, *parts: torch.stack(scales(y, *parts)).sum(dim=0).mean((2, 3)),
            lambda y, *parts: torch.stack(scales(y, *parts), 2).sum(dim=2).mean((2, 3)),
        )
    )
    torch.testing.assert_close(in_front, behind)


REDUCTIONS = {
    "mean": lambda y: y.mean((-2, -1)),
    "amax": lambda y: y.amax((-2, -1)),
    "var": lambda y: y.var((-2, -1)),
    "mean, kept": lambda y: y.mean((-2, -1), keepdim=True).flatten(-3),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_statistics_find_the_images_wherever_their_dimension_stands(name):
    reduce = REDUCTIONS[name]
    x = torch.randn(3, 3, SIZE, SIZE, dtype=torch.float64)
    visible = torch.cat([VISIBLE, torch.zeros_like(VISIBLE[:1])])
    in_front = lm.LayerMasked(Written(lambda y: reduce(torch.stack([y, 2 * y]))[1].flatten(1)).double().eval())
    alone = lm.LayerMasked(Written(lambda y: reduce(2 * y).flatten(1)).double().eval())
    torch.testing.assert_close(in_front(x, visible), alone(x, visible))


def test_functions_that_could_be_quantized_and_are_not():
    def function(y, floats):
        return floats.add(y, floats.mul_scalar(floats.cat([y[:, :2], y[:, 2:]], 1), 2.0)).mean((2, 3))

    x = torch.randn(N, 3, SIZE, SIZE, dtype=torch.float64)
    got = lm.LayerMasked(Written(function, FloatFunctional()).double().eval())(x, VISIBLE)
    expected = lm.LayerMasked(Written(lambda y: (3 * y).mean((2, 3))).double().eval())(x, VISIBLE)
    torch.testing.assert_close(got, expected)
