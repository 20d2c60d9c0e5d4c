"""Reductions of tokens: over the visible ones of an image, or of every block, row or column of the map.

What a block is reduced to belongs to the block: it is hidden if nothing of the block is visible. Maps come here where they
are reduced over one of their sides.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.coarse_positions import coarser, grouped
from lm_plugins.masking.registry import function_name, register_rule, spellings
from lm_plugins.masking.rules.pooling import precision
from lm_plugins.masking.rules.reductions import spread_and_mean
from lm_plugins.masking.token_positions import TokenPositions
from lm_plugins.masking.tokens import MaskedTokens, positions_without

__all__ = ["Pooling", "pooling_over"]


class Pooling(NamedTuple):
    """What a reduction pools.

    Args:
        input: The tokens, all of them if it does not pool all of an image.
        dims: The dimensions, increasing.
        over: The positions that are pooled.
        kept: Those of the result.
    """

    input: MaskedTokens
    dims: list[int]
    over: tuple[TokenPositions, ...]
    kept: tuple[TokenPositions, ...]

    @property
    def hidden(self) -> Tensor | None:
        """Bool that broadcasts to the values: what does not count. None if everything does."""
        return None if all(one.is_full for one in self.over) else self.input.is_hidden(self.over)

    @property
    def values(self) -> Tensor:
        """The values, of all that is pooled."""
        return self.input.values

    def counts(self, keepdim: bool) -> Tensor:
        """How many values count for each result, int64; where something is hidden."""
        hidden = self.input.is_hidden(self.over)
        sizes = [self.values.shape[i] if i in self.dims else n for i, n in enumerate(hidden.shape)]
        return (~hidden.expand(sizes)).sum(self.dims, keepdim=keepdim)

    def result(self, values: Tensor) -> Any:
        """The result, with its positions."""
        return MaskedTokens(values, self.kept).simplified() if self.kept else values


def pooling_over(function: Callable[..., Any], input: Any, dim: Any, keepdim: bool) -> Pooling:
    """Find out what a reduction pools.

    Args:
        function: For errors.
        input: Tokens.
        dim: One dimension, several, or None for all.
        keepdim: Whether they stay, with one entry.

    Raises:
        UnsupportedOperatorError: Tokens of several images are pooled together.
    """
    if not isinstance(input, MaskedTokens):
        raise UnsupportedOperatorError(
            f"{function_name(function)} is masked with an activation as its first argument only"
        )
    dims = list(range(input.ndim)) if dim is None or dim == () else [dim] if isinstance(dim, int) else list(dim)
    dims = sorted(one % input.ndim for one in dims)
    over = tuple(one for one in input.positions if any(one.varies(i) for i in dims))
    if not all(_is_of_images(one, dims) for one in over):
        input = input.whole()
        over = tuple(one for one in input.positions if any(one.varies(i) for i in dims))
    kept = tuple(positions_without(one, dims, keepdim) for one in input.positions if one not in over)
    for one in over:
        if _is_of_images(one, dims):
            continue
        blocks = coarser(one, dims, keepdim) or (None if keepdim else grouped(one, dims))
        if blocks is not None:
            kept = (*kept, blocks)
        elif not keepdim or not _leaves_images(one, dims):
            raise UnsupportedOperatorError(
                f"{function_name(function)} over the dimensions {dims} of {input!r}: it is masked over tokens of one image, "
                "and over channels"
            )
    return Pooling(input, dims, over, kept)


def _is_of_images(positions: TokenPositions, dims: Sequence[int]) -> bool:
    """Whether all tokens of an image are pooled together, for each image on its own."""
    left = [size for dim, size in enumerate(positions.numbers.shape) if dim not in dims and size > 1]
    return left in ([], [positions.map_shape[0]]) and not (not left and positions.map_shape[0] > 1)


def _leaves_images(positions: TokenPositions, dims: Sequence[int]) -> bool:
    return positions.map_shape[0] == 1 or any(
        size > 1 for dim, size in enumerate(positions.numbers.shape) if dim not in dims
    )


# ---- means, sums and extrema ---------------------------------------------------------------------------------------------


def _reduction(function: Callable[..., Any], hidden_value: float) -> Callable[..., Any]:
    def rule(input: Any, dim: int | Sequence[int] | None = None, keepdim: bool = False, **kwargs: Any) -> Any:
        """Reduce channels, or the visible tokens; of no token, the result is 0."""
        pooling = pooling_over(function, input, dim, keepdim)
        hidden = pooling.hidden
        values = pooling.values if hidden is None else pooling.values.masked_fill(hidden, hidden_value)
        result = function(values, pooling.dims, keepdim=keepdim, **kwargs)
        if hidden is not None:
            count = pooling.counts(keepdim)
            if hidden_value:  # an extremum of nothing is 0, not infinity
                result = result.masked_fill(count == 0, 0.0)
            elif function.__name__ == "mean" and pooling.input.options.global_average == "visible":
                total = torch.Size(pooling.values.shape[i] for i in pooling.dims).numel()
                correction = total / count.clamp(min=1).to(precision(result))
                result = (result * correction).to(result.dtype)
        return pooling.result(result)

    return rule


for _names, _hidden_value in (
    ("mean", 0.0), ("sum", 0.0), ("amax", -torch.inf), ("amin", torch.inf), ("logsumexp", -torch.inf)
):  # fmt: skip
    for _function in spellings(_names):
        register_rule(_function, tokens=True)(_reduction(_function, _hidden_value))


def _single(value: Any) -> Any:
    return value[0] if isinstance(value, (tuple, list)) else value


@register_rule(*spellings("adaptive_avg_pool1d"), tokens=True)
def adaptive_avg_pool1d(input: MaskedTokens, output_size: Any) -> Any:
    """The mean of the visible tokens, where all are pooled to one."""
    if _single(output_size) != 1:
        raise UnsupportedOperatorError("adaptive_avg_pool1d of tokens is masked for an output of size 1 only")
    return torch.mean(input, -1, keepdim=True)


@register_rule(F.avg_pool1d, tokens=True)
def avg_pool1d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """The mean of the visible tokens of each group, where groups follow one another without overlap and without a rest.

    Groups run from the end of a row of the map to the start of the next, as in Next-ViT: they are sets of tokens, each as
    visible as anything in it. Windows that overlap would need positions between those of the map, and are refused.
    """
    kernel, step = _single(kernel_size), _single(kernel_size if stride in (None, (), []) else stride)
    is_tokens = isinstance(input, MaskedTokens) and input.ndim == 3 and not input.is_channels(2)
    if not is_tokens or kernel != step or _single(padding) != 0 or input.shape[-1] % kernel:
        raise UnsupportedOperatorError(
            f"torch.nn.functional.avg_pool1d of {input!r}: it is masked over tokens (N, C, L) in groups that neither overlap "
            "nor leave a rest (kernel_size == stride, no padding, L a multiple of it)"
        )
    input = input.whole()
    groups = input.unflatten(-1, (-1, kernel))
    if not all(one.is_full for one in input.positions):
        return torch.mean(groups, -1)
    # By torch's own kernel, so that a whole image gives the plain model's bits.
    pooled = F.avg_pool1d(input.values, kernel_size, stride, padding, ceil_mode, count_include_pad)
    groups = (
        groups if isinstance(groups, MaskedTokens) else groups.as_tokens()
    )  # a map, where each group is one of its rows
    return pooling_over(F.avg_pool1d, groups, -1, False).result(pooled)


# ---- norms, products and counts ------------------------------------------------------------------------------------------


def _norm(function: Callable[..., Any], order: Any, input: Any, dim: Any, keepdim: bool, dtype: Any) -> Any:
    if order == "nuc" or (isinstance(order, (int, float)) and order < 0):
        raise UnsupportedOperatorError(
            f"{function_name(function)} is masked for vector norms of order 0 and above only"
        )
    pooling = pooling_over(function, input, dim, keepdim)
    hidden = pooling.hidden
    values = pooling.values if hidden is None else pooling.values.masked_fill(hidden, 0.0)
    dims = pooling.dims if len(pooling.dims) > 1 else pooling.dims[0]
    return pooling.result(function(values, order, dims, keepdim, dtype=dtype))


@register_rule(torch.norm, torch.Tensor.norm, tokens=True)
def norm(
    input: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, out: None = None, dtype: Any = None
) -> Any:
    """Take the norm of channels, or of the visible tokens."""
    return _norm(torch.norm, p, input, dim, keepdim, dtype)


@register_rule(torch.linalg.vector_norm, tokens=True)
def vector_norm(x: Any, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Take the norm of channels, or of the visible tokens."""
    return _norm(torch.linalg.vector_norm, ord, x, dim, keepdim, dtype)


