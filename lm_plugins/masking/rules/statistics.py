"""Statistics of a map, such as a model's own normalization takes them: variances and norms of the visible positions."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import MaskedActivation
from lm_plugins.masking.registry import function_name, register_rule, spellings
from lm_plugins.masking.rules.head import per_image, reduced_dims
from lm_plugins.masking.rules.pooling import precision

__all__: list[str] = []


def _without(input: MaskedActivation, dims: Sequence[int], keepdim: bool) -> tuple[str, ...]:
    return tuple(letter for i, letter in enumerate(input.dims) if keepdim or i not in dims)


# ---- variance ------------------------------------------------------------------------------------------------------


def _spread(function: Callable[..., Any]) -> Callable[..., Any]:
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
        positions = region.positions.flatten(1).sum(1) * channels  # (N,)
        total = values.sum(dims, keepdim=True)
        mean = total / per_image(positions.clamp(min=1), total)
        squares = (values - mean).square().masked_fill(hidden, 0.0).sum(dims, keepdim=True)
        # As in torch, fewer degrees of freedom than none are none; without a division by zero.
        freedom = per_image(positions - correction, squares)
        variance = torch.where(freedom > 0, squares / freedom.clamp(min=torch.finfo(dtype).tiny), 0.0)
        if is_std:  # with the gradient 0 at 0, as torch has it
            variance = torch.where(variance > 0, torch.where(variance > 0, variance, 1.0).sqrt(), 0.0)
        both = [(one if keepdim else one.squeeze(tuple(dims))).to(input.dtype) for one in (variance, mean)]
        return tuple(both) if with_mean else both[0]

    return rule


for _function in spellings("var", "std", "var_mean", "std_mean"):
    register_rule(_function)(_spread(_function))


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
