"""Merges: sums, products and concatenations of two activations with different regions."""

import operator

import pytest
import torch
import torch.nn.functional as F

import lm_plugins as lm
from lm_plugins.masking import MaskedActivation, MaskingOptions, Visibility
from tests.masking import samples
from tests.references import filling


def pair(options=samples.DEFAULT):
    """Two activations with different regions, and their values and regions."""
    x, y = samples.values(seed=1), samples.values(seed=2)
    one, other = samples.region(seed=1), samples.region(seed=2, density=0.3)
    return samples.activation(x, one, options), samples.activation(y, other, options), x, y, one, other


def common(*regions):
    """What all regions share; in an image in which that is nothing, what is in any of them."""
    shared, anything = torch.stack(regions).all(0), torch.stack(regions).any(0)
    return torch.where(shared.flatten(1).any(1)[:, None, None], shared, anything)


def completed(values, known, options):
    """What an operand contributes: its values, where it has none padding or zeros."""
    if options.missing == "zero":
        return torch.where(known[:, None], values, 0.0)
    filled, reached = filling.fill(values, known, None, options.diagonal, options.padding_epsilon)
    return torch.where(reached[:, None], filled, 0.0)


FUNCTIONS = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_intersection(name):
    options = MaskingOptions(addition="intersection")
    one, other, x, y, known, other_known = pair(options)
    assert not (known & other_known)[1].any()  # one of the two images would lose its last position
    result = FUNCTIONS[name](one, other)
    assert torch.equal(result.visibility.visible.positions, common(known, other_known))
    expected = FUNCTIONS[name](completed(x, known, options), completed(y, other_known, options))
    samples.assert_equal_where_computed(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_intersection_under_the_published_rule_may_lose_an_image(name):
    one, other, x, y, known, other_known = pair(MaskingOptions(addition="intersection", sampling="point"))
    result = FUNCTIONS[name](one, other)
    assert torch.equal(result.visibility.visible.positions, known & other_known)
    samples.assert_equal_where_computed(result, FUNCTIONS[name](x, y))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("missing", ["neighbours", "zero"])
def test_union_completes_each_operand(name, missing):
    options = MaskingOptions(addition="union", missing=missing)
    one, other, x, y, known, other_known = pair(options)
    result = FUNCTIONS[name](one, other)
    assert torch.equal(result.visibility.visible.positions, known | other_known)
    expected = FUNCTIONS[name](completed(x, known, options), completed(y, other_known, options))
    samples.assert_equal_where_computed(result, expected, rtol=1e-5, atol=1e-5)


def test_a_merge_falls_back_to_the_visible_region():
    x, visible, computed = samples.values(), samples.region(density=0.3), samples.region(density=0.3, seed=1)
    one, other = (samples.activation(x, visible, computed=computed | visible) for _ in range(2))
    result = one + other
    assert torch.equal(result.visibility.visible.positions, visible)
    assert torch.equal(result.visibility.computed.positions, visible)


@pytest.mark.parametrize("options", samples.OPTIONS, ids=samples.OPTION_NAMES)
def test_a_function_of_one_activation_is_no_merge(options):
    # x * sigmoid(x) is F.silu(x), however it is spelled.
    x, visible = samples.values(), samples.region(density=0.3)
    computed = visible | samples.region(seed=1, density=0.3)
    for spelled in (lambda x: x * torch.sigmoid(x), lambda x: x.clone().mul_(x.sigmoid())):
        result = spelled(samples.activation(x, visible, options, computed))
        samples.assert_same_activation(result, F.silu(samples.activation(x, visible, options, computed)))


def test_an_image_of_which_nothing_is_visible_merges_to_nothing():
    for options in (MaskingOptions(addition="union"), MaskingOptions(addition="union", missing="zero")):
        nothing = samples.activation(visible=torch.zeros(2, 6, 7, dtype=torch.bool), options=options)
        assert (nothing + nothing).is_hidden().all()
        x, visible = samples.values(seed=1), samples.region(seed=1)
        result = nothing + samples.activation(x, visible, options)
        assert torch.equal(result.visibility.visible.positions, visible)
        samples.assert_equal_where_computed(result, x)  # nothing to pad from: zero


SPELLINGS = {
    "add": [
        operator.add,
        operator.iadd,
        torch.add,
        lambda a, b: torch.add(input=a, other=b),
        lambda a, b: torch.add(a, other=b, alpha=1),
        lambda a, b: a.add(b),
        lambda a, b: a.add_(b),
        lambda a, b: a.add(other=b),
    ],
    "sub": [operator.sub, operator.isub, torch.sub, torch.subtract, lambda a, b: a.sub(b), lambda a, b: a.sub_(b)],
    "mul": [operator.mul, operator.imul, torch.mul, torch.multiply, lambda a, b: a.mul(b), lambda a, b: a.mul_(b)],
    "div": [
        operator.truediv,
        operator.itruediv,
        torch.div,
        torch.divide,
        torch.true_divide,
        lambda a, b: a.div(b),
        lambda a, b: a.div_(b),
    ],
}


@pytest.mark.parametrize(("name", "index"), [(name, i) for name, calls in SPELLINGS.items() for i in range(len(calls))])
def test_every_spelling_gives_the_same(name, index):
    one, other, *_ = pair()
    expected = FUNCTIONS[name](one, other)
    one, other, x, *_ = pair()
    samples.assert_same_activation(SPELLINGS[name][index](one, other), expected)
    samples.assert_same_activation(
        SPELLINGS[name][index](samples.activation(x), 3.0), FUNCTIONS[name](samples.activation(x), 3.0)
    )


def test_alpha_scales_the_second_operand():
    one, other, x, y, *_ = pair(MaskingOptions(sampling="point"))
    samples.assert_equal_where_computed(torch.add(one, other, alpha=3), x + 3 * y)
    samples.assert_equal_where_computed(one.sub(other, alpha=2), x - 2 * y)


@pytest.mark.parametrize("call", [operator.iadd, operator.imul, lambda a, b: a.add_(b), lambda a, b: a.sub_(b)])
def test_in_place_merges_return_their_first_operand(call):
    one, other, _, _, known, other_known = pair()
    result = call(one, other)
    assert result is one
    assert torch.equal(one.visibility.visible.positions, common(known, other_known))


# ---- numbers and ordinary tensors ------------------------------------------------------------------------------------

PLAIN = [
    2.5,
    3,
    samples.values(2, 4, 1, 1, seed=5),  # a gate, as in squeeze-and-excitation
    samples.values(1, 4, 1, 1, seed=6),
    samples.values(2, 4, 6, 7, seed=7),
    samples.values(1, 1, 6, 7, seed=8)[0, 0],
    torch.tensor(0.5, dtype=torch.float64),
]


@pytest.mark.parametrize("plain", PLAIN, ids=range(len(PLAIN)))
@pytest.mark.parametrize("function", [operator.add, operator.sub, operator.mul, operator.truediv])
def test_numbers_and_tensors_change_values_only(plain, function):
    x, visible = samples.values(), samples.region()
    given = samples.activation(x, visible)
    for result, expected in (
        (function(given, plain), function(x, plain)),
        (function(plain, given), function(plain, x)),
    ):
        assert torch.equal(result.visibility.visible.positions, visible)
        samples.assert_equal_where_computed(result, expected)


def test_in_place_with_a_number_changes_the_activation_itself():
    given = samples.activation()
    before = given
    given *= 2.0
    given += 1.0
    assert given is before
    samples.assert_equal_where_computed(given, samples.values() * 2 + 1)


def test_a_map_of_one_channel_scales_channels():
    x, plain = samples.values(2, 1), samples.values(2, 4, 1, 1, seed=1)
    given = samples.activation(x)
    for result in (plain * given, given * plain):
        assert result.shape == (2, 4, 6, 7)
        samples.assert_equal_where_computed(result, x * plain)


def test_an_ordinary_tensor_may_add_channels():
    added = samples.activation() + torch.ones(3, 2, 4, 6, 7)
    assert added.shape == (3, 2, 4, 6, 7)
    widened = samples.activation(samples.values(1, 1)) * torch.arange(4.0).reshape(1, 4, 1, 1)
    samples.assert_equal_where_computed(widened, samples.values(1, 1) * torch.arange(4.0).reshape(1, 4, 1, 1))


def test_writing_into_an_ordinary_tensor_is_refused():
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="into an ordinary tensor"):
        samples.values().add_(samples.activation())


