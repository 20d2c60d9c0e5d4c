"""Pooling counts visible positions only; against loops over windows."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import lm_plugins as lm
from lm_plugins.masking import MaskedActivation, MaskingOptions, Window
from tests.masking import samples
from tests.references import filling, windows

every_option = pytest.mark.parametrize("options", samples.OPTIONS, ids=samples.OPTION_NAMES)

geometry = {
    "size": st.tuples(st.integers(4, 8), st.integers(4, 8)),
    "kernel": st.tuples(st.integers(1, 4), st.integers(1, 4)),
    "stride": st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3)),
    "padding": st.tuples(st.integers(0, 2), st.integers(0, 2)),
    "ceil_mode": st.booleans(),
    "density": st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    "options": st.sampled_from(samples.OPTIONS),
    "seed": st.integers(0, 99),
}


def resolve(size, kernel, stride, padding, dilation, ceil_mode):
    """The windows of a pooling layer, and their geometry."""
    assume(all(p <= k // 2 for p, k in zip(padding, kernel, strict=True)))
    assume(all(s + 2 * p >= (k - 1) * d + 1 for s, p, k, d in zip(size, padding, kernel, dilation, strict=True)))
    stride = stride or kernel
    output = F.max_pool2d(torch.zeros(1, 1, *size), kernel, stride, padding, dilation, ceil_mode).shape[2:]
    window = Window.between(kernel, stride, padding, dilation, size, tuple(output))
    return window, windows.taps(size, kernel, stride, window.padding, dilation)


def check(result, expected, visible, window, options, pool):
    """`expected` is NaN where a window holds nothing visible: there it pools what is padded, if it is to be visible."""
    seen = windows.parts if options.sampling == "part" else windows.taps
    touched = windows.any_in(
        visible, seen(visible.shape[1:], window.kernel, window.stride, window.padding, window.dilation)
    )
    expected = torch.where(expected.isnan(), pool, expected)
    assert isinstance(result, MaskedActivation)
    assert not (result.visibility.visible.positions & ~touched).any()
    if options.visible == "any":
        assert torch.equal(result.visibility.visible.positions, touched)
    samples.assert_equal_where_computed(result, expected, rtol=1e-5, atol=1e-5)  # weights of the padding are float32
    assert result.values.isfinite().all()  # no infinity stays behind


@given(dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)), **geometry)
def test_max_pool(size, kernel, stride, padding, dilation, ceil_mode, density, options, seed):
    window, of_window = resolve(size, kernel, stride, padding, dilation, ceil_mode)
    x, visible = samples.values(2, 3, *size, seed=seed), samples.region(2, *size, density=density, seed=seed)
    arguments = (kernel, stride, padding, dilation, ceil_mode)
    result = F.max_pool2d(samples.activation(x, visible, options), *arguments)
    padded = F.max_pool2d(filling.fill(x, visible, None, options.diagonal)[0], *arguments)
    check(result, windows.maximum(x, visible, of_window), visible, window, options, padded)


@given(count_include_pad=st.booleans(), divisor=st.sampled_from([None, 5]), **geometry)
def test_avg_pool(size, kernel, stride, padding, ceil_mode, density, options, seed, count_include_pad, divisor):
    window, of_window = resolve(size, kernel, stride, padding, (1, 1), ceil_mode)
    x, visible = samples.values(2, 3, *size, seed=seed), samples.region(2, *size, density=density, seed=seed)
    arguments = (kernel, stride, padding, ceil_mode, count_include_pad, divisor)
    result = F.avg_pool2d(samples.activation(x, visible, options), *arguments)
    # What the plain layer makes of a map of ones is its own normalization, of padding and divisor.
    expected = windows.mean(x, visible, of_window) * F.avg_pool2d(torch.ones_like(x), *arguments)
    padded = F.avg_pool2d(filling.fill(x, visible, None, options.diagonal)[0], *arguments)
    check(result, expected, visible, window, options, padded)


@pytest.mark.parametrize("count_include_pad", [True, False])
def test_avg_pool_over_all_counts_zeros_for_hidden(count_include_pad):
    options = MaskingOptions(average="all")
    x, visible = samples.values(), samples.region()
    result = F.avg_pool2d(samples.activation(x, visible, options), 3, 2, 1, count_include_pad=count_include_pad)
    zeroed = torch.where(visible[:, None], x, 0.0)
    samples.assert_equal_where_computed(result, F.avg_pool2d(zeroed, 3, 2, 1, count_include_pad=count_include_pad))


# ---- adaptive pooling ------------------------------------------------------------------------------------------------


@every_option
@pytest.mark.parametrize("output", [(2, 3), (4, 5), (6, 1), (8, 9), (6, 7)])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_adaptive_pooling(options, output, density, kind):
    x, visible = samples.values(), samples.region(density=density)
    of_window = windows.adaptive_taps((6, 7), output)
    given = samples.activation(x, visible, options)
    if kind == "avg":
        result, expected = F.adaptive_avg_pool2d(given, output), windows.mean(x, visible, of_window)
    else:
        result, expected = F.adaptive_max_pool2d(given, output), windows.maximum(x, visible, of_window)
    samples.assert_equal_where_computed(result, expected)
    assert torch.equal(result.visibility.visible.positions, windows.any_in(visible, of_window))
    assert result.values.isfinite().all()


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_pooling_to_one_position_leaves_the_spatial_world(density, kind):
    x, visible = samples.values(), samples.region(density=density)
    of_window = windows.adaptive_taps((6, 7), (1, 1))
    if kind == "avg":
        result = F.adaptive_avg_pool2d(samples.activation(x, visible), 1)
        expected = windows.mean(x, visible, of_window)
    else:
        result = F.adaptive_max_pool2d(samples.activation(x, visible), 1)
        expected = windows.maximum(x, visible, of_window)
    assert isinstance(result, torch.Tensor)
    torch.testing.assert_close(result, expected.nan_to_num(0.0))  # of nothing: zero


def test_global_average_over_all_counts_zeros_for_hidden():
    x, visible = samples.values(), samples.region()
    result = F.adaptive_avg_pool2d(samples.activation(x, visible, MaskingOptions(global_average="all")), (1, 1))
    torch.testing.assert_close(result, torch.where(visible[:, None], x, 0.0).mean((2, 3), keepdim=True))


# ---- laws and calls --------------------------------------------------------------------------------------------------

LAYERS = [
    nn.MaxPool2d(3, 2, 1),
    nn.MaxPool2d((2, 3), ceil_mode=True),
    nn.MaxPool2d(2, 1, dilation=2),
    nn.AvgPool2d(3, 2, 1),
    nn.AvgPool2d((3, 2), (2, 1), (1, 0), ceil_mode=True, count_include_pad=False),
    nn.AvgPool2d(2, divisor_override=3),
    nn.AdaptiveAvgPool2d((3, 2)),
    nn.AdaptiveMaxPool2d((3, None)),
]


@every_option
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_all_visible_is_the_plain_layer_bit_for_bit(layer, options):
    x = samples.values().float()
    given = samples.activation(x, torch.ones(2, 6, 7, dtype=torch.bool), options)
    result = layer(given)
    assert torch.equal(result.values, layer(x))
    assert result.visibility.visible.is_full


@every_option
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_an_image_in_a_batch_is_the_image_alone(layer, options):
    x, visible = samples.values(), samples.region()
    visible[1] = True
    batch = layer(samples.activation(x, visible, options))
    for i in range(2):
        alone = layer(samples.activation(x[i : i + 1], visible[i : i + 1], options))
        assert torch.equal(batch.is_hidden()[i : i + 1], alone.is_hidden())
        samples.assert_equal_where_computed(alone, batch.values[i : i + 1])


def test_pooling_counts_the_visible_region_not_the_computed_one():
    x, visible = samples.values(), samples.region(density=0.3)
    computed = windows.any_in(visible, windows.taps((6, 7), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)))
    assert computed.sum() > visible.sum()
    for pool in (lambda a: F.max_pool2d(a, 2), lambda a: F.avg_pool2d(a, 2), lambda a: F.adaptive_avg_pool2d(a, 2)):
        samples.assert_same_activation(
            pool(samples.activation(x, visible, computed=computed)), pool(samples.activation(x, visible))
        )


@every_option
def test_zero_padding_before_an_average_equals_its_own(options):
    given = samples.activation(options=options)
    own = F.avg_pool2d(given, 3, 2, 1)
    result = F.avg_pool2d(F.pad(given, (1, 1, 1, 1)), 3, 2)
    samples.assert_equal_where_computed(result, own.values)
    assert torch.equal(result.visibility.visible.positions, own.visibility.visible.positions)


def test_every_way_to_call_it():
    given = samples.activation()
    expected = F.max_pool2d(given, (3, 3), (2, 2), (1, 1), (1, 1), True)
    for call in (
        lambda: F.max_pool2d(given, 3, 2, 1, 1, True),
        lambda: F.max_pool2d(input=given, kernel_size=3, stride=2, padding=1, ceil_mode=True),
        lambda: F.max_pool2d(given, kernel_size=[3, 3], stride=(2,), padding=[1, 1], ceil_mode=True),
        lambda: torch.max_pool2d(given, 3, 2, 1, 1, True),
        lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True)(given),
    ):
        samples.assert_same_activation(call(), expected)
    expected = F.avg_pool2d(given, (2, 2), (2, 2))
    for call in (
        lambda: F.avg_pool2d(given, 2),
        lambda: F.avg_pool2d(given, 2, ()),
        lambda: F.avg_pool2d(input=given, kernel_size=(2, 2), stride=None),
        lambda: nn.AvgPool2d(2)(given),
    ):
        samples.assert_same_activation(call(), expected)
    expected = F.adaptive_avg_pool2d(given, (3, 3))
    for call in (
        lambda: F.adaptive_avg_pool2d(given, 3),
        lambda: F.adaptive_avg_pool2d(input=given, output_size=[3, 3]),
        lambda: nn.AdaptiveAvgPool2d(3)(given),
    ):
        samples.assert_same_activation(call(), expected)


def test_indices_and_other_layouts_are_refused():
    for pool in (nn.AdaptiveMaxPool2d(2, return_indices=True),):
        with pytest.raises(lm.errors.UnsupportedOperatorError, match=r"max_pool2d.*indices"):
            pool(samples.activation())
    for pool in (nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(2)):
        with pytest.raises(lm.errors.UnsupportedOperatorError, match=r"\(N, C, H, W\) only"):
            pool(samples.activation().permute(0, 2, 3, 1))
