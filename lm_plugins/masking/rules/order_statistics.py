"""Order statistics of tokens: the largest, the k largest, the median, quantiles. Of pooled tokens, the visible ones count."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.registry import function_name, register_rule, spellings
from lm_plugins.masking.rules.along_channels import along_channels
from lm_plugins.masking.rules.token_reductions import Pooling, pooling_over
from lm_plugins.masking.tokens import MaskedTokens

__all__: list[str] = []


def _lowest(values: Tensor, sign: int) -> float:
    """What never wins: below (1) or above (-1) everything."""
    if values.is_floating_point():
        return -sign * torch.inf
    if values.dtype == torch.bool:
        return float(sign < 0)
    limits = torch.iinfo(values.dtype)
    return limits.min if sign > 0 else limits.max


def _pooling(function: Callable[..., Any], input: Any, dim: Any, keepdim: bool) -> Pooling:
    """As `pooling_over`, of all tokens: what names one of them by its place counts dropped ones as well."""
    whole = input.whole() if isinstance(input, MaskedTokens) else input
    return pooling_over(function, whole, dim, keepdim)


def _is_over_channels(input: Any, dim: Any) -> bool:
    return isinstance(input, MaskedTokens) and isinstance(dim, int) and input.is_channels(dim)


# ---- the largest and the smallest ----------------------------------------------------------------------------------------


def _extremum(function: Callable[..., Any], of_two: Callable[..., Any], sign: int) -> Callable[..., Any]:
    def rule(input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
        """Take the larger or smaller of two, or of the visible tokens or channels, with the index; of no token, 0."""
        other = dim if isinstance(dim, Tensor) else other
        if other is not None:
            return of_two(input, other)
        if _is_over_channels(input, dim):
            return along_channels(function, input, dim, lambda values: function(values, dim, keepdim), keepdim)
        pooling = _pooling(function, input, dim, keepdim)
        hidden = pooling.hidden
        if dim is None:
            return (torch.amax if sign > 0 else torch.amin)(input)
        values = pooling.values
        if hidden is not None:
            values = values.masked_fill(hidden, _lowest(values, sign))
        found = function(values, dim, keepdim)
        if hidden is not None:
            empty = pooling.counts(keepdim) == 0
            found = type(found)([one.masked_fill(empty, 0) for one in found])
        return type(found)([pooling.result(one) for one in found])

    return rule


for _name, _of_two, _sign in (("max", torch.maximum, 1), ("min", torch.minimum, -1)):
    for _function in spellings(_name):
        register_rule(_function, tokens=True)(_extremum(_function, _of_two, _sign))


def _place_of_extremum(function: Callable[..., Any], sign: int) -> Callable[..., Any]:
    def rule(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
        """Tell which channel, or which visible token, is the largest or smallest; of no token, the first."""
        if _is_over_channels(input, dim):
            return along_channels(function, input, dim, lambda values: function(values, dim, keepdim), keepdim)
        if dim is None:
            raise UnsupportedOperatorError(f"{function_name(function)} of {input!r} without dim")
        pooling = _pooling(function, input, dim, keepdim)
        hidden = pooling.hidden
        values = pooling.values if hidden is None else pooling.values.masked_fill(hidden, _lowest(pooling.values, sign))
        result = function(values, dim, keepdim)
        if hidden is not None:
            result = result.masked_fill(pooling.counts(keepdim) == 0, 0)
        return pooling.result(result)

    return rule


for _name, _sign in (("argmax", 1), ("argmin", -1)):
    for _function in spellings(_name):
        register_rule(_function, tokens=True)(_place_of_extremum(_function, _sign))


# ---- the k largest -------------------------------------------------------------------------------------------------------


def _topk(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
        """Take the k largest channels, or visible tokens.

        Hidden tokens come last. Where fewer than k are visible, the value of the last visible one stands for the rest
        (0 if there is none), and their indices are those of hidden tokens.
        """
        if _is_over_channels(input, dim):
            return along_channels(function, input, dim, lambda values: function(values, k, dim, largest, sorted), True)
        pooling = _pooling(function, input, dim, True)
        hidden = pooling.hidden
        if hidden is None:
            found = function(pooling.values, k, dim, largest, sorted)
            return type(found)([_of_queries(pooling.input, one, dim) for one in found])
        values = pooling.values.masked_fill(hidden, _lowest(pooling.values, 1 if largest else -1))
        found = function(values, k, dim, largest, True)
        count = pooling.counts(True)  # along dim, one for each result
        places = torch.arange(k, device=count.device).reshape(
            [-1 if i == dim % values.ndim else 1 for i in range(values.ndim)]
        )
        last = torch.minimum(places, count - 1).clamp(min=0).expand(found.values.shape)
        of_visible = found.values.gather(dim, last).masked_fill(count == 0, 0)
        return type(found)([_of_queries(pooling.input, one, dim) for one in (of_visible, found.indices)])

    return rule


def _of_queries(input: MaskedTokens, values: Tensor, dim: int) -> Any:
    """The result, with the positions that do not vary along `dim`: those of the queries, of scores."""
    kept = tuple(one for one in input.positions if not one.varies(dim))
    return MaskedTokens(values, kept).simplified() if kept else values


for _function in spellings("topk"):
    register_rule(_function, tokens=True)(_topk(_function))


@register_rule(*spellings("gather"), tokens=True)
def gather(input: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
    """Take tokens or channels by an index. A token keeps its position: a hidden one stays hidden."""
    if not isinstance(input, MaskedTokens) or isinstance(index, MaskedTokens):
        raise UnsupportedOperatorError("torch.gather of tokens is masked with an ordinary tensor as index only")
    input = input.whole()
    on_host = index.cpu()
    result = torch.gather(input.values, dim, index)
    kept = []
    for one in input.positions:
        if not one.varies(dim) and any(one.varies(i) and index.shape[i] != input.shape[i] for i in range(input.ndim)):
            raise UnsupportedOperatorError(f"torch.gather of {input!r} by an index {tuple(index.shape)}")
        kept.append(one.laid_out(None, input.shape, lambda numbers: numbers.gather(dim, on_host)))
    return MaskedTokens(result, tuple(kept)).simplified()


# ---- medians and quantiles -----------------------------------------------------------------------------------------------


def _median(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
        """Take the median of channels, or of the visible tokens; 0 of none."""
        if dim is None:
            raise UnsupportedOperatorError(f"{function_name(function)} of {input!r} without dim")
        if _is_over_channels(input, dim):
            return along_channels(function, input, dim, lambda values: function(values, dim, keepdim), keepdim)
        pooling = _pooling(function, input, dim, keepdim)
        hidden = pooling.hidden
        if hidden is None:
            found = function(pooling.values, dim, keepdim)
        else:
            found = torch.nanmedian(pooling.values.masked_fill(hidden, torch.nan), dim, keepdim)
            empty = pooling.counts(keepdim) == 0
            found = torch.return_types.median((found[0].masked_fill(empty, 0), found[1].masked_fill(empty, 0)))
        return type(found)([pooling.result(one) for one in found])

    return rule


for _function in spellings("median", "nanmedian"):
    register_rule(_function, tokens=True)(_median(_function))


def _quantile(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(
        input: Any, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
    ) -> Any:
        """Take a quantile of channels, or of the visible tokens; 0 of none."""
        if dim is None or not isinstance(q, (int, float)):
            raise UnsupportedOperatorError(f"{function_name(function)} is masked for one quantile along one dimension")

        def call(values: Tensor) -> Any:
            return function(values, q, dim, keepdim, interpolation=interpolation)

        if _is_over_channels(input, dim):
            return along_channels(function, input, dim, call, keepdim)
        pooling = _pooling(function, input, dim, keepdim)
        hidden = pooling.hidden
        if hidden is None:
            return pooling.result(call(pooling.values))
        values = pooling.values.masked_fill(hidden, torch.nan)
        result = torch.nanquantile(values, q, dim, keepdim, interpolation=interpolation)
        return pooling.result(result.masked_fill(pooling.counts(keepdim) == 0, 0.0))

    return rule


for _function in spellings("quantile", "nanquantile"):
    register_rule(_function, tokens=True)(_quantile(_function))
