"""Attention: hidden tokens are no keys. Softmax, products over tokens, and torch's fused attention."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.coarse_positions import without_coarser
from lm_plugins.masking.registry import function_name, register_rule, spellings
from lm_plugins.masking.rules.patch_merging import with_channels
from lm_plugins.masking.token_positions import TokenPositions
from lm_plugins.masking.tokens import MaskedTokens, gathered

__all__: list[str] = []

_LETTERS = "abcdefghijklmnopqrstuvw"


def _softmax(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: MaskedTokens, dim: int | None = None, *args: Any, **kwargs: Any) -> Any:
        """Softmax over channels, or over the visible tokens: hidden ones get a share of exactly 0."""
        if dim is None:
            raise UnsupportedOperatorError(f"{function_name(function)} without dim")
        over = input.varying(dim)
        if all(one.is_full for one in over):
            return input.like(function(input.values, dim, *args, **kwargs)).simplified()
        hidden = input.is_hidden(over)
        values = input.values.masked_fill(hidden, -torch.inf)
        # Of nothing but hidden tokens, and others that the model masks, infinities would make NaN.
        empty = (values == -torch.inf).all(dim, keepdim=True)
        return input.like(
            function(values.masked_fill(empty, 0.0), dim, *args, **kwargs).masked_fill(hidden | empty, 0.0)
        )

    return rule


for _function in spellings("softmax"):
    register_rule(_function, tokens=True)(_softmax(_function))


def _log_softmax(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: MaskedTokens, dim: int | None = None, *args: Any, **kwargs: Any) -> Any:
        """Logarithm of the softmax over channels, or over the visible tokens; what is hidden stays so."""
        if dim is None:
            raise UnsupportedOperatorError(f"{function_name(function)} without dim")
        over = input.varying(dim)
        values = input.values
        if not all(one.is_full for one in over):
            values = values.masked_fill(input.is_hidden(over), -torch.inf)
            values = values.masked_fill((values == -torch.inf).all(dim, keepdim=True), 0.0)
        return input.like(function(values, dim, *args, **kwargs)).simplified()

    return rule


for _function in spellings("log_softmax"):
    register_rule(_function, tokens=True)(_log_softmax(_function))


# ---- products --------------------------------------------------------------------------------------------------------


def contracted(
    name: str,
    operands: tuple[Any, Any],
    axes: tuple[str, str],
    target: str,
    product: Callable[[Tensor, Tensor], Tensor],
) -> Any:
    """A product of two operands, summed over the dimensions that it leaves out: over tokens, of the visible ones.

    Args:
        name: The torch function, for errors.
        operands: At least one of them `MaskedTokens`.
        axes: A letter for each dimension of each operand.
        target: The letters of the result; those missing are summed over.
        product: The computation itself.
    """
    summed = set(axes[0] + axes[1]) - set(target)
    every = "".join(sorted(set(axes[0] + axes[1])))
    if len({one.is_dropped for one in operands if isinstance(one, MaskedTokens)}) > 1:
        operands = tuple(one.whole() if isinstance(one, MaskedTokens) else one for one in operands)  # type: ignore[assignment]
    values, kept = [], []
    gone: list[list[TokenPositions]] = []
    for one, letters in zip(operands, axes, strict=True):
        if not isinstance(one, MaskedTokens):
            values.append(one)
            gone.append([])
            continue
        over = tuple(
            positions
            for positions in one.positions
            if any(positions.varies(letters.index(x)) for x in summed & set(letters))
        )
        values.append(one.with_hidden(0.0, over) if over else one.values)
        gone.append([positions.aligned(letters, every) for positions in over])
        kept += [positions.aligned(letters, target) for positions in one.positions if positions not in over]
    if [] in gone and gone != [[], []]:
        raise UnsupportedOperatorError(
            f"{name} of {_described(operands[0])} and {_described(operands[1])} sums over tokens with weights that belong to "
            "positions, hidden and visible ones"
        )
    if len(gone[0]) != len(gone[1]) or not all(any(a.matches(b) for b in gone[1]) for a in gone[0]):
        raise UnsupportedOperatorError(
            f"{name} of {_described(operands[0])} and {_described(operands[1])} sums over different tokens"
        )
    result = product(values[0], values[1])
    distinct: list[TokenPositions] = []
    for positions in kept:
        if not any(positions.matches(one) for one in distinct):
            distinct.append(positions)
    fine = without_coarser(distinct)
    if fine is None:
        raise UnsupportedOperatorError(
            f"{name} of tokens and of blocks of the map, of which nothing visible is in common"
        )
    return MaskedTokens(result, fine).simplified() if fine else result


def _described(value: Any) -> str:
    return repr(value) if isinstance(value, Carrier) else f"a tensor {tuple(value.shape)}"


def _matmul(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, other: Any = None, **kwargs: Any) -> Any:
        """Multiply matrices of tokens: scores of queries and keys, sums over keys, sums over tokens."""
        other = next(iter(kwargs.values())) if other is None else other
        reverse = function.__name__ == "__rmatmul__"
        first, second = (other, input) if reverse else (input, other)
        if isinstance(first, MaskedTokens) and not isinstance(second, Carrier) and second.ndim == 2:
            first = with_channels(function_name(function), first, [-1])  # as a linear layer
        if first.ndim < 2 or second.ndim < 2:
            raise UnsupportedOperatorError(f"{function_name(function)} of a vector with tokens")
        batch = _LETTERS[: max(first.ndim, second.ndim) - 2]
        axes = (batch[len(batch) - first.ndim + 2 :] + "xy", batch[len(batch) - second.ndim + 2 :] + "yz")
        return contracted(function_name(function), (first, second), axes, batch + "xz", torch.matmul)

    return rule


for _function in (*spellings("matmul", "bmm", "mm"), torch.Tensor.__matmul__, torch.Tensor.__rmatmul__):
    register_rule(_function, tokens=True)(_matmul(_function))


@register_rule(*(one for one in spellings("baddbmm") if not one.__name__.endswith("_")), tokens=True)
def baddbmm(input: Any, batch1: Any, batch2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """Multiply matrices of tokens, and add a bias that belongs to no position."""
    if isinstance(input, MaskedTokens):
        raise UnsupportedOperatorError("torch.baddbmm is masked with an ordinary tensor as the one that is added to")
    operands = tuple(one.whole() if isinstance(one, MaskedTokens) else one for one in (batch1, batch2))

    def product(first: Tensor, second: Tensor) -> Tensor:
        return torch.baddbmm(input, first, second, beta=beta, alpha=alpha)

    return contracted("torch.baddbmm", (operands[0], operands[1]), ("axy", "ayz"), "axz", product)


@register_rule(torch.cdist, tokens=True)
def cdist(x1: Any, x2: Any, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary") -> Any:
    """Take the distance of the channels of every two tokens."""
    batch = _LETTERS[: max(x1.ndim, x2.ndim) - 2]
    axes = (batch[len(batch) - x1.ndim + 2 :] + "xy", batch[len(batch) - x2.ndim + 2 :] + "zy")

    def distance(first: Tensor, second: Tensor) -> Tensor:
        return torch.cdist(first, second, p, compute_mode)

    return contracted("torch.cdist", (x1, x2), axes, batch + "xz", distance)


def _spelled_out(equation: str, operands: tuple[Any, ...]) -> str:
    """An equation with a letter in place of every dimension for which an ellipsis stands."""
    axes = equation.partition("->")[0].split(",")
    if "..." not in equation or len(axes) != len(operands):
        return equation
    counts = [
        one.ndim - len(letters.replace("...", "")) if "..." in letters else 0
        for one, letters in zip(operands, axes, strict=True)
    ]
    if len({count for count, letters in zip(counts, axes, strict=True) if "..." in letters}) > 1:
        return equation  # what is missing in one of them is broadcast
    free = [letter for letter in _LETTERS if letter not in equation]
    return equation.replace("...", "".join(free[: max(counts)]))


@register_rule(torch.einsum, tokens=True)
def einsum(equation: str, *operands: Any) -> Any:
    """Multiply two operands and sum, over tokens of the visible ones."""
    pair = operands[0] if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    left, arrow, target = _spelled_out(equation.replace(" ", ""), tuple(pair)).partition("->")
    axes = left.split(",")
    is_simple = len(axes) == 2 and arrow and "." not in left + target and all(len(set(one)) == len(one) for one in axes)
    if not is_simple:
        raise UnsupportedOperatorError(
            f"torch.einsum({equation!r}) is masked for two operands with named dimensions only"
        )
    first, second = axes
    return contracted("torch.einsum", tuple(pair), (first, second), target, lambda a, b: torch.einsum(equation, a, b))


# ---- fused -----------------------------------------------------------------------------------------------------------


@register_rule(F.scaled_dot_product_attention, tokens=True)
def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attend to visible keys; where there is none, the result is 0."""
    if is_causal or dropout_p:
        raise UnsupportedOperatorError(
            "torch.nn.functional.scaled_dot_product_attention is masked without is_causal and dropout only"
        )
    keys = key.varying(-2) if isinstance(key, MaskedTokens) else ()
    of_values = value.varying(-2) if isinstance(value, MaskedTokens) else ()
    mixes = any(isinstance(one, MaskedTokens) and one.varying(-1) for one in (query, key, value))
    if mixes or len(keys) != len(of_values) or len(keys) > 1 or (keys and not keys[0].matches(of_values[0])):
        raise UnsupportedOperatorError(
            "torch.nn.functional.scaled_dot_product_attention is masked for keys and values of the same tokens only; got "
            f"query {_described(query)}, key {_described(key)}, value {_described(value)}"
        )
    positions = query.positions if isinstance(query, MaskedTokens) else ()
    if attn_mask is not None:
        attn_mask = _bias(attn_mask, positions, keys)
    k, v = (
        one.with_hidden(0.0, keys) if isinstance(one, MaskedTokens) and keys else _values(one) for one in (key, value)
    )
    empty = None
    if keys and not keys[0].is_full:
        hidden = keys[0].hidden.transpose(-2, -1)  # (..., 1, S)
        attn_mask, empty = _with_keys(attn_mask, ~hidden)
    result = F.scaled_dot_product_attention(
        _values(query), k, v, attn_mask, scale=scale, **({"enable_gqa": True} if enable_gqa else {})
    )
    result = result if empty is None else result.masked_fill(empty, 0.0)
    return MaskedTokens(result, positions).simplified() if positions else result


