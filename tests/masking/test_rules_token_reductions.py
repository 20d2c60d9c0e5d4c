"""Reductions of tokens: of all visible ones, and of blocks, rows and columns of the map."""

import pytest
import torch
import torch.nn.functional as F

import lm_plugins as lm
from lm_plugins.testing import check_rule
from tests.masking import samples

X = samples.values(2, 3, 4, 6)
VISIBLE = samples.region(2, 4, 6)
VISIBLE[0, 1] = False  # a row of which nothing is visible

POOLS = {
    "mean": lambda v: v.mean(-1),
    "sum": lambda v: v.sum(-1),
    "amax": lambda v: v.amax(-1),
    "amin": lambda v: v.amin(-1),
    "max": lambda v: v.max(-1).values,
    "min": lambda v: v.min(-1)[0],
    "logsumexp": lambda v: v.logsumexp(-1),
    "prod": lambda v: v.prod(-1),
    "norm": lambda v: v.norm(dim=-1),
    "vector norm": lambda v: torch.linalg.vector_norm(v, 1, -1),
    "variance": lambda v: v.var(-1, unbiased=False),
    "standard deviation": lambda v: v.std(-1, correction=0),
    "mean beside variance": lambda v: torch.var_mean(v, -1, unbiased=False)[1],
    "median": lambda v: v.median(-1).values,
    "quantile": lambda v: v.quantile(0.7, dim=-1),
    "positive": lambda v: (v > 0).count_nonzero(-1).double(),
    "any": lambda v: (v > 1).any(-1).double(),
    "all": lambda v: (v > -1).all(-1).double(),
    "top 2": lambda v: v.topk(2, -1).values.sum(-1),
}
DROP = lm.MaskingOptions(tokens="drop")
GRADIENTS = "mean sum amax logsumexp norm variance prod median".split()


def given(x=X, visible=VISIBLE, options=samples.DEFAULT):
    return samples.activation(x, visible, options)


@pytest.mark.parametrize("tokens", ["mask", "drop"])
@pytest.mark.parametrize("name", POOLS)
def test_all_tokens_of_an_image(name: str, tokens: str) -> None:
    """The reference takes the visible ones of each image, one image after the other."""
    pool = POOLS[name]
    found = pool(given(options=lm.MaskingOptions(tokens=tokens)).flatten(2))
    expected = torch.stack([pool(x[:, shown]) for x, shown in zip(X, VISIBLE, strict=True)])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("side", [2, 3])
def test_rows_and_columns(name: str, side: int) -> None:
    """A row of which nothing is visible is hidden; the others hold what their visible positions give."""
    if name in ("top 2", "quantile", "median"):
        return  # along one dimension; see the next test
    pool = POOLS[name]
    found = pool(given().movedim(side, -1))
    x, shown = X.movedim(side, -1), VISIBLE.movedim(side - 1, -1)
    assert torch.equal(found.is_hidden().squeeze(1).expand(2, -1), ~shown.any(-1))
    for image in range(2):
        for line in range(shown.shape[1]):
            if shown[image, line].any():
                expected = pool(x[image, :, line][:, shown[image, line]])
                torch.testing.assert_close(found.values[image, :, line], expected)


@pytest.mark.parametrize("name", ["median", "quantile"])
def test_order_statistics_of_rows(name: str) -> None:
    pool = POOLS[name]
    found = pool(given())
    for image, row in VISIBLE.any(2).nonzero().tolist():
        expected = pool(X[image, :, row][:, VISIBLE[image, row]])
        torch.testing.assert_close(found.values[image, :, row], expected)


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_laws_hold(name: str) -> None:
    pool = POOLS[name]
    check_rule(lambda x: pool(x.flatten(2)), X)
    check_rule(lambda x: pool(x).square().mean(-1), X)


