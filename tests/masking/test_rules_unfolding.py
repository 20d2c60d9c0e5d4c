"""Unfolding and folding are the convolutions that do the same; blocks are a matter of layout."""

import pytest
import torch
import torch.nn.functional as F

import lm_plugins as lm
from lm_plugins.masking import MaskedTokens
from lm_plugins.testing import check_rule
from tests.masking import samples

X = samples.values(2, 3, 8, 8)
WEIGHT = samples.values(4, 3, 3, 3, seed=1)


@pytest.mark.parametrize("options", samples.OPTIONS, ids=samples.OPTION_NAMES)
@pytest.mark.parametrize("stride", [1, 2])
def test_a_matrix_of_patches_is_the_convolution(options, stride: int) -> None:
    given = samples.activation(X, options=options)
    patches = F.unfold(given, 3, padding=1, stride=stride)
    found = (WEIGHT.flatten(1) @ patches).unflatten(2, (8 // stride, 8 // stride))
    expected = F.conv2d(samples.activation(X, options=options), WEIGHT, stride=stride, padding=1)
    assert torch.equal(found.visibility.visible.positions, expected.visibility.visible.positions)
    shown = expected.visibility.visible.positions[:, None]
    torch.testing.assert_close(found.values.where(shown, 0.0), expected.values.where(shown, 0.0))


@pytest.mark.parametrize("options", samples.OPTIONS, ids=samples.OPTION_NAMES)
def test_folding_is_the_transposed_convolution(options) -> None:
    columns = torch.einsum("cokl,nchw->noklhw", WEIGHT, samples.values(2, 4, 4, 4)).reshape(2, -1, 4, 4)
    given = samples.activation(columns, samples.region(2, 4, 4), options)
    found = F.fold(given.flatten(2), (9, 9), 3, stride=2)
    weight = torch.eye(27, dtype=torch.float64).reshape(27, 3, 3, 3)
    expected = F.conv_transpose2d(samples.activation(columns, samples.region(2, 4, 4), options), weight, stride=2)
    samples.assert_same_activation(found, expected.like(found.values))
    shown = expected.visibility.visible.positions[:, None]
    torch.testing.assert_close(found.values.where(shown, 0.0), expected.values.where(shown, 0.0))


def test_blocks_are_a_layout_and_come_back_as_they_were() -> None:
    given = samples.activation(X)
    blocks = F.unfold(given, 4, stride=4)
    assert isinstance(blocks, MaskedTokens)
    assert blocks.shape == (2, 48, 4)
    samples.assert_same_activation(F.fold(blocks, (8, 8), 4, stride=4), samples.activation(X))
    single = samples.activation(X).unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5))
    samples.assert_same_activation(single, F.adaptive_avg_pool2d(samples.activation(X), 2))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.unfold(x, 3, padding=1).square().mean(2),
        lambda x: F.unfold(x, 3, dilation=2, padding=2, stride=2).square().mean(2),
        lambda x: F.unfold(x, (2, 3), padding=(1, 0)).square().mean(2),
        lambda x: F.fold(F.unfold(x, 3, padding=1), x.shape[2:], 3, padding=1).square().mean((2, 3)),
        lambda x: F.fold(F.unfold(x, 2, stride=2) * 2, x.shape[2:], 2, stride=2).square().mean((2, 3)),
        lambda x: x.unfold(2, 3, 1).square().mean((2, 3, 4)),
    ],
)
def test_the_laws_hold(call) -> None:
    check_rule(call, X)


def test_a_partial_convolution_is_none_of_patches() -> None:
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="no partial convolution"):
        F.unfold(samples.activation(X, options=lm.MaskingOptions(padding="partial")), 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.unfold(x.permute(0, 2, 3, 1), 3),
        lambda x: F.fold(x.flatten(2).roll(1, 2).repeat(1, 3, 1), (10, 10), 3),
        lambda x: F.conv1d(x.flatten(2), WEIGHT[..., 0]),
        lambda x: F.conv1d(x.flatten(2).transpose(1, 2), torch.ones(2, 64, 1).double()),
        lambda x: F.avg_pool1d(x.flatten(2), 3, 1),
        lambda x: F.avg_pool1d(x.flatten(2), 7),
        lambda x: F.avg_pool1d(x.flatten(2), 2, padding=1),
        lambda x: F.avg_pool1d(x.flatten(2).transpose(1, 2), 2),
    ],
)
def test_what_has_no_masked_meaning_is_refused(call) -> None:
    with pytest.raises(lm.errors.UnsupportedOperatorError):
        call(samples.activation(X))
