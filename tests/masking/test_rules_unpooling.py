"""Maxima with their places, values put back there, and power averages."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lm_plugins as lm
from lm_plugins.testing import check_rule
from tests.masking import samples

X = samples.values(2, 3, 8, 8)
VISIBLE = samples.region(2, 8, 8, density=0.4)


def test_places_are_those_of_visible_maxima() -> None:
    values, places = F.max_pool2d(samples.activation(X, VISIBLE), 2, return_indices=True)
    shown = X.masked_fill(~VISIBLE[:, None], -torch.inf)
    expected, where = F.max_pool2d(shown, 2, return_indices=True)
    some = values.visibility.visible.positions[:, None]
    assert torch.equal(values.values.where(some, 0.0), expected.where(some, 0.0))
    assert torch.equal(places.values.where(some, 0), where.where(some, 0))


def test_values_return_to_their_places() -> None:
    values, places = F.max_pool2d(samples.activation(X, VISIBLE), 2, return_indices=True)
    places.values = places.values.where(places.visibility.visible.positions[:, None], 10**9)  # no places at all
    found = F.max_unpool2d(values, places, 2)
    expected = F.max_unpool2d(*F.max_pool2d(X.masked_fill(~VISIBLE[:, None], -9.0), 2, return_indices=True), 2)
    windows = values.visibility.visible.positions.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(found.visibility.visible.positions, windows)
    samples.assert_equal_where_computed(found, expected)


def test_values_return_only_where_both_are_visible() -> None:
    options = lm.MaskingOptions(addition="union")
    values, places = F.max_pool2d(samples.activation(X, VISIBLE, options), 2, return_indices=True)
    other = samples.region(2, 8, 8, density=0.3, seed=5)
    more = F.max_pool2d(samples.activation(X, other, options), 2, return_indices=True)[0]
    found = F.max_unpool2d(more, places, 2)
    both = values.visibility.visible.positions & more.visibility.visible.positions
    assert torch.equal(found.visibility.visible.positions, both.repeat_interleave(2, 1).repeat_interleave(2, 2))


class SegNet(nn.Module):
    """Pools and unpools, at an odd size too."""

    def forward(self, x):
        small, places = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(small * 2, places, 2, output_size=x.shape).square().mean((2, 3))


def test_the_laws_hold() -> None:
    check_rule(SegNet(), X)
    check_rule(lambda x: F.lp_pool2d(x.abs() + 0.1, 2, 2).mean((2, 3)), X)
    check_rule(lambda x: nn.LPPool2d(3, 3, 2)(x.abs() + 0.1).square().mean((2, 3)), X.repeat(1, 1, 2, 2))


def test_power_averages_count_what_is_visible() -> None:
    found = F.lp_pool2d(samples.activation(X, VISIBLE), 2, 4)
    for n, h, w in VISIBLE.unfold(1, 4, 4).unfold(2, 4, 4).flatten(3).any(3).nonzero().tolist():
        block = X[n, :, 4 * h : 4 * h + 4, 4 * w : 4 * w + 4][:, VISIBLE[n, 4 * h : 4 * h + 4, 4 * w : 4 * w + 4]]
        torch.testing.assert_close(found.values[n, :, h, w], (16 * block.square().mean(1)).sqrt())


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: F.max_pool2d(x, 1, 2, return_indices=True), "leave out no position"),
        (lambda x: F.max_pool2d(x.permute(0, 2, 3, 1), 2, return_indices=True), r"\(N, C, H, W\) only"),
        (lambda x: F.max_unpool2d(x, torch.zeros(2, 3, 8, 8).long(), 2), "indices of a masked max_pool2d"),
        (lambda x: F.fractional_max_pool2d(x, 2, 4), "draws at random"),
        (lambda x: torch.fft.rfft2(x), "every frequency depends on every position"),
        (lambda x: torch.randn_like(x), "draws at random"),
        (lambda x: x.nonzero(), "how many entries"),
        (lambda x: F.conv3d(x, torch.ones(1, 2, 1, 1, 1).double()), "volumes"),
    ],
)
def test_what_has_no_masked_meaning_says_why(call, text: str) -> None:
    with pytest.raises(lm.errors.UnsupportedOperatorError, match=text):
        call(samples.activation(X, VISIBLE))
