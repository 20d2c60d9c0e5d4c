"""The way out of the spatial world: reductions over space, and the layers of heads that act on channels."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import NCHW, MaskedActivation
from lm_plugins.masking.registry import function_name, register_rule, spellings
from lm_plugins.masking.rules.pooling import precision

__all__ = ["per_image", "reduced_dims"]


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


def per_image(region: Tensor, like: Tensor) -> Tensor:
    """Reshape one number for each image so that it broadcasts to `like`."""
    return region.reshape(-1, *[1] * (like.ndim - 1))


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
        ):
            result = _of_visible(input, function.__name__ == "mean", keepdim, kwargs.get("dtype"))
        else:
            result = function(input.with_hidden(hidden_value, region), dims, keepdim=keepdim, **kwargs)
        if region.is_full:
            return result
        if hidden_value:  # an extremum of nothing is 0, not infinity
            return result.masked_fill(per_image(region.any_in_adaptive((1, 1)).hidden, result), 0.0)
        if function.__name__ == "mean" and input.visibility.options.global_average == "visible":
            correction = region.mean_correction_adaptive((1, 1), precision(result))
            return (result * per_image(correction, result)).to(result.dtype)
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
