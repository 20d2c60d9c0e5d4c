"""Attention: hidden tokens are no keys, in every spelling."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lm_plugins as lm
from lm_plugins.masking import MaskedTokens, MaskingOptions, observing
from tests.garbage import overwrite_hidden
from tests.masking import samples
from tests.references import dropping

N, HEADS, H, W, C = 3, 2, 3, 4, 4
L = H * W
OPTIONS = [MaskingOptions(tokens="mask"), MaskingOptions(tokens="drop")]
NAMES = ["mask", "drop"]
BIAS = torch.randn(1, HEADS, L, L, generator=torch.Generator().manual_seed(7)).double()


def seen(density=0.5):
    """Of the last image, nothing is visible."""
    visible = samples.region(N, H, W, density=density, seed=4)
    visible[-1] = density == 1.0
    return visible


def qkv(visible, options=OPTIONS[0], carried=True):
    """Three times ``(N, heads, L, C)``, from one map."""
    x = samples.values(N, 3 * HEADS * C, H, W)
    x = samples.activation(x, visible, options) if carried else x
    return x.flatten(2).transpose(1, 2).reshape(N, L, 3, HEADS, C).permute(2, 0, 3, 1, 4).unbind(0)


def by_hand(q, k, v):
    scores = (q * (1 / math.sqrt(C))) @ k.transpose(-2, -1)
    return scores.softmax(dim=-1) @ v


def flattened_heads(q, k, v):
    q, k, v = (one.flatten(0, 1) for one in (q, k, v))
    weights = F.softmax(torch.bmm(q, k.transpose(1, 2)) / math.sqrt(C), -1)
    return torch.bmm(weights, v).reshape(N, HEADS, L, C)


def by_einsum_with_ellipsis(q, k, v):
    scores = torch.einsum("...id,...jd->...ij", q, k) / math.sqrt(C)
    return torch.einsum("... i j, ... j d -> ... i d", torch.softmax(scores, -1), v)


def by_einsum(q, k, v):
    scores = torch.einsum("b h i d, b h j d -> b h i j", q, k) / math.sqrt(C)
    return torch.einsum("bhij,bhjd->bhid", [torch.softmax(scores, -1), v])


SPELLINGS = {
    "by hand": by_hand,
    "fused": F.scaled_dot_product_attention,
    "keywords": lambda q, k, v: F.scaled_dot_product_attention(query=q, key=k, value=v, scale=C**-0.5),
    "flattened heads": flattened_heads,
    "einsum": by_einsum,
    "einsum, ellipsis": by_einsum_with_ellipsis,
    "transposed": lambda q, k, v: (
        v.transpose(-2, -1) @ ((k / math.sqrt(C)) @ q.transpose(-2, -1)).softmax(-2)
    ).transpose(-2, -1),
}


@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
@pytest.mark.parametrize("garbage", [None, torch.nan, torch.inf])
@pytest.mark.parametrize("name", SPELLINGS)
def test_hidden_tokens_are_no_keys(name, garbage, options):
    visible = seen()
    with observing(overwrite_hidden(garbage)):
        got = SPELLINGS[name](*qkv(visible, options)).whole()
    flat = visible.flatten(1)
    expected = dropping.attention(*qkv(visible, carried=False), flat)
    hidden = ~flat[:, None, :, None]
    assert torch.equal(got.is_hidden().expand(N, HEADS, L, C), hidden.expand(N, HEADS, L, C))
    torch.testing.assert_close(got.with_hidden(0.0), expected.masked_fill(hidden, 0.0))


@pytest.mark.parametrize("name", SPELLINGS)
def test_all_visible_is_plain_attention_bit_for_bit(name):
    visible = seen(1.0)
    got, expected = SPELLINGS[name](*qkv(visible)), SPELLINGS[name](*qkv(visible, carried=False))
    assert torch.equal(got.values, expected)


@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
def test_ordinary_queries_get_an_ordinary_answer(options):
    visible = seen()
    _, k, v = qkv(visible, options)
    _, plain_k, plain_v = qkv(visible, carried=False)
    q = samples.values(N, HEADS, 2, C, seed=9)
    expected = dropping.attention(q, plain_k, plain_v, visible.flatten(1))
    for name in ("by hand", "fused", "einsum"):
        got = SPELLINGS[name](q, k, v)
        assert type(got) is torch.Tensor
        torch.testing.assert_close(got, expected)
    assert bool((expected[-1] == 0).all())


@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
@pytest.mark.parametrize("kind", ["added", "fused", "fused, as tokens"])
def test_a_bias_of_scores(kind, options):
    visible = seen()
    q, k, v = qkv(visible, options)
    if kind == "added":
        got = (q @ k.transpose(-2, -1) * C**-0.5 + BIAS).softmax(-1) @ v
    elif kind == "fused":
        got = F.scaled_dot_product_attention(q, k, v, attn_mask=BIAS)
    else:
        got = F.scaled_dot_product_attention(q, k, v, q.sum(-1, keepdim=True) * 0.0 + BIAS)
    flat = visible.flatten(1)
    expected = dropping.attention(*qkv(visible, carried=False), flat, BIAS[0])
    torch.testing.assert_close(got.whole().with_hidden(0.0), expected.masked_fill(~flat[:, None, :, None], 0.0))


@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
@pytest.mark.parametrize("dtype", [torch.bool, torch.float64])
def test_a_mask_of_the_model_and_hidden_tokens(dtype, options):
    """Windows of neighbours: where all that a query may see is hidden, the answer is 0."""
    steps = torch.arange(L)
    allowed = (steps[:, None] - steps[None]).abs() <= 1
    added = torch.zeros(L, L).double().masked_fill(~allowed, -torch.inf)
    visible = seen()
    q, k, v = qkv(visible, options)
    given = allowed[None, None] if dtype == torch.bool else added[None, None]
    got = [F.scaled_dot_product_attention(q, k, v, attn_mask=given)]
    got.append((q @ k.transpose(-2, -1) * C**-0.5 + added).softmax(-1) @ v)
    plain = qkv(visible, carried=False)
    expected = torch.zeros(N, HEADS, L, C).double()
    for n in range(N):
        for i in range(L):
            both = (allowed[i] & visible[n].flatten())[None]
            one = [x[n : n + 1] for x in plain]
            expected[n, :, i] = dropping.attention(one[0][:, :, i : i + 1], one[1], one[2], both)[0, :, 0]
    for one in got:
        hidden = one.whole().is_hidden()
        torch.testing.assert_close(one.whole().with_hidden(0.0), expected.masked_fill(hidden, 0.0))


@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
def test_attention_of_channels_sums_over_visible_tokens(options):
    """Cross-covariance attention (XCiT), and linear attention."""
    visible = seen()
    plain = qkv(visible, carried=False)

    def channels(q, k, v):
        q, k = (F.normalize(one.transpose(-2, -1), dim=-1) for one in (q, k))
        return ((q @ k.transpose(-2, -1)).softmax(-1) @ v.transpose(-2, -1)).transpose(-2, -1)

    def linear(q, k, v):
        return q.softmax(-1) @ (k.softmax(-2).transpose(-2, -1) @ v)

    for function in (channels, linear):
        with observing(overwrite_hidden()):
            got = function(*qkv(visible, options)).whole()
        for n in range(N - 1):
            some = visible[n].flatten()
            expected = function(*(one[n : n + 1][:, :, some] for one in plain))[0]
            torch.testing.assert_close(got.values[n][:, some], expected)


@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_multihead_attention(batch_first, need_weights, options):
    layer = nn.MultiheadAttention(2 * C, HEADS, batch_first=batch_first).double().eval()
    visible = seen()
    x = samples.values(N, 2 * C, H, W)
    order = (0, 2, 1) if batch_first else (2, 0, 1)
    tokens = samples.activation(x, visible, options).flatten(2).permute(order)
    with observing(overwrite_hidden()):
        got, weights = layer(tokens, tokens, tokens, need_weights=need_weights)
    got = (got if batch_first else got.transpose(0, 1)).whole()
    plain = x.flatten(2).transpose(1, 2)
    for n in range(N - 1):
        some = visible[n].flatten()
        one = plain[n : n + 1, some] if batch_first else plain[n : n + 1, some].transpose(0, 1)
        expected, expected_weights = layer(one, one, one, need_weights=need_weights)
        expected = expected if batch_first else expected.transpose(0, 1)
        torch.testing.assert_close(got.values[n][some], expected[0])
        if need_weights:
            torch.testing.assert_close(weights.whole().values[n][some][:, some], expected_weights[0])
    whole = torch.ones_like(visible)
    tokens = samples.activation(x, whole).flatten(2).permute(order)
    plain = x.flatten(2).permute(order)
    torch.testing.assert_close(layer(tokens, tokens, tokens)[0].values, layer(plain, plain, plain)[0])


def test_multihead_cross_attention_with_weights_of_its_own():
    layer = nn.MultiheadAttention(C, 1, kdim=2 * C, vdim=2 * C, batch_first=True).double().eval()
    visible, q = seen(), samples.values(N, 1, 2, C)[:, 0]
    x = samples.values(N, 2 * C, H, W, seed=3)
    tokens = samples.activation(x, visible, OPTIONS[1]).flatten(2).transpose(1, 2)
    mask = torch.randn(2, L).double()
    got, _ = layer(q, tokens, tokens, attn_mask=mask, need_weights=False)
    for n in range(N - 1):
        some = visible[n].flatten()
        one = x[n].flatten(1)[:, some].T[None]
        expected, _ = layer(q[n : n + 1], one, one, attn_mask=mask[:, some])
        torch.testing.assert_close(got[n], expected[0])


def test_torch_encoder_layer_without_its_fast_path():
    layer = nn.TransformerEncoderLayer(2 * C, 2, 16, batch_first=True).double().eval()
    visible, x = seen(), samples.values(N, 2 * C, H, W)
    tokens = samples.activation(x, visible, OPTIONS[1]).flatten(2).transpose(1, 2)
    with torch.no_grad():
        got = layer(tokens).whole()
        for n in range(N - 1):
            some = visible[n].flatten()
            torch.testing.assert_close(got.values[n][some], layer(x[n].flatten(1)[:, some].T[None])[0])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), "without is_causal"),
        (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, None, 0.5), "dropout"),
        (lambda q, k, v: F.scaled_dot_product_attention(q, k, v.roll(1, 2)), "keys and values of the same tokens"),
        (lambda q, k, v: F.scaled_dot_product_attention(q, k, v.values), "keys and values of the same tokens"),
        (lambda q, k, v: F.scaled_dot_product_attention(q.mT, k.mT, v.mT), "keys and values of the same tokens"),
        (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, v.roll(1, 2) @ k.mT), "mask of other tokens"),
        (lambda q, k, v: q.mT @ k.roll(1, 2), "sums over different tokens"),
        (lambda q, k, v: q.mT @ torch.ones(L, 2).double(), "mixes positions"),
        (lambda q, k, v: torch.ones(2, L).double() @ q, "weights that belong to positions"),
        (lambda q, k, v: q @ torch.ones(C).double(), "of a vector"),
        (lambda q, k, v: torch.einsum("...id,...djd->...ij", q, k), "two operands with named dimensions"),
        (lambda q, k, v: torch.einsum("bhid->bhdi", q), "two operands with named dimensions"),
    ],
)
def test_is_refused(call, text):
    with pytest.raises(lm.errors.UnsupportedOperatorError, match=text):
        call(*qkv(seen()))


@pytest.mark.parametrize("options", [{"add_zero_attn": True}, {"add_bias_kv": True}])
def test_unusual_multihead_attention_is_refused(options):
    layer = nn.MultiheadAttention(2 * C, 2, **options).double().eval()
    tokens = samples.activation(samples.values(N, 2 * C, H, W), seen()).flatten(2).permute(2, 0, 1)
    assert isinstance(tokens, MaskedTokens)
    with pytest.raises(lm.errors.UnsupportedOperatorError, match="multi_head_attention_forward is masked for"):
        layer(tokens, tokens, tokens)
