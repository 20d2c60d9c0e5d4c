"""Pools of tokens: means, sums and extrema of the visible ones."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.registry import function_name, register_rule, spellings
from lm_plugins.masking.rules.pooling import precision
from lm_plugins.masking.token_positions import Places
from lm_plugins.masking.tokens import MaskedTokens

__all__: list[str] = []


def _without(places: Places, dims: list[int], keepdim: bool) -> Places:
    if keepdim:
        return places

    def make() -> Places:
        kept = [size for dim, size in enumerate(places.numbers.shape) if dim not in dims]
        whole = None if places.whole is None else _without(places.whole, dims, keepdim)
        return Places(places.numbers.reshape(kept), places.visibility, whole)

    return places.once(("without", tuple(dims)), make)


def _reduction(function: Callable[..., Any], hidden_value: float) -> Callable[..., Any]:
    def rule(input: MaskedTokens, dim: int | Sequence[int] | None = None, keepdim: bool = False, **kwargs: Any) -> Any:
        """Reduce channels, or the visible tokens of every image; of no token, the result is 0."""
        dims = list(range(input.ndim)) if dim is None or dim == () else [dim] if isinstance(dim, int) else list(dim)
        dims = sorted(one % input.ndim for one in dims)
        over = tuple(one for one in input.places if any(one.varies(i) for i in dims))
        kept = tuple(_without(one, dims, keepdim) for one in input.places if one not in over)
        for one in over:
            _check_images(function, input, one, dims, keepdim)
        result = function(
            input.with_hidden(hidden_value, over) if over else input.values, dims, keepdim=keepdim, **kwargs
        )
        if not all(one.is_full for one in over):
            hidden = input.is_hidden(over)
            shown = ~hidden.expand([input.values.shape[i] if i in dims else n for i, n in enumerate(hidden.shape)])
            count = shown.sum(dims, keepdim=keepdim)
            if hidden_value:  # an extremum of nothing is 0, not infinity
                result = result.masked_fill(count == 0, 0.0)
            elif function.__name__ == "mean" and input.options.global_average == "visible":
                total = torch.Size(input.values.shape[i] for i in dims).numel()
                correction = total / count.clamp(min=1).to(precision(result))
                result = (result * correction).to(result.dtype)
        return MaskedTokens(result, kept).settled() if kept else result

    return rule


def _check_images(
    function: Callable[..., Any], input: MaskedTokens, places: Places, dims: list[int], keepdim: bool
) -> None:
    """All tokens of an image at once may be pooled; a part of them only for a statistic, to be used beside them."""
    left = [size for dim, size in enumerate(places.numbers.shape) if dim not in dims and size > 1]
    if (left not in ([], [places.map_shape[0]]) and not keepdim) or (not left and places.map_shape[0] > 1):
        raise UnsupportedOperatorError(
            f"{function_name(function)} over the dimensions {dims} of {input!r}: means, sums and extrema are masked over all "
            "tokens of an image, or over channels"
        )


for _names, _hidden_value in (("mean", 0.0), ("sum", 0.0), ("amax", -torch.inf), ("amin", torch.inf)):
    for _function in spellings(_names):
        register_rule(_function, tokens=True)(_reduction(_function, _hidden_value))


@register_rule(*spellings("adaptive_avg_pool1d"), tokens=True)
def adaptive_avg_pool1d(input: MaskedTokens, output_size: Any) -> Any:
    """The mean of the visible tokens, where all are pooled to one."""
    if (output_size if isinstance(output_size, int) else output_size[0]) != 1:
        raise UnsupportedOperatorError("adaptive_avg_pool1d of tokens is masked for an output of size 1 only")
    return torch.mean(input, -1, keepdim=True)
