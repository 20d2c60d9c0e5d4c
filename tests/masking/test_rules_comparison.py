"""Comparisons, logic and choices by a condition: those of the values, wherever all that they look at is visible."""

import operator

import pytest
import torch
from torch import nn

import lm_plugins as lm
from lm_plugins.testing import check_rule
from tests.masking import samples

COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]


@pytest.mark.parametrize("compare", COMPARISONS)
def test_compares_with_numbers_tensors_and_activations(compare):
    x, y = samples.values(seed=1), samples.values(seed=2)
    one, other = samples.activation(x), samples.activation(y)
    plain = samples.values(1, 4, 1, 1)
    for result, expected in (
        (compare(one, 0), compare(x, 0)),
        (compare(one, plain), compare(x, plain)),
        (compare(plain, one), compare(plain, x)),
        (compare(one, other), compare(x, y)),
    ):
        assert result.dtype == torch.bool
        assert torch.equal(
            result.values.masked_fill(result.is_hidden(), False), expected.masked_fill(result.is_hidden(), False)
        )
        assert torch.equal(result.visibility.visible.positions, samples.region())


def test_is_equal_to_nothing_that_is_no_number():
    assert (samples.activation() == None) is False  # noqa: E711
    assert (samples.activation() != "mean") is True


def test_a_condition_is_visible_where_both_sides_are():
    one, other = samples.activation(), samples.activation(samples.values(seed=1), samples.region(seed=3))
    result = one < other
    assert torch.equal(result.visibility.visible.positions, samples.region() & samples.region(seed=3))


def test_a_condition_is_not_padded_from_neighbours():
    options = lm.MaskingOptions(addition="union")
    one = samples.activation(options=options)
    other = samples.activation(samples.values(seed=1), samples.region(seed=3), options)
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="no numbers that neighbours could pad"):
        (one > 0) & (other > 0)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.where(x > 0.1, x, 0.5 * x),
        lambda x: torch.where(x.abs() < 1, x, torch.zeros_like(x)),
        lambda x: (x > 0).to(x.dtype) * x,
        lambda x: x.masked_fill((x < 0) & (x > -1), 2.0),
        lambda x: x.where(~(x >= 0.3), torch.ones_like(x)),
        lambda x: torch.full_like(x, 3.0) + x,
        lambda x: x.masked_fill(torch.bitwise_not(x > 0).bitwise_not_(), 2.0),
        lambda x: x.masked_fill(torch.logical_or(x.isnan(), x == 0), 1.0),
        lambda x: torch.fmod(x, 0.7) + torch.remainder(x, 0.3) + x % 1,
        lambda x: torch.lerp(x, 2 * x, 0.3),
        lambda x: x.clone().masked_fill_(x > 1, 0.0),
    ],
)  # fmt: skip
def test_keeps_the_laws(function):
    check_rule(function, samples.values(2, 3, 6, 6))


def test_two_activations_with_masks_of_their_own_keep_the_laws():
    x, y = samples.values(2, 3, 6, 6, seed=1), samples.values(2, 3, 6, 6, seed=2)
    check_rule(lambda a, b: torch.where(a > b, a, b), x, y)
    check_rule(lambda a, b: torch.lerp(a, b, 0.25), x, y)


def test_a_condition_of_tokens_chooses_among_the_kept_ones():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, 4)

        def forward(self, x):
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = torch.where(x > 0, x, 0.1 * x)
            return x.masked_fill(x > 1, 1.0).mean(1)

    torch.manual_seed(0)
    model, x = Net().double().eval(), samples.values(2, 3, 16, 16)
    visible = torch.ones(16, 16, dtype=torch.bool)
    visible[:8, :8] = False
    maps = model.patches(x)
    expected = (
        nn.functional.leaky_relu(maps, 0.1)
        .clamp(max=1)
        .flatten(2)[:, :, ~torch.tensor([1, 1, 0, 0] * 2 + [0] * 8).bool()]
    )
    torch.testing.assert_close(lm.LayerMasked(model)(x, visible), expected.mean(2))


def test_positions_of_a_condition_are_refused():
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="with two values"):
        torch.where(samples.activation() > 0)
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="__bool__"):
        bool(samples.activation() > 0)