def test_different_maps_are_refused():
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="same dimensions and positions"):
        samples.activation() + samples.activation(samples.values(h=5))
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="same dimensions and positions"):
        samples.activation() + samples.activation().permute(0, 2, 3, 1)


# ---- concatenation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["union", "intersection", "majority"])
@pytest.mark.parametrize("missing", ["neighbours", "zero"])
def test_cat(how, missing):
    options = MaskingOptions(concatenation=how, missing=missing)
    maps = [samples.values(c=c, seed=c) for c in (1, 2, 3)]
    regions = [samples.region(seed=seed) for seed in range(3)]
    result = torch.cat([samples.activation(x, known, options) for x, known in zip(maps, regions, strict=True)], 1)
    votes = torch.stack(regions).sum(0)
    expected = votes >= {"union": 1, "intersection": 3, "majority": 2}[how]
    assert expected.flatten(1).any(1).all()
    assert torch.equal(result.visibility.visible.positions, expected)
    expected = torch.cat([completed(x, known, options) for x, known in zip(maps, regions, strict=True)], 1)
    samples.assert_equal_where_computed(result, expected, rtol=1e-5, atol=1e-5)


def test_every_spelling_of_cat():
    one, other, *_ = pair()
    expected = torch.cat([one, other], 1)
    for call in (
        lambda: torch.cat((one, other), dim=1),
        lambda: torch.cat(tensors=[one, other], dim=1),
        lambda: torch.cat([one, other], axis=1),
        lambda: torch.cat([one, other], -3),
        lambda: torch.concat([one, other], 1),
        lambda: torch.concatenate([one, other], dim=1),
    ):
        samples.assert_same_activation(call(), expected)


