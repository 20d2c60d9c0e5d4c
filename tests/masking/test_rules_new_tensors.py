"""Constants made like an activation have its positions, so that models may write parts of activations into them."""

import pytest
import torch

import lm_plugins as lm
from lm_plugins.masking import MaskedActivation
from lm_plugins.testing import check_rule
from tests.masking import samples

X = samples.values(2, 4, 6, 6)


def test_constants_are_as_visible_as_what_they_are_like() -> None:
    given = samples.activation(X)
    for made, value in ((torch.zeros_like(given), 0), (torch.ones_like(given), 1), (torch.full_like(given, 2.5), 2.5)):
        assert isinstance(made, MaskedActivation)
        assert made.visibility is given.visibility
        assert torch.equal(made.values, torch.full_like(X, value))
    assert torch.empty_like(given, dtype=torch.float32).dtype == torch.float32


def shifted(x):
    """As temporal shift modules and their kin write it."""
    out = torch.zeros_like(x)
    out[:, 1:] = x[:, :-1]
    return out


def copied(x):
    return torch.empty_like(x).copy_(2 * x)


def copied_tokens(x):
    t = x.flatten(2).transpose(1, 2)
    return torch.empty_like(t).copy_(t * 2).transpose(1, 2)


def of_a_constant(x):
    return torch.empty_like(x).copy_(torch.ones(4, 1, 1, dtype=x.dtype)) + x


@pytest.mark.parametrize("call", [shifted, copied, copied_tokens, of_a_constant])
def test_what_is_written_into_them_keeps_the_laws(call) -> None:
    check_rule(lambda x: call(x).square().flatten(2).mean(2), X)


def test_a_copy_takes_the_region_of_what_is_copied() -> None:
    one, other = samples.activation(X, samples.region(2, 6, 6)), samples.activation(X, samples.region(2, 6, 6, seed=1))
    torch.empty_like(one)
    result = one.copy_(other)
    assert result is one
    assert one.visibility is other.visibility


def test_an_ordinary_tensor_takes_no_activation() -> None:
    with pytest.raises(
        lm.errors.UnsupportedOperatorError, match=r"make it of the activation, by torch\.empty_like\(x\)"
    ):
        torch.empty(2, 4, 6, 6).double().copy_(samples.activation(X))
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="of other positions"):
        samples.activation(X, samples.region(2, 6, 6)).flatten(2).copy_(samples.full(X).flatten(2))