def _with_keys(attn_mask: Tensor | None, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """The mask that leaves `allowed` keys only. Queries (..., L, 1) with none left get all, and 0 later."""
    if attn_mask is None or attn_mask.dtype == torch.bool:
        both = allowed if attn_mask is None else attn_mask & allowed
        empty = ~both.any(-1, keepdim=True)
        return both | empty, empty
    both = torch.where(allowed, attn_mask, -torch.inf)
    empty = (both == -torch.inf).all(-1, keepdim=True)
    return both.masked_fill(empty, 0.0), empty


def _values(one: Any) -> Tensor:
    result: Tensor = one.values if isinstance(one, Carrier) else one
    return result


def _transposed(positions: TokenPositions) -> TokenPositions:
    """The positions of keys as those of the columns of scores."""
    whole = None if positions.whole is None else _transposed(positions.whole)
    return positions.once(
        "transposed", lambda: TokenPositions(positions.numbers.transpose(-2, -1), positions.visibility, whole)
    )


def _bias(bias: Any, queries: tuple[TokenPositions, ...], keys: tuple[TokenPositions, ...]) -> Tensor:
    """The values of a bias of scores, of the kept queries and keys alone."""
    of_scores = (*queries, *(_transposed(one) for one in keys))
    if isinstance(bias, MaskedTokens):
        bias = bias.whole()
        if not all(any((known.whole or known).matches(one) for known in of_scores) for one in bias.positions):
            raise UnsupportedOperatorError(
                "torch.nn.functional.scaled_dot_product_attention with a mask of other tokens than queries and keys"
            )
        bias = bias.values
    for one in of_scores:
        bias = bias if one.whole is None else gathered(bias, one)
    return bias  # type: ignore[no-any-return]


@register_rule(F.multi_head_attention_forward, tokens=True)
def multi_head_attention_forward(
    query: Any,
    key: Any,
    value: Any,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Any, Any]:
    """The attention of torch.nn.MultiheadAttention, of its parts, each with its own rule."""
    unusual = (bias_k, bias_v, key_padding_mask, static_k, static_v)
    if (
        any(one is not None for one in unusual)
        or add_zero_attn
        or is_causal
        or query.ndim != 3
        or (training and dropout_p)
    ):
        raise UnsupportedOperatorError(
            "torch.nn.functional.multi_head_attention_forward is masked for (L, N, C) without bias_k, bias_v, zero "
            "attention, padding masks, causal masks, static keys and dropout only"
        )
    separate = (q_proj_weight, k_proj_weight, v_proj_weight)
    weights: Any = separate if in_proj_weight is None else in_proj_weight.chunk(3)
    biases: Any = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    if query is key and key is value and not use_separate_proj_weight:
        projected = F.linear(query, in_proj_weight, in_proj_bias).chunk(3, -1)  # type: ignore[arg-type]
    else:
        projected = tuple(F.linear(*one) for one in zip((query, key, value), weights, biases, strict=True))
    # (L, N, C) to (N, heads, L, C / heads)
    q, k, v = (one.reshape(*one.shape[:2], num_heads, -1).permute(1, 2, 0, 3) for one in projected)
    if attn_mask is not None and attn_mask.ndim == 3:
        attn_mask = attn_mask.reshape(-1, num_heads, *attn_mask.shape[1:])
    if not need_weights:
        result, weight = F.scaled_dot_product_attention(q, k, v, attn_mask), None
    else:
        scores = (q * math.sqrt(1.0 / q.shape[-1])) @ k.transpose(-2, -1)
        weight = F.softmax(scores if attn_mask is None else scores + attn_mask, dim=-1)
        result = weight @ v
        weight = weight.mean(1) if average_attn_weights else weight
    result = result.permute(2, 0, 1, 3).flatten(2)
    return F.linear(result, out_proj_weight, out_proj_bias), weight