def test_cat_with_an_ordinary_tensor():
    given, plain = samples.activation(), samples.values(c=2, seed=9)
    for order in ([given, plain], [plain, given]):
        result = torch.cat(order, 1)
        assert torch.equal(result.visibility.visible.positions, samples.region())
        expected = torch.cat([one.values if one is given else one for one in order], 1)
        samples.assert_equal_where_computed(result, expected)


def test_cat_along_the_batch_is_refused():
    with pytest.raises(lm.errors.UnsupportedOperatorError, match=r"torch\.cat is masked along channels"):
        torch.cat([samples.activation(), samples.activation()], 0)


def test_maps_beside_each_other_are_no_map_and_come_apart_again():
    both = torch.cat([samples.activation(), samples.activation(2 * samples.values())], 2)
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="no map in order"):
        torch.nn.functional.conv2d(both, samples.values(3, 4, 3, 3))
    first, second = both.split([6, 6], 2)
    samples.assert_same_activation(first, samples.activation())
    samples.assert_same_activation(second, samples.activation(2 * samples.values()))


def test_channels_last_maps_merge_too():
    one, other, x, y, known, other_known = pair(MaskingOptions(sampling="point"))
    last = [a.permute(0, 2, 3, 1) for a in (one, other)]
    samples.assert_same_activation((last[0] + last[1]).permute(0, 3, 1, 2), one + other)
    result = torch.cat(last, -1)
    assert torch.equal(result.visibility.visible.positions, known | other_known)
    both = (known & other_known)[..., None]
    expected = torch.cat([x, y], 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(torch.where(both, result.values, 0.0), torch.where(both, expected, 0.0))
    assert not result.values[(known | other_known)].isnan().any()


def test_a_carried_region_is_shared_not_copied():
    given = samples.activation()
    assert isinstance(given.visibility, Visibility)
    assert isinstance(given * 2, MaskedActivation)
    assert (given * 2).visibility is given.visibility


# ---- products and stacks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [torch.addcmul, torch.addcdiv])
@pytest.mark.parametrize("masked", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)], ids=str)
def test_adding_a_product(function, masked):
    plain = [samples.values(seed=seed) for seed in range(3)]
    regions = [samples.region(seed=seed) for seed in range(3)]
    given = [samples.activation(plain[i], regions[i]) if i in masked else plain[i] for i in range(3)]
    visible = torch.stack([regions[i] for i in masked]).all(0)
    for result in (function(*given, value=2), function(given[0], tensor1=given[1], tensor2=given[2], value=2)):
        assert torch.equal(result.visibility.visible.positions, visible)
        samples.assert_equal_where_computed(result, function(*plain, value=2))


def test_adding_a_product_in_place():
    given, scale = samples.activation(), samples.values(1, 4, 1, 1)
    assert given.addcmul_(scale, scale) is given
    samples.assert_equal_where_computed(given, samples.values() + scale**2)
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="into an ordinary tensor"):
        samples.values().addcmul_(given, scale)


@pytest.mark.parametrize("dim", [1, 2, 4, -1, -4])
def test_stack(dim):
    one, other, x, y, known, other_known = pair()
    result = torch.stack([one, other], dim=dim)
    assert result.shape == torch.stack([x, y], dim).shape
    assert torch.equal(result.visibility.visible.positions, known | other_known)
    expected = torch.stack([completed(x, known, samples.DEFAULT), completed(y, other_known, samples.DEFAULT)], dim)
    samples.assert_equal_where_computed(result, expected, rtol=1e-5, atol=1e-5)
    # A sum over the new dimension is that of the concatenation.
    joined = torch.cat((one, other), 1).unflatten(1, (2, 4)).sum(1)
    samples.assert_same_activation(torch.stack(tensors=(one, other), dim=1).sum(1), joined)


def test_stacked_batches_keep_their_regions():
    x, y, visible = samples.values(), samples.values(seed=1), samples.region()
    stacked = torch.stack([samples.activation(x, visible), samples.activation(y, visible)])
    hidden = stacked.is_hidden().expand(2, *x.shape)
    assert torch.equal(hidden, (~visible)[None, :, None].expand_as(hidden))
    assert torch.equal(stacked.values[~hidden], torch.stack([x, y])[~hidden])
