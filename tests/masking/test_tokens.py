"""Tokens: positions follow the values through every layout, and lead back to maps."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lm_plugins as lm
from lm_plugins.masking import MaskedActivation, MaskedTokens, MaskingOptions, observing
from lm_plugins.masking.token_positions import CONSTANT
from tests.garbage import overwrite_hidden
from tests.masking import samples
from tests.references import filling

N, C, H, W = 2, 8, 4, 6
OPTIONS = [MaskingOptions(tokens="mask"), MaskingOptions(tokens="drop")]
NAMES = ["mask", "drop"]


def numbered():
    """A map whose values are the numbers of their positions."""
    return torch.arange(N * H * W, dtype=torch.float64).reshape(N, 1, H, W).repeat(1, C, 1, 1)


def given(options=OPTIONS[0], x=None, visible=None):
    visible = samples.region(N, H, W, density=0.4) if visible is None else visible
    return samples.activation(numbered() if x is None else x, visible, options)


def windows(x):
    x = x.permute(0, 2, 3, 1).reshape(N, H // 2, 2, W // 2, 2, C)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, C)


def back(x):
    x = x.reshape(N, H // 2, W // 2, 2, 2, C).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(N, H, W, C)


LAYOUTS = {
    "flat": lambda x: x.flatten(2),
    "sequence": lambda x: x.flatten(2).transpose(1, 2),
    "view": lambda x: x.view(N, C, -1).permute(0, 2, 1),
    "heads": lambda x: x.flatten(2).transpose(1, 2).reshape(N, H * W, 2, 2, 2).permute(2, 0, 3, 1, 4),
    "unbind": lambda x: x.flatten(2).transpose(1, 2).reshape(N, H * W, 2, 2, 2).permute(2, 0, 3, 1, 4).unbind(0),
    "iterated": lambda x: tuple(x.flatten(2).transpose(1, 2).reshape(N, -1, 2, 4).permute(2, 0, 1, 3)),
    "chunk": lambda x: x.flatten(2).transpose(1, 2).chunk(2, dim=-1),
    "chunk of tokens": lambda x: x.flatten(2).chunk(3, dim=-1),
    "split": lambda x: x.flatten(2).transpose(1, 2).split([3, 5], -1),
    "merged with the batch": lambda x: x.flatten(2).transpose(1, 2).flatten(0, 1),
    "merged and back": lambda x: x.flatten(2).transpose(1, 2).flatten(0, 1).reshape(N, -1, C),
    "reshape_as": lambda x: x.flatten(2).flatten(0, 1).reshape_as(x.flatten(2)),
    "view_as": lambda x: x.flatten(2).view_as(x.flatten(2)),
    "heads with the batch": lambda x: x.flatten(2).reshape(N * 2, C // 2, H * W),
    "length first": lambda x: x.flatten(2).permute(2, 0, 1),
    "windows": windows,
    "swapped sides": lambda x: x.transpose(2, 3),
    "rolled": lambda x: torch.roll(x.permute(0, 2, 3, 1), shifts=(-1, 2), dims=(1, 2)),
    "rolled windows": lambda x: windows(torch.roll(x, (1, 1), (2, 3))),
    "rolled tokens": lambda x: x.flatten(2).roll(1, -1),
    "flipped": lambda x: x.flip((2, 3)),
    "row": lambda x: x[:, :, 1],
    "image": lambda x: x[0],
    "range of tokens": lambda x: x.flatten(2)[:, :, 3:9],
    "narrowed": lambda x: torch.narrow(x.flatten(2), 2, 2, 7),
    "strided": lambda x: x.flatten(2)[:, :, ::2],
    "index": lambda x: x.flatten(2).index_select(2, torch.tensor([4, 0, 9])),
    "advanced": lambda x: x.flatten(2)[:, torch.tensor([0, 2])],
    "new dimension": lambda x: x.flatten(2)[:, None, :, :, None],
    "squeezed": lambda x: x.flatten(2).unsqueeze(1).squeeze(1),
    "expanded": lambda x: x.flatten(2).unsqueeze(1).expand(-1, 3, -1, -1),
    "expanded as": lambda x: x.flatten(2)[:, :1].expand_as(x.flatten(2)),
    "repeated": lambda x: x.flatten(2).repeat(1, 2, 1),
    "cat of itself": lambda x: torch.cat([x.flatten(2), x.flatten(2)], 1),
    "cat of halves": lambda x: torch.cat([x.flatten(2)[:, :, :9], x.flatten(2)[:, :, 9:]], 2),
    "stacked": lambda x: torch.stack([x.flatten(2), x.flatten(2)], 1),
    "mT": lambda x: x.flatten(2).mT,
}


@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_places_follow_the_values(name, options):
    layout = LAYOUTS[name]
    got, expected = layout(given(options)), layout(numbered())
    got, expected = ((one,) if not isinstance(one, tuple) else one for one in (got, expected))
    assert len(got) == len(expected)
    for one, values in zip(got, expected, strict=True):
        one = one.as_tokens()
        assert one.shape == one.size() == values.shape
        assert one.numel() == values.numel()
        whole = one.whole()
        assert torch.equal(whole.positions[0].numbers.expand(values.shape), values.long())
        hidden = ~samples.region(N, H, W, density=0.4).flatten()[values.long()]
        assert torch.equal(whole.is_hidden().expand(values.shape), hidden)
        assert torch.equal(whole.with_hidden(-5.0), values.masked_fill(hidden, -5.0))


@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
@pytest.mark.parametrize(
    "layout",
    [
        lambda x: back(windows(x)).permute(0, 3, 1, 2),
        lambda x: back(windows(x)),
        lambda x: x.flatten(2).reshape(N, C, H, W),
        lambda x: x.flatten(2).transpose(1, 2).reshape(N, H, W, C).permute(0, 3, 1, 2),
        lambda x: torch.roll(torch.roll(x, (1, 2), (2, 3)), (-1, -2), (2, 3)),
        lambda x: x.transpose(2, 3).transpose(2, 3),
        lambda x: x.flatten(0, 1).unflatten(0, (N, C)),
    ],
)
def test_what_is_in_order_again_is_a_map_again(layout, options):
    before = given(options)
    after = layout(before)
    assert isinstance(after, MaskedActivation)
    assert after.visibility.visible is before.visibility.visible
    samples.assert_equal_where_computed(after, layout(numbered()))


def test_what_belongs_to_no_position_is_an_ordinary_tensor():
    tokens = torch.cat([torch.ones(N, 1, C, dtype=torch.float64), given().flatten(2).transpose(1, 2)], 1)
    assert isinstance(tokens[:, 1:], MaskedTokens)
    assert isinstance(tokens[:, 0], Tensor)
    assert torch.equal(tokens[:, 0], torch.ones(N, C))


@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
def test_class_tokens_and_position_embeddings(options):
    prefix, embedding = torch.full((1, 2, C), -3.0).double(), torch.randn(1, 2 + H * W, C).double()
    tokens = torch.cat([prefix.expand(N, -1, -1), given(options).flatten(2).transpose(1, 2)], 1) + embedding
    expected = torch.cat([prefix.expand(N, -1, -1), numbered().flatten(2).transpose(1, 2)], 1) + embedding
    assert tokens.shape == expected.shape
    hidden = F.pad(~samples.region(N, H, W, density=0.4).flatten(1), (2, 0))[..., None]
    assert torch.equal(tokens.whole().with_hidden(0.0), expected.masked_fill(hidden, 0.0))
    assert bool((tokens.whole().positions[0].numbers[:, :2] == CONSTANT).all())
    bare = tokens[:, 2:] + embedding[:, 2:]
    assert torch.equal(
        bare.whole().with_hidden(0.0), (expected[:, 2:] + embedding[:, 2:]).masked_fill(hidden[:, 2:], 0)
    )


def test_dropping_computes_the_kept_tokens_only():
    visible = torch.zeros(N, H, W, dtype=torch.bool)
    visible[0, 0, :5] = True
    visible[1, 2, :3] = True
    tokens = given(OPTIONS[1], visible=visible).flatten(2).transpose(1, 2)
    assert tokens.shape == (N, H * W, C)
    assert tokens.values.shape == (N, 5, C)
    assert torch.equal(tokens.values[0, :, 0], torch.arange(5.0).double())
    assert {12.0, 13.0, 14.0} <= {one - H * W for one in tokens.with_hidden(0.0)[1, :, 0].tolist()}
    assert F.linear(tokens, torch.randn(3, C).double()).values.shape == (N, 5, 3)
    assert tokens.reshape(N, H * W, 2, 4).transpose(1, 2).values.shape == (N, 2, 5, 4)
    assert tokens.reshape(N, H // 2, 2, W, C).values.shape == (N, H // 2, 2, W, C)  # put back


@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
def test_dropped_and_whole_tokens_meet(options):
    prefix = torch.ones(N, 1, C, dtype=torch.float64)
    sequence = torch.cat([prefix, given(options).flatten(2).transpose(1, 2)], 1)
    whole = sequence.roll(1, 1).roll(-1, 1)
    assert not whole.is_dropped
    doubled = (sequence * 2).whole().with_hidden(0.0)
    for result in (sequence + whole, whole + sequence, torch.cat([sequence, whole], 2)[:, :, :C] + whole):
        assert torch.equal(result.whole().with_hidden(0.0), doubled)
    keys = whole.with_hidden(0.0)
    for result in (sequence @ whole.transpose(1, 2), whole @ sequence.transpose(1, 2)):
        hidden = result.whole().is_hidden()
        assert torch.equal(result.whole().with_hidden(0.0), (keys @ keys.transpose(1, 2)).masked_fill(hidden, 0.0))


def test_different_positions_do_not_merge():
    sequence = given().flatten(2)
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="belong to different positions"):
        sequence + sequence.roll(1, -1)


def test_tokens_of_two_maps_form_one_sequence_and_come_apart_again():
    """As the scales of a detector: all visible tokens are attended to, and a part is the map that it was."""
    x, y = samples.values(N, C, H, W), samples.values(N, C, 2, 3, seed=1)
    one, other = samples.region(N, H, W, seed=1), samples.region(N, 2, 3, seed=2)
    for options in OPTIONS:
        maps = samples.activation(x, one, options), samples.activation(y, other, options)
        both = torch.cat([part.flatten(2).transpose(1, 2) for part in maps], 1)
        assert both.shape == (N, H * W + 6, C)
        attended = (both @ both.mT).softmax(-1) @ both
        for image in range(N):
            shown = torch.cat([x[image][:, one[image]].T, y[image][:, other[image]].T])
            expected = (shown @ shown.T).softmax(-1) @ shown
            torch.testing.assert_close(attended.mean(1)[image], expected.mean(0))
        first, second = (2 * attended).split([H * W, 6], 1)
        again = first.transpose(1, 2).unflatten(2, (H, W)), second.transpose(1, 2).unflatten(2, (2, 3))
        assert [part.visibility.visible for part in again] == [part.visibility.visible for part in maps]
        total = F.avg_pool2d(again[0], 2) + again[1]
        expected = F.avg_pool2d(maps[0], 2) + maps[1]
        assert torch.equal(total.visibility.visible.positions, expected.visibility.visible.positions)


def test_tokens_of_three_maps_are_joined_one_after_the_other():
    parts = [samples.activation(samples.values(N, C, H, W, seed=i), samples.region(N, H, W, seed=i)) for i in range(3)]
    parts = [part.flatten(2) for part in parts]
    at_once = torch.cat(parts, 2)
    nested = torch.cat([parts[0], torch.cat(parts[1:], 2)], 2)
    torch.testing.assert_close(nested.mean(2), at_once.mean(2))
    assert isinstance(nested[..., H * W : 2 * H * W].unflatten(2, (H, W)), MaskedActivation)


def test_tokens_of_which_different_ones_are_visible():
    one, other = samples.region(N, H, W, seed=1), samples.region(N, H, W, seed=2)
    x = samples.values(N, C, H, W)
    result = given(x=x, visible=one).flatten(2) + given(x=x, visible=other).flatten(2)
    assert torch.equal(result.is_hidden()[:, 0], ~(one & other).flatten(1))
    union = MaskingOptions(addition="union", tokens="mask")
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="different ones are visible"):
        given(union, x, one).flatten(2) + given(union, x, other).flatten(2)


def test_tokens_without_a_common_position_are_refused():
    one = torch.zeros(N, H, W, dtype=torch.bool)
    other = one.clone()
    one[:, 0, 0] = other[:, 1, 1] = True
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="no visible position in common"):
        given(visible=one).flatten(2) + given(visible=other).flatten(2)
    point = MaskingOptions(sampling="point", tokens="mask")
    assert (given(point, visible=one).flatten(2) + given(point, visible=other).flatten(2)).is_hidden().all()


def test_in_place():
    x = samples.values(N, C, H, W)
    tokens = given(x=x.clone()).flatten(2)
    same = tokens
    tokens += 1.0
    tokens *= torch.full((H * W,), 2.0).double()
    assert tokens is same
    tokens.relu_()
    hidden = tokens.is_hidden()
    assert torch.equal(tokens.with_hidden(0.0), ((x + 1) * 2).relu().flatten(2).masked_fill(hidden, 0.0))
    tokens[:, :2] = 0.0
    assert bool((tokens.values[:, :2] == 0).all())
    tokens[:, 2:4] = tokens[:, 4:6]
    assert torch.equal(tokens.with_hidden(0.0)[:, 2:4], tokens.with_hidden(0.0)[:, 4:6])
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="other positions"):
        tokens[:, :, :2] = tokens[:, :, 2:4]
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="into an ordinary tensor"):
        torch.zeros(N, C, H * W).double().add_(tokens)


# ---- patches in the channels -----------------------------------------------------------------------------------------


def merged_by_reshape(x):
    return x.reshape(N, H // 2, 2, W // 2, 2, C).permute(0, 1, 3, 2, 4, 5).flatten(3)


def merged_by_slices(x):
    return torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)


@pytest.mark.parametrize("options", samples.OPTIONS, ids=samples.OPTION_NAMES)
@pytest.mark.parametrize("merge", [merged_by_reshape, merged_by_slices])
def test_merging_patches_is_a_convolution(merge, options):
    x, visible = samples.values(N, C, H, W), samples.region(N, H, W, density=0.3)
    weight = torch.randn(5, C, 2, 2, dtype=torch.float64)
    as_linear = weight.permute(0, 2, 3, 1).flatten(1)
    expected = F.conv2d(samples.activation(x, visible, options), weight, stride=2)
    got = F.linear(merge(samples.activation(x, visible, options).permute(0, 2, 3, 1)), as_linear)
    assert isinstance(got, MaskedActivation)
    assert torch.equal(got.visibility.visible.positions, expected.visibility.visible.positions)
    hidden = expected.visibility.visible.hidden[:, None]
    filled, _ = filling.fill(x, visible, None, options.diagonal, options.padding_epsilon)
    by_hand = F.conv2d(filled, weight, stride=2)
    torch.testing.assert_close(
        got.permute(0, 3, 1, 2).with_hidden(0.0, got.visibility.visible),
        by_hand.masked_fill(hidden, 0.0),
        rtol=1e-6,
        atol=1e-6,
    )


def test_normalizing_merged_patches():
    x, visible = samples.values(N, C, H, W), samples.region(N, H, W, density=0.7)
    last = samples.activation(x, visible).permute(0, 2, 3, 1)
    filled = filling.fill(x, visible, None, lm.MaskingOptions().diagonal)[0].permute(0, 2, 3, 1)
    layer = nn.LayerNorm(4 * C).double()
    got = layer(merged_by_reshape(last))
    expected = layer(merged_by_reshape(filled)).masked_fill(got.is_hidden(got.visibility.visible), 0.0)
    result = got.with_hidden(0.0, got.visibility.visible)
    torch.testing.assert_close(result, expected.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: F.linear(x.flatten(2), torch.randn(3, H * W).double()),  # over positions, as a mixer
        lambda x: F.layer_norm(x.flatten(2), (C, H * W)),
        lambda x: F.linear(
            x.roll(1, 3).reshape(N, C, H, 3, 2).permute(0, 2, 3, 4, 1).flatten(3), torch.ones(1, 16).double()
        ),
        lambda x: F.batch_norm(x.flatten(2).transpose(1, 2), torch.zeros(24).double(), torch.ones(24).double()),
        lambda x: x.flatten(2).mean((0, 2)),
        lambda x: windows(x.roll(1, 2).roll(1, 3)).transpose(0, 1).unflatten(1, (2, -1)).mean(1),
        lambda x: x.flatten(2) @ torch.randn(H * W, 3).double(),
        lambda x: F.softmax(x.flatten(2)),
        lambda x: x.flatten(2).view(torch.int64),
        lambda x: F.pad(x.flatten(2), (1, 1), "reflect"),
        lambda x: F.conv2d(x.flatten(2).roll(1, 2).unflatten(2, (H, W)), torch.randn(2, C, 3, 3).double()),
    ],
)
def test_what_has_no_masked_meaning_is_refused(mix):
    with pytest.raises(lm.errors.UnsupportedOperatorError):
        mix(given())


# ---- functions of one token ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.linear(x, torch.linspace(0, 1, 3 * C).reshape(3, C).double()),
        lambda x: F.layer_norm(x, (C,), torch.arange(C).double()),
        lambda x: F.rms_norm(x, (C,)),
        lambda x: F.normalize(x, dim=-1),
        lambda x: F.gelu(x).clamp(0, 1).to(torch.float32).contiguous(),
        lambda x: x.softmax(-1),
        lambda x: x.mean(-1, keepdim=True),
        lambda x: 1.0 / (x.sum(2) + 2.0) ** 2,
        lambda x: x * torch.linspace(0, 1, H * W).double()[:, None] + torch.ones(C).double(),
        lambda x: x.masked_fill(torch.arange(H * W)[:, None] % 2 == 0, 0.0),
        lambda x: F.dropout(x, 0.5, training=False) @ torch.ones(C, 2).double(),
        lambda x: torch.ones(2, C).double() @ x.transpose(1, 2),
        lambda x: F.conv2d(x.transpose(1, 2).unsqueeze(2), torch.ones(2, C, 1, 1).double()),
        lambda x: F.batch_norm(x.transpose(1, 2), torch.ones(C).double(), torch.ones(C).double()),
    ],
)
def test_functions_of_one_token(function, options):
    x, visible = samples.values(N, C, H, W), samples.region(N, H, W, density=0.4)
    for value in (None, torch.nan):
        with observing(overwrite_hidden(value)):
            result = function(given(options, x, visible).flatten(2).transpose(1, 2))
        expected = function(x.flatten(2).transpose(1, 2))
        assert result.shape == expected.shape
        if isinstance(result, MaskedTokens):
            result = result.whole()
        hidden = result.is_hidden()
        assert bool(hidden.any())
        torch.testing.assert_close(result.with_hidden(0.0), expected.masked_fill(hidden, 0.0))


# ---- pools and statistics --------------------------------------------------------------------------------------------

POOLS = {
    "mean": lambda seen: seen.mean(1),
    "sum": lambda seen: seen.sum(1),
    "amax": lambda seen: seen.amax(1),
    "amin": lambda seen: seen.amin(1),
}


@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_pools_count_visible_tokens(name, density, options):
    x, visible = samples.values(N, C, H, W), samples.region(N, H, W, density=density)
    tokens = given(options, x, visible).flatten(2)
    expected = torch.zeros(N, C, dtype=torch.float64)
    for n in range(N):
        if visible[n].any():
            expected[n] = POOLS[name](x[n][:, visible[n]])
    for result in (getattr(tokens, name)(2), getattr(torch, name)(tokens.transpose(1, 2), dim=(1,))):
        assert isinstance(result, Tensor)
        torch.testing.assert_close(result, expected)
    torch.testing.assert_close(getattr(tokens, name)(-1, keepdim=True), expected[..., None])


def test_group_norm_counts_visible_tokens():
    x, visible = samples.values(N, C, H, W), samples.region(N, H, W, density=0.4)
    layer = nn.GroupNorm(2, C).double()
    for options in OPTIONS:
        tokens = layer(given(options, x, visible).flatten(2))
        for n in range(N):
            expected = layer(x[n][:, visible[n]][None])[0]
            torch.testing.assert_close(tokens.whole().values[n][:, visible[n].flatten()], expected)
    whole = torch.ones_like(visible)
    assert torch.equal(layer(given(x=x, visible=whole).flatten(2)).values, layer(x.flatten(2)))


@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
def test_norms_count_visible_tokens(options):
    x, visible = samples.values(N, C, H, W), samples.region(N, H, W, density=0.4)
    for normalize in (lambda x: F.normalize(x, dim=-1), lambda x: F.normalize(x, p=1.0, dim=(1, 2))):
        got = normalize(given(options, x, visible).flatten(2)).whole()
        for n in range(N):
            expected = normalize(x[n][:, visible[n]][None])[0]
            torch.testing.assert_close(got.values[n][:, visible[n].flatten()], expected)


def test_new_tensors_are_ordinary():
    tokens = given().flatten(2)
    for one in (tokens.new_zeros(2, 3), tokens.new_ones((1,)), tokens.new_full((2,), 3.0), tokens.new_empty(1)):
        assert type(one) is Tensor
        assert one.dtype == torch.float64


def test_gradients_of_hidden_tokens_are_zero():
    visible = samples.region(N, H, W, density=0.4)
    for options in OPTIONS:
        x = samples.values(N, C, H, W).requires_grad_()
        activation = MaskedActivation(x, given(options).visibility)
        tokens = activation.flatten(2).transpose(1, 2)
        out = F.scaled_dot_product_attention(tokens, tokens, tokens.softmax(-1)).mean(1)
        (gradient,) = torch.autograd.grad(out.square().sum(), x)
        assert torch.equal(gradient.abs().sum(1) > 0, visible)
