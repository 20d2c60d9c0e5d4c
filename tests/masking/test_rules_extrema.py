"""`max` and `min` of two activations, and of channels."""

import pytest
import torch

import lm_plugins as lm
from tests.masking import samples

NAMES = {"max": torch.maximum, "min": torch.minimum}


@pytest.mark.parametrize("name", NAMES)
def test_of_two(name):
    x, y = samples.values(seed=1), samples.values(seed=2)
    one, other = samples.activation(x), samples.activation(y, samples.region(seed=2))
    expected = NAMES[name](one, other)
    function, method = getattr(torch, name), getattr(one, name)
    for result in (function(one, other), function(one, other=other), method(other), method(other=other)):
        samples.assert_same_activation(result, expected)
    plain = samples.values(1, 4, 1, 1)
    for result in (method(plain), function(plain, one)):
        samples.assert_equal_where_computed(result, NAMES[name](x, plain))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keepdim", [False, True])
def test_of_channels(name, keepdim):
    x, visible = samples.values(), samples.region()
    given, function = samples.activation(x, visible), getattr(torch, name)
    expected = function(x, 1, keepdim)
    for result in (
        function(given, 1, keepdim),
        function(given, dim=-3, keepdim=keepdim),
        getattr(given, name)(axis=1, keepdims=keepdim),
    ):
        samples.assert_equal_where_computed(result.values, expected.values)
        samples.assert_equal_where_computed(result[1], expected.indices)
    assert torch.equal(result.indices.visibility.visible.positions, visible)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("call", [lambda f, x: f(x), lambda f, x: f(x, dim=0)])
def test_of_the_batch_is_refused(name, call):
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="masked along channels"):
        call(getattr(torch, name), samples.activation())


def test_smallest_and_largest_of_channels_together():
    given = samples.activation()
    for found in (torch.aminmax(given, dim=1), given.aminmax(dim=-3)):
        samples.assert_same_activation(found.min, torch.amin(given, 1))
        samples.assert_same_activation(found.max, torch.amax(given, 1))
