"""Convolution: that of the map whose hidden positions are all padded from their neighbours, ring by ring."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import lm_plugins as lm
from lm_plugins.masking import Mask, MaskedActivation, MaskingOptions
from tests.masking import samples
from tests.references import filling, windows

every_option = pytest.mark.parametrize("options", samples.OPTIONS, ids=samples.OPTION_NAMES)


def filled(values, known, options, fillable=None):
    """Every position that padding can reach; zeros where nothing is visible at all."""
    map_, reached = filling.fill(values, known, fillable, options.diagonal, options.padding_epsilon)
    return torch.where(reached[:, None], map_, 0.0)


def check(result, expected):
    samples.assert_equal_where_computed(result, expected, rtol=1e-5, atol=1e-5)  # weights of the padding are float32


@given(
    size=st.tuples(st.integers(4, 7), st.integers(4, 7)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2]),
    density=st.sampled_from([0.05, 0.3, 0.7]),
    options=st.sampled_from(samples.OPTIONS),
    seed=st.integers(0, 99),
)
def test_equals_the_convolution_of_the_padded_map(
    size, kernel, stride, padding, dilation, groups, density, options, seed
):
    assume(all(s + 2 * p >= (k - 1) * d + 1 for s, p, k, d in zip(size, padding, kernel, dilation, strict=True)))
    x, visible = samples.values(2, 4, *size, seed=seed), samples.region(2, *size, density=density, seed=seed)
    weight, bias = samples.values(6, 4 // groups, *kernel, seed=seed + 1), samples.values(6, 1, 1, 1).flatten()
    result = F.conv2d(samples.activation(x, visible, options), weight, bias, stride, padding, dilation, groups)
    expected = F.conv2d(filled(x, visible, options), weight, bias, stride, padding, dilation, groups)
    check(result, expected)
    seen = windows.parts if options.sampling == "part" else windows.taps
    of_window = seen(size, kernel, stride, (padding[1], padding[1], padding[0], padding[0]), dilation)
    touched = windows.any_in(visible, of_window)
    if options.visible == "any":
        assert torch.equal(result.visibility.visible.positions, touched)
    if options.computed == "any":
        assert torch.equal(result.visibility.computed.positions, touched)
    assert not (result.visibility.visible.positions & ~result.visibility.computed.positions).any()


@every_option
def test_second_convolution_takes_as_known_what_the_options_say(options):
    x, visible, weight = samples.values(), samples.region(density=0.2), samples.values(4, 4, 3, 3, seed=1)
    computed = windows.any_in(visible, windows.taps((6, 7), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)))
    known = computed if options.computed == "any" else visible
    result = F.conv2d(samples.activation(x, visible, options, known), weight, padding=1)
    check(result, F.conv2d(filled(x, known, options), weight, padding=1))


@every_option
def test_pointwise_convolution_fills_nothing(options):
    x = samples.values()
    given = samples.activation(x, options=options)
    weight = samples.values(3, 4, 1, 1)
    result = F.conv2d(given, weight)
    samples.assert_equal_where_computed(result, F.conv2d(x, weight))
    assert torch.equal(result.visibility.visible.positions, given.visibility.visible.positions)
    assert torch.equal(result.visibility.computed.positions, given.visibility.computed.positions)


def test_pointwise_ring_computes_one_ring_more():
    options = MaskingOptions(visible="any", computed="visible", pointwise_ring=True)
    x, visible, weight = samples.values(), samples.region(density=0.1), samples.values(3, 4, 1, 1)
    result = F.conv2d(samples.activation(x, visible, options), weight)
    ring, known = filling.fill(x, visible, None, options.diagonal, 0.0, count=1)
    assert torch.equal(result.visibility.visible.positions, visible)
    assert torch.equal(result.visibility.computed.positions, known)
    check(result, F.conv2d(ring, weight))


# ---- the layer's own padding -----------------------------------------------------------------------------------------


@every_option
@pytest.mark.parametrize("kernel", [(3, 3), (5, 3), (1, 3)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_padding(options, kernel, dilation):
    x, weight = samples.values(), samples.values(3, 4, *kernel)
    given = samples.activation(x, options=options)
    own = tuple((k - 1) * dilation // 2 for k in kernel)
    same = F.conv2d(given, weight, padding="same", dilation=dilation)
    samples.assert_same_activation(same, F.conv2d(given, weight, padding=own, dilation=dilation))
    assert same.shape[2:] == x.shape[2:]


@every_option
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_same_padding_of_an_even_kernel_puts_the_odd_position_behind(options):
    x, weight = samples.values(), samples.values(3, 4, 2, 4)
    given = samples.activation(x, options=options)
    same = F.conv2d(given, weight, padding="same")
    samples.assert_same_activation(same, F.conv2d(F.pad(given, (1, 2, 0, 1)), weight))
    check(same, F.conv2d(filled(x, samples.region(), options), weight, padding="same"))


def test_valid_padding():
    given, weight = samples.activation(), samples.values(3, 4, 3, 3)
    samples.assert_same_activation(F.conv2d(given, weight, padding="valid"), F.conv2d(given, weight))


@every_option
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_modes_repeat_the_map_before_it_is_filled(options, mode, stride):
    x, visible = samples.values(), samples.region(density=0.3)
    layer = nn.Conv2d(4, 3, 3, stride=stride, padding=1, padding_mode=mode).double().requires_grad_(False)
    result = layer(samples.activation(x, visible, options))
    padded_x, padded_region = F.pad(x, (1, 1, 1, 1), mode), F.pad(visible[:, None].double(), (1, 1, 1, 1), mode)[:, 0]
    check(result, F.conv2d(filled(padded_x, padded_region > 0, options), layer.weight, layer.bias, stride))
    assert torch.equal(layer(samples.full(x)).values, layer(x))


@every_option
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel", "padding", "dilation"), [((3, 3), (1, 1), 1), ((5, 3), (2, 1), 1), ((3, 3), (2, 2), 2)]
)
@pytest.mark.parametrize("density", [0.1, 0.6])
def test_explicit_zero_padding_equals_the_convolutions_own(options, stride, kernel, padding, dilation, density):
    given = samples.activation(visible=samples.region(density=density), options=options)
    weight, bias = samples.values(3, 4, *kernel), samples.values(3, 1, 1, 1).flatten()
    own = F.conv2d(given, weight, bias, stride, padding, dilation)
    amounts = (padding[1], padding[1], padding[0], padding[0])
    for padded in (F.pad(given, amounts), F.pad(given, amounts, "constant", 0.0), nn.ZeroPad2d(amounts)(given)):
        samples.assert_same_activation(F.conv2d(padded, weight, bias, stride, 0, dilation), own)


@every_option
def test_asymmetric_zero_padding_of_tensorflow_models(options):
    # MobileNets and EfficientNets ported from TensorFlow pad one position behind before a convolution of stride 2.
    x, visible, weight = samples.values(), samples.region(), samples.values(3, 4, 3, 3)
    result = F.conv2d(F.pad(samples.activation(x, visible, options), (0, 1, 0, 1)), weight, stride=2)
    check(result, F.conv2d(F.pad(filled(x, visible, options), (0, 1, 0, 1)), weight, stride=2))


@every_option
def test_a_constant_border_keeps_its_value(options):
    x, visible, weight = samples.values(), samples.region(), samples.values(3, 4, 3, 3)
    result = F.conv2d(F.pad(samples.activation(x, visible, options), (1, 1, 1, 1), value=2.5), weight)
    check(result, F.conv2d(F.pad(filled(x, visible, options), (1, 1, 1, 1), value=2.5), weight))


# ---- calls -----------------------------------------------------------------------------------------------------------


def test_every_way_to_call_it():
    given, weight, bias = samples.activation(), samples.values(4, 2, 3, 3), samples.values(4, 1, 1, 1).flatten()
    expected = F.conv2d(given, weight, bias, (2, 2), (1, 1), (1, 1), 2)
    layer = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2).double()
    layer.load_state_dict({"weight": weight, "bias": bias})
    for call in (
        lambda: F.conv2d(given, weight, bias, 2, 1, 1, 2),
        lambda: F.conv2d(input=given, weight=weight, bias=bias, stride=2, padding=1, dilation=1, groups=2),
        lambda: F.conv2d(given, weight, bias, stride=[2, 2], padding=[1, 1], groups=2),
        lambda: F.conv2d(given, weight, bias, stride=(2,), padding=(1,), groups=2),
        lambda: torch.conv2d(given, weight, bias, (2, 2), (1, 1), 1, 2),
        lambda: layer(given),
    ):
        samples.assert_same_activation(call(), expected)


@torch.no_grad()
def test_all_visible_is_the_plain_convolution():
    x, weight = samples.values().float(), samples.values(4, 4, 3, 3).float()
    for options in samples.OPTIONS:
        given = samples.activation(x, torch.ones(2, 6, 7, dtype=torch.bool), options)
        assert torch.equal(
            F.conv2d(given, weight, stride=2, padding=1).values, F.conv2d(x, weight, stride=2, padding=1)
        )


@every_option
def test_the_input_may_be_used_again(options):
    # A second branch reads the same activation: wherever it is computed, its values are as before.
    for is_tracked in (False, True):
        with torch.set_grad_enabled(is_tracked):
            given = samples.activation(options=options)
            weight = samples.values(4, 4, 3, 3)
            first = F.conv2d(given, weight, padding=1)
            samples.assert_same_activation(F.conv2d(given, weight, padding=1), first)
            samples.assert_equal_where_computed(given, samples.values())


def test_other_inputs_are_refused():
    weight = samples.values(4, 4, 3, 3)
    channels_last = samples.activation().permute(0, 2, 3, 1)
    with pytest.raises(lm.errors.UnsupportedOperatorError, match=r"conv2d.*\(N, C, H, W\)"):
        F.conv2d(channels_last, weight)
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="ordinary weights"):
        F.conv2d(samples.values(), samples.activation())


def test_nothing_visible_computes_nothing():
    for options in samples.OPTIONS:
        given = samples.activation(visible=torch.zeros(2, 6, 7, dtype=torch.bool), options=options)
        result = F.conv2d(given, samples.values(4, 4, 3, 3), padding=1)
        assert isinstance(result, MaskedActivation)
        assert result.is_hidden().all()
        assert isinstance(result.visibility.visible, Mask)


# ---- weights of its own for every image --------------------------------------------------------------------------------


def conditional(x, weights, pad=(0, 0, 0, 0), stride=1):
    """A convolution with the weights ``(N, O, I, k, k)``, as models write it for a whole batch at once."""
    n, c, h, w = x.shape
    x = F.pad(x.reshape(1, n * c, h, w), pad)
    out = F.conv2d(x, weights.flatten(0, 1), stride=stride, groups=n * c // weights.shape[2], padding=1)
    return (out * 2).permute([1, 0, 2, 3]).view(n, weights.shape[1], out.shape[-2], out.shape[-1])


@pytest.mark.parametrize("options", samples.OPTIONS, ids=samples.OPTION_NAMES)
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("inputs", [4, 2])  # one group an image, or two
@pytest.mark.parametrize(("pad", "stride"), [((0, 0, 0, 0), 1), ((0, 1, 1, 0), 2)])
def test_every_image_may_have_weights_of_its_own(options, n, inputs, pad, stride):
    x, visible = samples.values(n), samples.region(n)
    weights = samples.values(n * 6, inputs, 3, 3).unflatten(0, (n, 6))
    result = conditional(samples.activation(x, visible, options), weights, pad, stride)
    for i in range(n):
        given = F.pad(samples.activation(x[i : i + 1], visible[i : i + 1], options), pad)
        expected = F.conv2d(given, weights[i], stride=stride, padding=1, groups=4 // inputs) * 2
        assert torch.equal(result.visibility.visible.positions[i], expected.visibility.visible.positions[0])
        hidden = expected.is_hidden()
        assert torch.equal(result.is_hidden()[i : i + 1], hidden)
        samples.assert_equal_where_computed(expected, result.values[i : i + 1])


def test_folded_images_are_never_mixed():
    folded = samples.activation().reshape(1, 8, 6, 7)
    assert folded.dims == ("C", "B", "H", "W")
    assert torch.equal(folded.is_hidden()[0, 4:], (~samples.region()[1:]).expand(4, -1, -1))
    for function in (
        lambda: F.conv2d(folded, samples.values(3, 8, 1, 1), groups=1),
        lambda: folded.mean((2, 3)),
        lambda: folded.mean(1),
        lambda: folded.flatten(1),
        lambda: F.max_pool2d(folded, 2),
        lambda: folded[:, 1:],
        lambda: folded.view(4, 2, 6, 7),
    ):
        with pytest.raises(lm.errors.UnsupportedOperatorError):
            function()
