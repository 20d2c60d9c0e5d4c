"""The ablations of the paper: no neighbour padding, partial convolution, padding in the first layers only, no gradient."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import lm_plugins as lm
from lm_plugins.masking import MaskedActivation, MaskingOptions, Visibility, Window, run_masked
from lm_plugins.testing import check_model
from tests.golden import deterministic
from tests.masking import samples
from tests.references import filling

every_ablation = pytest.mark.parametrize("options", samples.ABLATIONS, ids=samples.ABLATION_NAMES)


class Net(nn.Module):
    """Convolutions of every kind: dilated, depthwise, strided, pointwise, with a bias and without, beside each other."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.dilated = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.pointwise = nn.Conv2d(4, 4, 1)
        self.wide = nn.Conv2d(8, 4, (5, 3), padding=(2, 1))
        self.even = nn.Conv2d(4, 4, 2, stride=2)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = F.silu(self.stem(x))
        x = x + self.pointwise(F.silu(self.depthwise(self.dilated(x))))
        x = torch.cat([x, F.silu(self.dilated(x))], 1)
        return self.head(self.even(F.silu(self.wide(x))).mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().double().eval().requires_grad_(False)


# ---- one convolution ---------------------------------------------------------------------------------------------------


@given(
    size=st.tuples(st.integers(4, 7), st.integers(4, 7)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    density=st.sampled_from([0.0, 0.05, 0.3, 0.7]),
    computed=st.sampled_from(["visible", "next", "any"]),
    seed=st.integers(0, 99),
)
def test_zero_and_partial_are_convolutions_of_the_map_with_zeros(
    size, kernel, stride, padding, dilation, groups, bias, density, computed, seed
):
    assume(all(s + 2 * p >= (k - 1) * d + 1 for s, p, k, d in zip(size, padding, kernel, dilation, strict=True)))
    x, visible = samples.values(2, 4, *size, seed=seed), samples.region(2, *size, density=density, seed=seed)
    weight = samples.values(4, 4 // groups, *kernel, seed=seed + 1)
    offset = samples.values(4, 1, 1, 1, seed=2).flatten() if bias else None
    options = MaskingOptions(padding="zero", computed=computed)
    result = F.conv2d(samples.activation(x, visible, options), weight, offset, stride, padding, dilation, groups)
    zeros = torch.where(visible[:, None], x, 0.0)
    samples.assert_equal_where_computed(
        result, F.conv2d(zeros, weight, offset, stride, padding, dilation, groups), rtol=1e-12, atol=1e-12
    )

    options = replace(options, padding="partial")
    result = F.conv2d(samples.activation(x, visible, options), weight, offset, stride, padding, dilation, groups)
    ones = torch.ones(1, 1, *kernel, dtype=torch.float64)
    known, possible = (
        F.conv2d(region[:, None].double(), ones, None, stride, padding, dilation)
        for region in (visible, torch.ones_like(visible))
    )
    expected = F.conv2d(zeros, weight, None, stride, padding, dilation, groups) * (possible / known.clamp(min=1))
    expected = expected if offset is None else expected + offset[:, None, None]
    samples.assert_equal_where_computed(result, expected, rtol=1e-12, atol=1e-12)


def test_a_partial_convolution_of_a_constant_is_that_constant():
    # What renormalising is for: a window that sees a part of a constant map answers as if it saw all of it.
    x, visible = torch.full((2, 4, 6, 7), 2.5, dtype=torch.float64), samples.region(density=0.3)
    weight, bias = samples.values(3, 4, 3, 3), samples.values(3, 1, 1, 1).flatten()
    weight = weight.mean((2, 3), keepdim=True).expand_as(weight)  # every tap alike
    options = MaskingOptions(padding="partial")
    result = F.conv2d(samples.activation(x, visible, options), weight, bias)
    samples.assert_equal_where_computed(result, F.conv2d(x, weight, bias))


@every_ablation
def test_images_with_weights_of_their_own(options):
    # Models write it as one convolution with a group for each image.
    x, visible, weights = samples.values(), samples.region(), samples.values(2 * 6, 4, 3, 3)
    folded = samples.activation(x, visible, options).reshape(1, 8, 6, 7)
    result = F.conv2d(folded, weights, groups=2, padding=1).reshape(2, 6, 6, 7)
    for i in range(2):
        alone = samples.activation(x[i : i + 1], visible[i : i + 1], options)
        expected = F.conv2d(alone, weights[6 * i : 6 * i + 6], padding=1)
        samples.assert_equal_where_computed(expected, result.values[i : i + 1])


@every_ablation
def test_values_that_another_branch_reads_stay(options):
    with torch.no_grad():
        given = samples.activation(options=options)
        first = F.conv2d(given, samples.values(4, 4, 3, 3), padding=1)
        samples.assert_same_activation(F.conv2d(given, samples.values(4, 4, 3, 3), padding=1), first)
        samples.assert_equal_where_computed(given, samples.values())


# ---- laws --------------------------------------------------------------------------------------------------------------


def continuity_of(options):
    """The bound of `check_model`; none for partial convolution, whose sums jump where a window loses its last position."""
    return None if options.padding == "partial" else 0.5


@every_ablation
def test_laws(net, options):
    x = torch.randn(4, 3, 16, 18)
    model = net.float()
    check_model(model, x, options=options, continuity=continuity_of(options))
    everything = torch.ones(4, 16, 18, dtype=torch.bool)
    assert torch.equal(run_masked(model, x, everything, options), model(x))


@every_ablation
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5"])
def test_laws_of_architectures(options, name):
    model = deterministic.fill(torchvision.models.get_model(name, weights=None))
    with torch.inference_mode():
        check_model(
            model, torch.randn(2, 3, 64, 80), options=options, gradients=False, continuity=continuity_of(options)
        )


@every_ablation
def test_laws_of_a_transformer_with_convolutions(options):
    model = torchvision.models.maxvit.MaxVit((64, 64), 16, 4, [16, 32], [1, 1], 8, 0.0, num_classes=5)
    with torch.inference_mode():
        check_model(
            deterministic.fill(model),
            torch.randn(2, 3, 64, 64),
            options=options,
            gradients=False,
            continuity=continuity_of(options),
        )


@torch.inference_mode()
def test_the_rows_of_the_papers_table_differ(net):
    x = samples.values(2, 3, 32, 36)
    visible = torch.zeros(2, 32, 36, dtype=torch.bool)
    visible[0, 4:14, 6:], visible[1, :, 20:] = True, True
    full = lm.published("resnet50")
    rows = {
        "masking and padding": full,
        "padding in the first convolution": replace(full, padded_layers=1),
        "masking only": replace(full, padding="zero"),
        "partial convolution": replace(full, padding="partial"),
    }
    outputs = [lm.LayerMasked(net, options)(x, visible) for options in rows.values()]
    for i, one in enumerate(outputs):
        for other in outputs[:i]:
            assert ((one - other).abs().amax(1) > 1e-3 * one.abs().amax(1)).all()


# ---- the first layers ----------------------------------------------------------------------------------------------------


@torch.inference_mode()
@pytest.mark.parametrize("base", [MaskingOptions(), lm.published("resnet50")], ids=["default", "published"])
def test_padded_layers_are_those_next_to_the_image(base):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, 4, 3)]
    model = nn.Sequential(*layers).double().eval()
    x, visible = samples.values(2, 3, 12, 13), samples.region(2, 12, 13, density=0.4)
    for count, padded in ((0, 0), (1, 2), (2, 3), (3, 4)):  # the 1x1 convolution is not counted
        given = samples.activation(x, visible, replace(base, padded_layers=count))
        by_hand = samples.activation(x, visible, base)
        for i, layer in enumerate(layers):
            if i == padded:
                seen, without = by_hand.visibility, samples.run(replace(base, padding="zero"))
                by_hand = MaskedActivation(
                    by_hand.values, Visibility(seen.visible, seen.computed, without, seen.is_image)
                )
            given, by_hand = layer(given), layer(by_hand)
        samples.assert_same_activation(given, by_hand)
        masked = lm.LayerMasked(model, replace(base, padded_layers=count))
        first = masked(x, visible)
        torch.testing.assert_close(masked(x, visible), first, rtol=1e-12, atol=1e-12)  # halos are left out now


@torch.inference_mode()
@pytest.mark.parametrize("padding", ["neighbours", "partial"])
def test_no_padded_layer_is_zero_and_all_are_the_default(net, padding):
    x, visible = samples.values(2, 3, 16, 18), samples.region(2, 16, 18, density=0.4)
    run = partial(run_masked, net, x, visible)
    base = MaskingOptions(padding=padding)
    torch.testing.assert_close(run(replace(base, padded_layers=0)), run(MaskingOptions(padding="zero")), rtol=0, atol=0)
    torch.testing.assert_close(run(replace(base, padded_layers=99)), run(base), rtol=0, atol=0)


@torch.inference_mode()
def test_a_layer_is_as_deep_as_the_longest_way_to_it():
    weight, options = samples.values(4, 4, 3, 3), MaskingOptions(padded_layers=1, concatenation="union")
    start = samples.activation(options=options)
    once = F.conv2d(start, weight, padding=1)
    twice = F.conv2d(once, weight, padding=1)
    for merged in (start + twice, twice + start, torch.cat([start, twice, once], 1), twice - once):
        assert merged.visibility.depth == 2
    assert F.max_pool2d(once, 2).visibility.depth == 1
    assert F.interpolate(once, scale_factor=2).visibility.depth == 1
    assert F.pixel_unshuffle(F.max_pool2d(start, 3), 2).visibility.depth == 1
    assert F.pad(once, (1, 1, 1, 1)).visibility.depth == 1
    assert once[:, :, 1:].visibility.depth == 1
    assert F.conv2d(once, samples.values(4, 4, 1, 1)).visibility.depth == 1
    # Through tokens and back.
    back = once.flatten(2).transpose(1, 2).contiguous().transpose(1, 2).reshape(once.shape)
    assert back.visibility.depth == 1
    # Where no option asks, nothing is counted: activations that are otherwise alike stay so.
    assert F.conv2d(samples.activation(), weight).visibility.depth == 0


@torch.inference_mode()
def test_two_images_through_one_model_count_apart():
    # Each is counted from its own start, also the second time.
    layer = nn.Conv2d(3, 3, 3, padding=1).double()
    options = MaskingOptions(padded_layers=1)
    x, visible = samples.values(1, 3, 8, 8), samples.region(1, 8, 8)

    class Twice(nn.Module):
        def forward(self, x):
            return layer(x) - layer(x)

    assert (run_masked(Twice().eval(), x, visible, options) == 0).all()


# ---- gradients -----------------------------------------------------------------------------------------------------------


def by_hand(x, visible, weights, detached):
    """Convolutions under the published rule, each of the map filled one position at a time."""
    for weight in weights:
        hidden = ~visible[:, None]
        map_, _ = filling.fill(x.detach() if detached else x, visible)
        x = torch.where(hidden, map_, x)
        window = Window.between((3, 3), (1, 1), (1, 1), (1, 1), tuple(x.shape[2:]), tuple(x.shape[2:]))
        x = F.conv2d(x, weight, padding=1)
        visible = samples.Mask(visible).any_in(window).positions
    return torch.where(visible[:, None], x, 0.0)


def test_detached_padding_is_a_constant_to_the_gradient():
    x = samples.values(1, 2, 6, 7).requires_grad_()
    visible = samples.region(1, density=0.2)
    model = nn.Sequential(*(nn.Conv2d(2, 2, 3, padding=1, bias=False) for _ in range(2))).double().eval()
    weights = [layer.weight for layer in model]
    base = MaskingOptions(visible="any", computed="visible", diagonal=1.0)
    outputs, gradients = {}, {}
    for gradient in ("exact", "detached"):
        expected = by_hand(x, visible, weights, gradient == "detached")
        outputs[gradient] = lm.LayerMasked(model, replace(base, padding_gradient=gradient))(x, visible)
        torch.testing.assert_close(outputs[gradient], expected, rtol=1e-6, atol=1e-6)  # float32 weights of the plan
        seed = samples.values(*expected.shape, seed=5)
        gradients[gradient] = torch.autograd.grad((outputs[gradient] * seed).sum(), [x, *weights])
        wanted = torch.autograd.grad((expected * seed).sum(), [x, *weights])
        for got, one in zip(gradients[gradient], wanted, strict=True):
            torch.testing.assert_close(got, one, rtol=1e-6, atol=1e-6)
        assert (gradients[gradient][0][~visible[:, None].expand_as(x)] == 0).all()
    torch.testing.assert_close(outputs["exact"], outputs["detached"], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(gradients["exact"][0], gradients["detached"][0], rtol=1e-2)


# ---- values that are no options --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "none"},
        {"padding_gradient": True},
        {"padded_layers": -1},
        {"padded_layers": 1.0},
        {"padded_layers": True},
    ],
)
def test_other_values_are_refused(options):
    with pytest.raises(lm.errors.OptionError, match=next(iter(options))):
        MaskingOptions(**options)