def test_the_mean_of_row_means_counts_rows_of_which_something_is_visible() -> None:
    rows = [
        torch.stack(
            [X[image, :, row][:, VISIBLE[image, row]].mean(-1) for row in range(4) if VISIBLE[image, row].any()]
        )
        for image in range(2)
    ]
    expected = torch.stack([one.mean(0) for one in rows])
    torch.testing.assert_close(given().mean(3).mean(2), expected)
    torch.testing.assert_close(given().mean(3, keepdim=True).mean(2, keepdim=True), expected[..., None, None])


def test_the_maximum_of_row_maxima_is_that_of_the_image() -> None:
    torch.testing.assert_close(given().max(3)[0].max(2)[0], given().amax((2, 3)))
    torch.testing.assert_close(given().amax(3).amax(2), given().amax((2, 3)))


def test_a_view_in_blocks_is_average_pooling() -> None:
    found = given().view(2, 3, 2, 2, 3, 2).mean((3, 5))
    samples.assert_same_activation(found, F.adaptive_avg_pool2d(given(), (2, 3)))
    largest = given().view(2, 3, 2, 2, 3, 2).amax((3, 5))
    samples.assert_same_activation(
        largest, F.max_pool2d(given(options=lm.MaskingOptions(visible="any")), 2).like(largest.values)
    )


@pytest.mark.parametrize("strips", [lambda x: x.mean(3, keepdim=True), lambda x: x.amax(2, keepdim=True)])
def test_what_belongs_to_rows_or_columns_acts_on_their_positions(strips) -> None:
    """As in strip pooling and coordinate attention: the map keeps its region."""
    found = given() * strips(given()).sigmoid()
    hidden = ~VISIBLE[:, None]
    reference = strips(X.masked_fill(hidden, torch.nan if strips(X).shape[3] == 1 else -torch.inf))
    if strips(X).shape[3] == 1:
        reference = X.masked_fill(hidden, torch.nan).nanmean(3, keepdim=True)
    samples.assert_equal_where_computed(found, X * reference.sigmoid())
    assert torch.equal(found.visibility.visible.positions, VISIBLE)
    check_rule(lambda x: (x * (x.mean(3, keepdim=True) + x.mean(2, keepdim=True)).sigmoid()).sum((2, 3)), X)


def test_average_pooling_of_a_sequence_counts_the_visible_tokens_of_each_group() -> None:
    """As in Next-ViT, whose groups run on from row to row."""
    found = F.avg_pool1d(given().flatten(2), 4)
    x, shown = X.flatten(2).unflatten(2, (6, 4)), VISIBLE.flatten(1).unflatten(1, (6, 4))
    assert torch.equal(found.is_hidden().squeeze(1), ~shown.any(-1))
    expected = x.where(shown[:, None], torch.nan).nanmean(-1)
    torch.testing.assert_close(found.values.where(shown.any(-1)[:, None], 0.0), expected.nan_to_num())
    whole = given(visible=torch.ones_like(VISIBLE)).flatten(2)
    assert torch.equal(F.avg_pool1d(whole, 4).values, F.avg_pool1d(X.flatten(2), 4))


def test_average_pooling_of_a_sequence_of_which_tokens_were_dropped() -> None:
    """Groups are those of all tokens, not of the ones that are left."""
    dropped = given(visible=torch.arange(24).reshape(1, 4, 6).expand(2, -1, -1) >= 14, options=DROP).flatten(2)
    assert dropped.is_dropped
    found = F.avg_pool1d(dropped, 4).whole().with_hidden(0.0)
    expected = X.flatten(2).unflatten(2, (6, 4)).mean(-1)
    expected[..., :3], expected[..., 3] = 0.0, X.flatten(2)[..., 14:16].mean(-1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["mean", "amax", "norm", "variance"])
def test_groups_of_any_tokens(name: str) -> None:
    """As in Hiera, whose blocks are parted by a view, and in rolled windows: a group of nothing visible is hidden."""
    pool, order = POOLS[name], torch.randperm(24, generator=torch.Generator().manual_seed(0))
    found = pool(given().flatten(2)[:, :, order].unflatten(2, (8, 3)))
    x, shown = X.flatten(2)[:, :, order].unflatten(2, (8, 3)), VISIBLE.flatten(1)[:, order].unflatten(1, (8, 3))
    assert torch.equal(found.is_hidden().squeeze(1), ~shown.any(-1))
    for image, group in shown.any(-1).nonzero().tolist():
        torch.testing.assert_close(found.values[image, :, group], pool(x[image, :, group][:, shown[image, group]]))
    check_rule(lambda x: pool(x.flatten(2).roll(1, 2)[:, :, :2].unflatten(2, (1, -1))).square().sum(-1), X)


