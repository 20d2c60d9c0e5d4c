"""Resizing: against the interpolation's own weights, one position at a time; space to depth against a convolution."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lm_plugins as lm
from lm_plugins.masking import MaskedActivation, MaskingOptions
from tests.masking import samples
from tests.references import filling

every_option = pytest.mark.parametrize("options", samples.OPTIONS, ids=samples.OPTION_NAMES)

RESIZINGS = {
    "twice": {"scale_factor": 2},
    "to a size": {"size": (9, 5)},
    "to a square": {"size": 10},
    "nearest-exact": {"size": (9, 12), "mode": "nearest-exact"},
    "bilinear": {"scale_factor": 2.0, "mode": "bilinear"},
    "bilinear, uneven": {"scale_factor": (1.5, 2.0), "mode": "bilinear"},
    "bilinear, corners": {"size": (11, 13), "mode": "bilinear", "align_corners": True},
    "bilinear, smaller": {"size": (3, 4), "mode": "bilinear", "align_corners": False},
    "bilinear, recomputed": {"scale_factor": 1.7, "mode": "bilinear", "recompute_scale_factor": True},
    "half": {"scale_factor": 0.5},
    "a third": {"scale_factor": (0.34, 0.5), "mode": "nearest-exact"},
    "bilinear, a third": {"size": (2, 3), "mode": "bilinear"},
    "bilinear, smaller, corners": {"size": (5, 4), "mode": "bilinear", "align_corners": True},
    "bilinear, antialiased": {"size": (2, 3), "mode": "bilinear", "antialias": True},
    "bilinear, antialiased and larger": {"size": (8, 5), "mode": "bilinear", "antialias": True},
    "bicubic": {"scale_factor": 2.0, "mode": "bicubic"},
    "bicubic, a third": {"size": (2, 2), "mode": "bicubic"},
    "bicubic, antialiased": {"size": (2, 3), "mode": "bicubic", "antialias": True},
}


def weights_of(arguments, h=6, w=7):
    """``(H', W', H, W)``: what each output position takes from each input position."""
    impulses = torch.eye(h * w, dtype=torch.float64).reshape(h * w, 1, h, w)
    return F.interpolate(impulses, **arguments)[:, 0].permute(1, 2, 0).unflatten(2, (h, w))


def of_parts(weights):
    """What each output position stands for: along an axis on which some are skipped, the windows of adaptive pooling."""
    height, width, h, w = weights.shape
    sides = [weights.sum((1, 3)) / width, weights.sum((0, 2)) / height]  # (H', H), (W', W)
    for axis, (side, size) in enumerate(zip(sides, (h, w), strict=True)):
        if (side.sum(0) < 1e-3).any():
            sides[axis] = torch.zeros_like(side)
            for i in range(len(side)):
                part = slice(i * size // len(side), -((i + 1) * size // -len(side)))
                sides[axis][i, part] = 1 / (part.stop - part.start)
    return sides[0][:, None, :, None] * sides[1][None, :, None, :]


def seen(region, weights, threshold):
    """Bool ``(N, H', W')``: positions that take at least `threshold` of their value from the region, and something."""
    result = torch.zeros(region.shape[0], *weights.shape[:2], dtype=torch.bool)
    for n in range(region.shape[0]):
        share = (weights * region[n]).sum((2, 3))
        result[n] = (share > 0) & (share >= threshold - 1e-5)
        if not result[n].any():
            result[n] = share > 0
    return result


@every_option
@pytest.mark.parametrize("name", RESIZINGS)
@pytest.mark.parametrize("density", [0.0, 0.15, 0.5, 1.0])
def test_interpolate(name, density, options):
    x, visible = samples.values(), samples.region(density=density)
    computed = visible | (samples.region(seed=1, density=0.2) if options.computed == "any" else visible)
    weights = weights_of(RESIZINGS[name])
    of_regions = weights_of(
        RESIZINGS[name] | {"mode": RESIZINGS[name].get("mode", "nearest").replace("bicubic", "bilinear")}
    )
    result = F.interpolate(samples.activation(x, visible, options, computed), **RESIZINGS[name])
    threshold = 0.0 if options.visible == "any" else options.coverage
    counts = of_parts(of_regions) if options.sampling == "part" else of_regions
    assert torch.equal(result.visibility.visible.positions, seen(visible, counts, threshold))
    if options.computed == "any":
        assert torch.equal(result.visibility.computed.positions, seen(computed, counts, 0.0))
    filled, _ = filling.fill(x, computed, None, options.diagonal, options.padding_epsilon)
    expected = torch.einsum("nchw,abhw->ncab", filled, weights)
    samples.assert_equal_where_computed(result, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", RESIZINGS)
def test_everything_visible_is_exact(name):
    x = samples.values().float()
    result = F.interpolate(samples.full(x), **RESIZINGS[name])
    assert torch.equal(result.values, F.interpolate(x, **RESIZINGS[name]))
    assert result.visibility.computed.is_full


def test_every_way_to_interpolate():
    given = samples.activation()
    expected = F.interpolate(given, scale_factor=2, mode="bilinear")
    for result in (
        nn.Upsample(scale_factor=2, mode="bilinear")(given),
        F.interpolate(input=given, size=None, scale_factor=(2, 2), mode="bilinear", align_corners=False),
        F.interpolate(given, None, 2.0, "bilinear"),
        F.interpolate(given, [12, 14], mode="bilinear", antialias=False),
    ):
        samples.assert_same_activation(result, expected)


def test_area_is_adaptive_pooling():
    given = samples.activation()
    for size in ((3, 7), (2, 2)):
        samples.assert_same_activation(
            F.interpolate(given, size=size, mode="area"), F.adaptive_avg_pool2d(samples.activation(), size)
        )
    assert torch.equal(F.interpolate(given, size=1, mode="area"), F.adaptive_avg_pool2d(given, 1))


def test_constants_of_a_pad_are_not_visible_after_resizing():
    given = F.pad(samples.activation(), (1, 1, 1, 1))
    for mode in ("nearest", "bilinear"):
        result = F.interpolate(given, scale_factor=2, mode=mode)
        inside = result.visibility.visible.inside
        assert not inside[0].any()
        assert inside[2:-2, 2:-2].all()
        assert not (result.visibility.visible.positions & ~inside).any()


# ---- depth and space -------------------------------------------------------------------------------------------------


def test_pixel_shuffle_gives_every_position_of_a_block_the_same_region():
    x, visible = samples.values(c=8), samples.region()
    computed = visible | samples.region(seed=1)
    for result in (
        F.pixel_shuffle(samples.activation(x, visible, computed=computed), 2),
        nn.PixelShuffle(2)(samples.activation(x, visible, computed=computed)),
        torch.pixel_shuffle(input=samples.activation(x, visible, computed=computed), upscale_factor=2),
    ):
        samples.assert_equal_where_computed(result, F.pixel_shuffle(x, 2))
        for region, source in ((result.visibility.visible, visible), (result.visibility.computed, computed)):
            assert torch.equal(region.positions, F.interpolate(source[:, None].double(), scale_factor=2)[:, 0] > 0)


def space_to_depth(x, rows, columns):
    """As models write it. Channels come last within a block."""
    n, c, h, w = x.shape
    x = x.view(n, c, h // rows, rows, w // columns, columns)
    x = x.permute(0, 3, 5, 1, 2, 4).contiguous()
    x = x.view(n, c * rows * columns, h // rows, w // columns)
    # Positions in the channels become patches where something acts on the channels.
    return F.conv2d(x, torch.eye(x.shape[1], dtype=x.dtype)[:, :, None, None])


def as_convolution(x, rows, columns):
    """The same as a convolution with one weight in each of its kernels."""
    c = x.shape[1]
    kernels = torch.eye(c * rows * columns, dtype=torch.float64).reshape(rows, columns, c, rows, columns, c)
    return F.conv2d(x, kernels.permute(0, 1, 2, 5, 3, 4).flatten(0, 2), stride=(rows, columns))


@every_option
@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (4, 2), (1, 3), (2, 1)])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
def test_space_to_depth_is_a_convolution(rows, columns, density, options):
    x, visible = samples.values(2, 3, 8, 12), samples.region(2, 8, 12, density=density)
    torch.testing.assert_close(space_to_depth(x, rows, columns), as_convolution(x, rows, columns))
    result = space_to_depth(samples.activation(x, visible, options), rows, columns)
    expected = as_convolution(samples.activation(x, visible, options), rows, columns)
    if options == samples.DEFAULT:  # tokens forget what is computed but not visible
        expected = MaskedActivation(expected.values, expected.visibility.settled, expected.dims)
    samples.assert_same_activation(result, expected)
    if rows == columns:
        shuffled = F.pixel_unshuffle(samples.activation(x, visible, options), rows)
        expected = as_convolution(samples.activation(x, visible, options), rows, columns)
        order = torch.arange(3 * rows * columns).reshape(rows * columns, 3).T.flatten()  # channels come first
        samples.assert_same_activation(
            shuffled, MaskedActivation(expected.values[:, order], expected.visibility, expected.dims)
        )


def test_space_to_depth_of_everything_visible_is_exact():
    x = samples.values(2, 3, 8, 12).float()
    assert torch.equal(space_to_depth(samples.full(x), 4, 2).values, space_to_depth(x, 4, 2))
    assert torch.equal(F.pixel_unshuffle(samples.full(x), 2).values, F.pixel_unshuffle(x, 2))


def test_gradients_of_resizing_are_exact():
    x, visible = samples.values(1, 2, 4, 6).requires_grad_(), samples.region(1, 4, 6)
    for function in (
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda x: F.interpolate(x, size=(5, 5)),
        lambda x: space_to_depth(x, 2, 2),
        lambda x: F.pixel_unshuffle(x, 2),
    ):

        def masked(x, function=function):
            given = MaskedActivation(x, samples.activation(x.detach(), visible).visibility)
            return function(given).with_hidden(0.0)

        assert torch.autograd.gradcheck(masked, x)
        (of_pixels,) = torch.autograd.grad(masked(x).square().sum(), x)
        assert (of_pixels.abs().amax(1)[~visible] == 0).all()


# ---- what has no masking ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x: F.interpolate(x, scale_factor=2, mode="linear"), "mode='linear'"),
        (lambda x: F.interpolate(x.unsqueeze(1), size=(4, 5, 5)), "interpolate is masked for"),
        (lambda x: F.pixel_shuffle(x.unsqueeze(1), 2), "pixel_shuffle is masked for"),
        (lambda x: F.pixel_unshuffle(x.unsqueeze(1), 2), "pixel_unshuffle is masked for"),
    ],
)
def test_is_refused(function, text):
    with pytest.raises(lm.errors.UnsupportedOperatorError, match=text):
        function(samples.activation())


def test_a_resized_image_is_still_an_image():
    # The first convolution follows `stem`, also behind a resize.
    x, visible = samples.values(1, 3, 8, 8), samples.region(1, 8, 8, density=0.3)
    given = MaskedActivation(x, samples.activation(x, visible, MaskingOptions(stem="any")).visibility)
    assert F.interpolate(given, scale_factor=2).visibility.is_image == given.visibility.is_image
