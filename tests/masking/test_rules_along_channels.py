"""Functions of the channels of every position: the laws hold, and each position is what plain torch makes of it."""

import pytest
import torch
import torch.nn.functional as F

import lm_plugins as lm
from lm_plugins.testing import check_rule
from tests.masking import samples

X = samples.values(2, 4, 6, 6)

#: Of a tensor whose channels are its dimension `d`.
CALLS = {
    "argmax": lambda x, d: x.argmax(d),
    "argmin, kept": lambda x, d: x.argmin(d, keepdim=True),
    "sort": lambda x, d: x.sort(d, descending=True)[0],
    "sort, its indices": lambda x, d: torch.sort(x, dim=d).indices,
    "argsort": lambda x, d: x.argsort(d),
    "topk": lambda x, d: x.topk(2, d).values,
    "median": lambda x, d: x.median(d).values,
    "median, its indices": lambda x, d: torch.median(x, d, True).indices,
    "mode": lambda x, d: x.mode(d).values,
    "cumsum": lambda x, d: x.cumsum(d),
    "cumprod": lambda x, d: torch.cumprod(x, dim=d),
    "cummax": lambda x, d: x.cummax(d)[0],
    "logcumsumexp": lambda x, d: x.logcumsumexp(d),
    "diff": lambda x, d: x.diff(dim=d),
    "prod": lambda x, d: x.prod(d),
    "logsumexp": lambda x, d: x.logsumexp(d),
    "nansum": lambda x, d: x.nansum(d),
    "count_nonzero": lambda x, d: (x > 0).count_nonzero(d),
    "any": lambda x, d: (x > 0).any(d),
    "all": lambda x, d: (x > 0).all(d, keepdim=True),
    "log_softmax": lambda x, d: x.log_softmax(d),
    "softmin": lambda x, d: F.softmin(x, d),
    "softmax": lambda x, d: x.softmax(d),
    "glu": lambda x, d: F.glu(x, d),
    "quantile": lambda x, d: x.quantile(0.3, d),
    "one_hot": lambda x, d: F.one_hot(x.argmax(d), 4),
    "gather": lambda x, d: x.gather(d, x.argsort(d)),
    "take_along_dim": lambda x, d: torch.take_along_dim(x, x.argsort(d), d),
    "max": lambda x, d: x.max(d)[0],
    "norm": lambda x, d: x.norm(dim=d),
    "variance": lambda x, d: x.var(d),
}
ONLY_MAPS = ("gather", "take_along_dim")


@pytest.mark.parametrize("name", CALLS)
def test_of_maps(name: str) -> None:
    """Every computed position, those that are no longer visible among them, holds what plain torch gives."""
    call = CALLS[name]
    expected = call(X, 1)
    found = call(samples.activation(X), 1)
    if name == "one_hot":
        expected, found = expected.permute(0, 3, 1, 2), found.permute(0, 3, 1, 2)
    visible = samples.region(2, 6, 6)
    shape = [1 if letter == "C" else size for letter, size in zip(found.dims, found.shape, strict=True)]
    hidden = ~visible.reshape(shape)
    torch.testing.assert_close(found.values.masked_fill(hidden, 0), expected.masked_fill(hidden, 0))
    assert torch.equal(found.visibility.visible.positions, visible)


@pytest.mark.parametrize("name", [one for one in CALLS if one not in ONLY_MAPS])
def test_of_tokens(name: str) -> None:
    call, visible = CALLS[name], samples.region(2, 6, 6).flatten(1)
    found = call(samples.activation(X).flatten(2).transpose(1, 2), 2)
    expected = call(X.flatten(2).transpose(1, 2), 2)
    hidden = ~visible.reshape(2, 36, *[1] * (found.ndim - 2))
    torch.testing.assert_close(found.ordinary().masked_fill(hidden, 0), expected.masked_fill(hidden, 0))


FLOATS = (
    "cumsum cumprod cummax logcumsumexp diff prod logsumexp nansum log_softmax softmin softmax glu quantile max norm "
    "variance median topk"
).split()


@pytest.mark.parametrize("name", FLOATS)
def test_the_laws_hold(name: str) -> None:
    call = CALLS[name]
    check_rule(lambda x: call(x, 1).square().sum((-2, -1)), X)
    check_rule(lambda x: call(x.flatten(2).transpose(1, 2), 2).square().sum(1), X)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.cosine_similarity(x, 2 * x.roll(1, 1), dim=1),
        lambda x: F.cosine_similarity(x, x.mean((2, 3), keepdim=True), dim=1),
        lambda x: F.pairwise_distance(x.permute(0, 2, 3, 1), x.square().permute(0, 2, 3, 1)),
        lambda x: F.pairwise_distance(x.permute(0, 2, 3, 1), x.exp().permute(0, 2, 3, 1), 1.0, keepdim=True)[..., 0],
    ],
)
def test_two_activations_are_compared(call) -> None:
    check_rule(lambda x: call(x).sum((1, 2)), X)


def test_maps_of_two_regions_are_compared_where_both_are_visible() -> None:
    y, one, other = samples.values(2, 4, 6, 6, seed=3), samples.region(2, 6, 6), samples.region(2, 6, 6, seed=1)
    options = lm.MaskingOptions(sampling="point")
    found = F.cosine_similarity(samples.activation(X, one, options), samples.activation(y, other, options), dim=1)
    assert torch.equal(found.visibility.visible.positions, one & other)
    samples.assert_equal_where_computed(found, F.cosine_similarity(X, y, dim=1))


def test_indices_of_one_map_choose_from_another() -> None:
    y, one, other = samples.values(2, 4, 6, 6, seed=3), samples.region(2, 6, 6), samples.region(2, 6, 6, seed=1)
    options = lm.MaskingOptions(sampling="point")
    index = samples.activation(y, other, options).argsort(1)
    index.values = index.values.masked_fill(~other[:, None], 99)  # no index at all
    found = samples.activation(X, one, options).gather(1, index)
    assert torch.equal(found.visibility.visible.positions, one & other)
    samples.assert_equal_where_computed(found, X.gather(1, y.argsort(1)))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.cumsum(2),
        lambda x: x.sort(3),
        lambda x: x.flatten(2).sort(-1),
        lambda x: x.flatten(2).cumsum(2),
        lambda x: x.mode(0),
        lambda x: F.glu(x),
        lambda x: x.argmax(),
        lambda x: F.cosine_similarity(x, x, dim=2),
        lambda x: F.pairwise_distance(x, x),
        lambda x: x.gather(2, x.argsort(1)),
        lambda x: F.one_hot(x.argmax(1)),
    ],
)
def test_along_positions_they_are_refused(call) -> None:
    with pytest.raises(lm.errors.UnsupportedOperatorError, match=r"masked|without dim|num_classes"):
        call(samples.activation(X))