def _counting(function: Callable[..., Any], hidden_value: Any) -> Callable[..., Any]:
    def rule(input: Any, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
        """Multiply, count or ask channels or the visible tokens."""
        pooling = pooling_over(function, input, dim, keepdim)
        hidden = pooling.hidden
        values = pooling.values if hidden is None else pooling.values.masked_fill(hidden, hidden_value)
        chosen = pooling.dims[0] if len(pooling.dims) == 1 else pooling.dims
        named = {} if function.__name__ == "count_nonzero" else {"keepdim": keepdim}
        return pooling.result(function(values, chosen, **named, **kwargs))

    return rule


for _name, _hidden_value in (("prod", 1), ("all", True), ("any", False), ("count_nonzero", 0)):
    for _function in spellings(_name):
        register_rule(_function, tokens=True)(_counting(_function, _hidden_value))


# ---- variance ------------------------------------------------------------------------------------------------------------


def _variance(function: Callable[..., Any]) -> Callable[..., Any]:
    is_std, with_mean = function.__name__.startswith("std"), function.__name__.endswith("_mean")

    def rule(
        input: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
    ) -> Any:
        """Take the variance or standard deviation of channels, or of the visible tokens (0 if there are too few)."""
        if isinstance(dim, bool):  # torch.var(input, unbiased)
            unbiased, dim = dim, None
        correction = float(unbiased) if correction is None else correction
        pooling = pooling_over(function, input, dim, keepdim)
        hidden, dims = pooling.hidden, pooling.dims
        if hidden is None:
            plain = function(pooling.values, dims, correction=correction, keepdim=keepdim)
            return tuple(pooling.result(one) for one in plain) if with_mean else pooling.result(plain)
        dtype = precision(pooling.values)
        values = pooling.values.to(dtype).masked_fill(hidden, 0.0)
        spread, mean = spread_and_mean(values, hidden, pooling.counts(True), dims, correction, is_std)
        both = [(one if keepdim else one.squeeze(tuple(dims))).to(pooling.values.dtype) for one in (spread, mean)]
        return tuple(pooling.result(one) for one in both) if with_mean else pooling.result(both[0])

    return rule


for _function in spellings("var", "std", "var_mean", "std_mean"):
    register_rule(_function, tokens=True)(_variance(_function))
