"""Along channels: what orders, chooses, sums up or compares the channels of every position. Space is not looked at."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import MaskedActivation
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.registry import function_name, register_rule, spellings
from lm_plugins.masking.rules.arithmetic import merged
from lm_plugins.masking.tokens import MaskedTokens, positions_without

__all__ = ["along_channels"]

#: One value for all channels: their dimension goes, unless keepdim says otherwise.
_REDUCING = "argmax argmin median nanmedian mode logsumexp nansum".split()
#: The dimension of channels stays, with as many entries or others; with the dimension that torch takes where none is named.
_KEEPING = {
    "sort": -1, "argsort": -1, "topk": -1, "glu": -1, "diff": -1, "cumsum": None, "cumprod": None, "logcumsumexp": None,
    "cummax": None, "cummin": None, "log_softmax": None, "softmax": None,
}  # fmt: skip
#: What stands before the dimension in a call.
_BEFORE = {"topk": 1, "diff": 1}


def _after(input: Any, values: Tensor, dims: Sequence[int], keepdim: bool) -> Any:
    """What a function has made of the channels along `dims`: as hidden as the activation."""
    dims = [dim % input.ndim for dim in dims]
    if isinstance(input, MaskedTokens):
        kept = tuple(positions_without(one, dims, keepdim) for one in input.positions)
        return MaskedTokens(values, kept).simplified()
    letters = tuple(one for i, one in enumerate(input.dims) if keepdim or i not in dims)
    return MaskedActivation(values, input.visibility, letters)


def along_channels(
    function: Callable[..., Any], input: Any, dim: Any, call: Callable[[Tensor], Any], keepdim: bool
) -> Any:
    """What a torch function makes of the channels of every position.

    Args:
        function: For errors.
        input: An activation.
        dim: A dimension of channels, or several.
        call: Calls the function on the values.
        keepdim: Whether the dimension stays.

    Returns:
        An activation for each tensor that the function returns, in a tuple of the same kind.

    Raises:
        UnsupportedOperatorError: A dimension holds positions or images, or `input` is no activation.
    """
    dims = [dim] if isinstance(dim, int) else list(dim or ())
    if not isinstance(input, Carrier) or not dims:
        raise UnsupportedOperatorError(
            f"{function_name(function)} is masked along a dimension of channels of an activation; got dim={dim!r} of "
            f"{input!r}"
        )
    if not all(input.is_channels(one) for one in dims):
        raise UnsupportedOperatorError(
            f"{function_name(function)} along dim={dim} of {input!r}, where hidden and visible positions lie: it is masked "
            "along channels"
        )
    result = call(input.values)
    if isinstance(result, Tensor):
        return _after(input, result, dims, keepdim)
    return type(result)([_after(input, one, dims, keepdim) for one in result])


def _reducing(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: Any, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
        """Take one value of the channels of every position."""
        return along_channels(
            function, input, dim, lambda values: function(values, dim, keepdim=keepdim, **kwargs), keepdim
        )

    return rule


def _keeping(function: Callable[..., Any], default: int | None) -> Callable[..., Any]:
    def rule(input: Any, *args: Any, **kwargs: Any) -> Any:
        """Act on the channels of every position, and leave their dimension."""
        place = _BEFORE.get(function.__name__, 0)
        dim = args[place] if len(args) > place else kwargs.get("dim", default)
        return along_channels(function, input, dim, lambda values: function(values, *args, **kwargs), True)

    return rule


for _name in _REDUCING:
    for _function in spellings(_name):
        register_rule(_function)(_reducing(_function))

for _name, _default in _KEEPING.items():
    for _function in spellings(_name):
        if not _function.__name__.endswith("_"):
            register_rule(_function)(_keeping(_function, _default))

for _name in ("nansum", "mode"):
    for _function in spellings(_name):
        register_rule(_function, tokens=True)(_reducing(_function))

for _name in ("sort", "argsort", "glu", "diff", "cumsum", "cumprod", "logcumsumexp", "cummax", "cummin"):
    for _function in spellings(_name):
        if not _function.__name__.endswith("_"):
            register_rule(_function, tokens=True)(_keeping(_function, _KEEPING[_name]))


@register_rule(F.softmin, both=True)
def softmin(input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Any:
    """Softmax of what is negated, as torch does."""
    return F.softmax(-input, dim, _stacklevel, dtype)


# ---- two activations, compared by their channels ----------------------------------------------------------------------


def _compared(function: Callable[..., Any], first: Any, second: Any, dim: int, keepdim: bool, *args: Any) -> Any:
    carrier = first if isinstance(first, Carrier) else second
    ndim = max(first.ndim, second.ndim)
    dim %= ndim
    if carrier.ndim != ndim or not carrier.is_channels(dim):
        raise UnsupportedOperatorError(
            f"{function_name(function)} along dim={dim} of {carrier!r}: it is masked along channels"
        )

    @wraps(function)
    def compare(one: Tensor, other: Tensor) -> Tensor:
        result: Tensor = function(one, other, *args).unsqueeze(dim)
        return result

    result = merged(compare, (first, second), {})
    return result if keepdim else result.squeeze(dim)


@register_rule(F.cosine_similarity, both=True)
def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """Compare the channels of two activations at every position."""
    return _compared(F.cosine_similarity, x1, x2, dim, False, dim, eps)


@register_rule(F.pairwise_distance, both=True)
def pairwise_distance(x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Any:
    """Take the distance of the channels, in the last dimension, of two activations at every position."""
    return _compared(F.pairwise_distance, x1, x2, -1, keepdim, p, eps)


# ---- indices of channels -----------------------------------------------------------------------------------------------


@register_rule(F.one_hot, both=True)
def one_hot(tensor: Any, num_classes: int = -1) -> Any:
    """Spread a class at every position over channels, in a new last dimension."""
    if num_classes < 0:
        raise UnsupportedOperatorError("torch.nn.functional.one_hot is masked with num_classes only")
    values = F.one_hot(tensor.values.masked_fill(tensor.is_hidden(), 0), num_classes)
    return tensor.unsqueeze(-1).like(values)


@register_rule(*spellings("take_along_dim"), both=True)
def take_along_dim(input: Any, indices: Any, dim: int | None = None) -> Any:
    """Take channels by an index at every position."""
    if dim is None:
        raise UnsupportedOperatorError("torch.take_along_dim is masked with dim only")
    return torch.gather(input, dim, indices)


@register_rule(*spellings("gather"))
def gather(input: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
    """Take channels by an index at every position."""
    carrier = input if isinstance(input, MaskedActivation) else index
    if not carrier.is_channels(dim) or (input.ndim, index.ndim) != (carrier.ndim, carrier.ndim):
        raise UnsupportedOperatorError(
            f"torch.gather along dim={dim} of {carrier!r}: it is masked along channels of maps"
        )
    sides = [i for i, letter in enumerate(carrier.dims) if letter != "C"]
    if any(input.shape[i] != index.shape[i] for i in sides):
        raise UnsupportedOperatorError(
            f"torch.gather of {tuple(input.shape)} by {tuple(index.shape)}: it is masked where both have all positions"
        )
    values, chosen = (one.values if isinstance(one, MaskedActivation) else one for one in (input, index))
    if isinstance(index, MaskedActivation):  # what is hidden need not be an index at all
        chosen = chosen.masked_fill(index.is_hidden(), 0)
    visibility = carrier.visibility
    if isinstance(input, MaskedActivation) and isinstance(index, MaskedActivation):
        visibility = input.visibility.after_addition([index.visibility])
        if visibility is not input.visibility:
            values = input.completed_to(visibility.computed)
            chosen = index.values.masked_fill(index.is_hidden(visibility.computed), 0)
    return MaskedActivation(torch.gather(values, dim, chosen), visibility, carrier.dims)
