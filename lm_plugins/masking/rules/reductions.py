"""Reductions: means, sums, extrema, variances and norms of the visible positions; the way out of the spatial world."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import NCHW, MaskedActivation
from lm_plugins.masking.registry import function_name, register_rule, spellings
from lm_plugins.masking.rules.pooling import precision

__all__ = ["per_image", "reduced_dims", "spread_and_mean"]


def reduced_dims(function: Callable[..., Any], input: MaskedActivation, dim: Any) -> tuple[list[int], bool]:
    """The dimensions to reduce, and whether they are the whole of space (True) or channels only (False)."""
    dims = list(range(input.ndim)) if dim is None or dim == () else [dim] if isinstance(dim, int) else list(dim)
    dims = [one % input.ndim for one in dims]
    letters = {input.dims[one] for one in dims}
    sides = {one for one in input.dims if one in "HhWw"}
    if "N" in letters or "N" not in input.dims or letters & sides not in (set(), sides):
        raise UnsupportedOperatorError(
            f"{function_name(function)} over the dimensions {dims} of {input!r}: reductions are masked over space (H and "
            "W together, channels with them or not) or over channels"
        )
    return dims, "H" in letters


def per_image(region: Tensor, input: MaskedActivation, dims: Sequence[int], keepdim: bool) -> Tensor:
    """Reshape one number for each image so that it broadcasts to `input`, reduced over `dims`."""
    letters = [one for i, one in enumerate(input.dims) if keepdim or i not in dims]
    return region.reshape([-1 if one == "N" else 1 for one in letters])


def _reduction(function: Callable[..., Any], hidden_value: float) -> Callable[..., Any]:
    def rule(
        input: MaskedActivation, dim: int | Sequence[int] | None = None, keepdim: bool = False, **kwargs: Any
    ) -> MaskedActivation | Tensor:
        """Reduce the visible positions of a map to an ordinary tensor, or channels to fewer."""
        dims, over_space = reduced_dims(function, input, dim)
        if not over_space:
            letters = tuple(one for i, one in enumerate(input.dims) if keepdim or i not in dims)
            values = function(input.values, dims if len(dims) > 1 else dims[0], keepdim=keepdim, **kwargs)
            return MaskedActivation(values, input.visibility, letters)
        region = input.visibility.visible
        if (
            function.__name__ in ("mean", "sum")
            and input.dims == NCHW
            and sorted(dims) == [2, 3]
            and not region.is_full
            and region.inside is None  # constants around the image count, as in the plain model
        ):
            result = _of_visible(input, function.__name__ == "mean", keepdim, kwargs.get("dtype"))
        else:
            result = function(input.with_hidden(hidden_value, region), dims, keepdim=keepdim, **kwargs)
        if region.is_full:
            return result
        if hidden_value:  # an extremum of nothing is 0, not infinity
            return result.masked_fill(per_image(region.any_in_adaptive((1, 1)).hidden, input, dims, keepdim), 0.0)
        if function.__name__ == "mean" and input.visibility.options.global_average == "visible":
            correction = region.mean_correction_adaptive((1, 1), precision(result))
            return (result * per_image(correction, input, dims, keepdim)).to(result.dtype)
        return result

    return rule


def _of_visible(input: MaskedActivation, mean: bool, keepdim: bool, dtype: torch.dtype | None) -> Tensor:
    """Sum over the visible positions of space, divided by the number of all for a mean."""
    total = input.visible_sum().to(dtype or input.dtype)
    result = total / (input.shape[2] * input.shape[3]) if mean else total
    return result[:, :, None, None] if keepdim else result


for _names, _hidden_value in (("mean", 0.0), ("sum", 0.0), ("amax", -torch.inf), ("amin", torch.inf)):
    for _function in spellings(_names):
        register_rule(_function)(_reduction(_function, _hidden_value))


# ---- max and min, each three functions under one name ----------------------------------------------------------------


def _extremum(function: Callable[..., Any], of_two: Callable[..., Any]) -> Callable[..., Any]:
    kind = getattr(torch.return_types, function.__name__)

    def rule(
        input: Any, dim: Any = None, keepdim: bool = False, *, other: MaskedActivation | Tensor | None = None
    ) -> Any:
        """Take the larger or smaller of two at every position, or of the channels of each, with their indices."""
        other = dim if isinstance(dim, Tensor) else other
        if other is not None:
            return of_two(input, other)
        if not isinstance(dim, int) or input.dims[dim] != "C":
            raise UnsupportedOperatorError(
                f"{function_name(function)} along dim={dim} of {input!r}: it is masked along channels, and for two "
                "activations; over space use torch.amax or torch.amin"
            )
        letters = tuple(one for i, one in enumerate(input.dims) if keepdim or i != dim % input.ndim)
        found = function(input.values, dim, keepdim)
        # The indices are as hidden as the values.
        return kind([MaskedActivation(one, input.visibility, letters) for one in found])

    return rule


for _name, _of_two in (("max", torch.maximum), ("min", torch.minimum)):
    for _function in spellings(_name):
        register_rule(_function)(_extremum(_function, _of_two))


@register_rule(*spellings("aminmax"))
def aminmax(input: Any, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """Take the smallest and the largest of the channels at every position, or of all visible positions."""
    dims = () if dim is None else (dim,)
    return torch.return_types.aminmax((torch.amin(input, dims, keepdim), torch.amax(input, dims, keepdim)))


# ---- statistics, such as a normalization of the model takes them -----------------------------------------------------


def _without(input: MaskedActivation, dims: Sequence[int], keepdim: bool) -> tuple[str, ...]:
    return tuple(letter for i, letter in enumerate(input.dims) if keepdim or i not in dims)


# ---- variance ------------------------------------------------------------------------------------------------------


def _variance(function: Callable[..., Any]) -> Callable[..., Any]:
    is_std, with_mean = function.__name__.startswith("std"), function.__name__.endswith("_mean")

    def rule(
        input: MaskedActivation,
        dim: bool | int | Sequence[int] | None = None,
        unbiased: bool = True,
        keepdim: bool = False,
        *,
        correction: float | None = None,
    ) -> Any:
        """Take the variance or standard deviation of the visible positions (0 if there are too few), or of channels."""
        if isinstance(dim, bool):  # torch.var(input, unbiased)
            unbiased, dim = dim, None
        correction = float(unbiased) if correction is None else correction
        dims, over_space = reduced_dims(function, input, dim)
        region = input.visibility.visible
        if not over_space or region.is_full:
            plain = function(input.values, dims, correction=correction, keepdim=keepdim)
            if over_space:
                return plain
            letters = _without(input, dims, keepdim)
            results = [MaskedActivation(one, input.visibility, letters) for one in (plain if with_mean else [plain])]
            return tuple(results) if with_mean else results[0]
        dtype = precision(input.values)
        values, hidden = input.with_hidden(0.0, region).to(dtype), input.is_hidden(region)
        channels = torch.Size(input.shape[i] for i in dims if input.dims[i] == "C").numel()
        positions = (~region.hidden).flatten(1).sum(1) * channels  # (N,)
        spread, mean = spread_and_mean(
            values, hidden, per_image(positions, input, dims, True), dims, correction, is_std
        )
        both = [(one if keepdim else one.squeeze(tuple(dims))).to(input.dtype) for one in (spread, mean)]
        return tuple(both) if with_mean else both[0]

    return rule


def spread_and_mean(
    values: Tensor, hidden: Tensor, count: Tensor, dims: Sequence[int], correction: float, is_std: bool
) -> tuple[Tensor, Tensor]:
    """The variance or standard deviation of what is not hidden, and its mean; 0 of too few values.

    Args:
        values: 0 where hidden, in a dtype that is precise enough.
        hidden: Bool that broadcasts to the values.
        count: How many values count, with the dimensions that are pooled.
        dims: Those.
        correction: As in `torch.var`.
        is_std: Whether the deviation is asked for.
    """
    mean = values.sum(list(dims), keepdim=True) / count.clamp(min=1)
    squares = (values - mean).square().masked_fill(hidden, 0.0).sum(list(dims), keepdim=True)
    # As in torch, fewer degrees of freedom than none are none; without a division by zero.
    freedom = (count - correction).to(values.dtype)
    variance = torch.where(freedom > 0, squares / freedom.clamp(min=torch.finfo(values.dtype).tiny), 0.0)
    if not is_std:
        return variance, mean
    # With the gradient 0 at 0, as torch has it.
    return torch.where(variance > 0, torch.where(variance > 0, variance, 1.0).sqrt(), 0.0), mean


for _function in spellings("var", "std", "var_mean", "std_mean"):
    register_rule(_function)(_variance(_function))


# ---- norms -----------------------------------------------------------------------------------------------------------


def _norm(
    function: Callable[..., Any], input: MaskedActivation, order: Any, dim: Any, keepdim: bool, dtype: Any
) -> Any:
    if order == "nuc" or (isinstance(order, (int, float)) and order < 0):
        raise UnsupportedOperatorError(
            f"{function_name(function)} is masked for vector norms of order 0 and above only"
        )
    dims, over_space = reduced_dims(function, input, dim)
    values = input.with_hidden(0.0, input.visibility.visible) if over_space else input.values
    result: Tensor = function(values, order, dims if len(dims) > 1 else dims[0], keepdim, dtype=dtype)
    return result if over_space else MaskedActivation(result, input.visibility, _without(input, dims, keepdim))


@register_rule(torch.norm)
def norm(
    input: MaskedActivation, p: Any = "fro", dim: Any = None, keepdim: bool = False, out: None = None, dtype: Any = None
) -> MaskedActivation | Tensor:
    """Take the norm of the visible positions, or of channels."""
    result: MaskedActivation | Tensor = _norm(torch.norm, input, p, dim, keepdim, dtype)
    return result


@register_rule(torch.Tensor.norm)
def norm_method(
    input: MaskedActivation, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> MaskedActivation | Tensor:
    """Take the norm of the visible positions, or of channels."""
    return norm(input, p, dim, keepdim, dtype=dtype)


@register_rule(torch.linalg.vector_norm)
def vector_norm(
    x: MaskedActivation, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> MaskedActivation | Tensor:
    """Take the norm of the visible positions, or of channels."""
    result: MaskedActivation | Tensor = _norm(torch.linalg.vector_norm, x, ord, dim, keepdim, dtype)
    return result