def test_blocks_of_which_others_are_visible() -> None:
    """A coarser map that was repeated to the size of a finer one: both have to be visible."""
    fine, coarse = VISIBLE, torch.tensor([[[True, False, True], [True, True, False]]] * 2)
    y = samples.values(2, 3, 2, 3, seed=1)

    def added(options):
        large = samples.activation(y, coarse, options).repeat_interleave(2, 2).repeat_interleave(2, 3)
        return samples.activation(X, fine, options).flatten(2) * large.flatten(2)

    found = added(samples.DEFAULT).unflatten(2, (4, 6))
    both = fine & coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(found.visibility.visible.positions, both)
    samples.assert_equal_where_computed(found, X * y.repeat_interleave(2, 2).repeat_interleave(2, 3))
    with pytest.raises(lm.errors.UnsupportedOperatorError):
        added(lm.MaskingOptions(addition="union"))


def test_rows_beside_columns_are_parted_again() -> None:
    """Coordinate attention: both directions in one sequence, and apart again."""

    def attended(x):
        both = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).permute(0, 1, 3, 2)], 2)
        down, across = both.sigmoid().split([x.shape[2], x.shape[3]], 2)
        return x * down * across.permute(0, 1, 3, 2)

    hidden = ~VISIBLE[:, None]
    shown = X.masked_fill(hidden, torch.nan)
    expected = X * shown.nanmean(3, keepdim=True).sigmoid() * shown.nanmean(2, keepdim=True).sigmoid()
    samples.assert_equal_where_computed(attended(given()), expected)
    check_rule(lambda x: attended(x).sum((2, 3)), X)


def test_the_k_largest_of_fewer_visible_tokens() -> None:
    visible = torch.zeros(2, 4, 6, dtype=torch.bool)
    visible[0, 0, :2] = True  # none in the second image
    found = given(visible=visible).flatten(2).topk(4, -1)
    two = X[0, :, 0, :2].sort(-1, descending=True).values
    torch.testing.assert_close(found.values[0], torch.cat([two, two[:, 1:], two[:, 1:]], 1))
    assert torch.equal(found.values[1], torch.zeros(3, 4, dtype=torch.float64))


def test_tokens_that_are_chosen_keep_their_positions() -> None:
    """The mean of the 3 tokens with the largest first channel, of which hidden ones never are, or do not count."""

    def pruned(x):
        t = x.flatten(2).transpose(1, 2)
        best = t[..., 0].topk(3, 1).indices
        return t.gather(1, best[..., None].expand(-1, -1, t.shape[-1])).mean(1)

    expected = []
    for x, shown in zip(X, VISIBLE, strict=True):
        t = x[:, shown].T
        expected.append(t[t[:, 0].topk(min(3, len(t))).indices].mean(0))
    for tokens in ("mask", "drop"):
        torch.testing.assert_close(pruned(given(options=lm.MaskingOptions(tokens=tokens))), torch.stack(expected))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.mean(0),
        lambda x: x.mean(),
        lambda x: x.norm("nuc", (2, 3)),
        lambda x: x.flatten(2).norm(-1.0, 2),
        lambda x: x.flatten(2).quantile(torch.tensor([0.1, 0.2]).double(), 2),
        lambda x: x.flatten(2).median(),
        lambda x: x.flatten(2).argmin(),
        lambda x: x.flatten(2).gather(2, x.flatten(2).argmax(1, keepdim=True)),
    ],
)
def test_what_has_no_masked_meaning_is_refused(call) -> None:
    with pytest.raises(lm.errors.UnsupportedOperatorError):
        call(given())
