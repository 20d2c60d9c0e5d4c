"""Functions that act on every token alike, or on the channels of every token."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import MaskedActivation
from lm_plugins.masking.patches import merged_patches
from lm_plugins.masking.registry import register_rule, registered_functions
from lm_plugins.masking.rules import pointwise
from lm_plugins.masking.rules.normalization import normalized_groups
from lm_plugins.masking.tokens import MaskedTokens

__all__: list[str] = []

# What acts on every position of a map alike, or only asks, does so on tokens.
for _function, _rule in registered_functions().items():
    if _rule.__module__ == pointwise.__name__:
        register_rule(_function, tokens=True)(_rule)


def _new(function: Callable[..., Any]) -> Callable[..., Any]:
    def rule(input: MaskedTokens, *args: Any, **kwargs: Any) -> Tensor:
        """Make an ordinary tensor of the same dtype and device."""
        result: Tensor = function(input.values, *args, **kwargs)
        return result

    return rule


for _name in ("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"):
    register_rule(getattr(Tensor, _name), tokens=True)(_new(getattr(Tensor, _name)))


def _with_channels(input: MaskedTokens, dims: Sequence[int]) -> MaskedTokens:
    """The input, with whole patches in its channels merged; error if it holds no channels along `dims`."""
    if not isinstance(input, MaskedTokens):
        raise UnsupportedOperatorError("weights of which a part is hidden have no masked meaning")
    if any(input.varying(dim) for dim in dims):
        if len(dims) > 1:
            raise UnsupportedOperatorError(
                f"dimensions {tuple(dims)} of {input!r} hold tokens, hidden and visible ones"
            )
        merged = merged_patches(input, dims[0])
        return merged.as_tokens() if isinstance(merged, MaskedActivation) else merged
    return input


@register_rule(F.linear, tokens=True)
def linear(input: MaskedTokens, weight: Tensor, bias: Tensor | None = None) -> Any:
    """Act on the channels of every token; a patch of tokens in the channels becomes one token first."""
    input = _with_channels(input, [-1])
    # Of weights without gradients and values in another order, torch makes a product for each image: several times as slow.
    values = input.values.contiguous() if input.is_dropped or not input.is_full else input.values
    return input.like(F.linear(values, weight, bias)).settled()


@register_rule(F.layer_norm, tokens=True)
def layer_norm(
    input: MaskedTokens,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    """Normalize the channels of every token; a patch of tokens in the channels becomes one token first."""
    input = _with_channels(input, range(-len(normalized_shape), 0))
    return input.like(F.layer_norm(input.values, normalized_shape, weight, bias, eps)).settled()


@register_rule(F.rms_norm, tokens=True)
def rms_norm(
    input: MaskedTokens, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Any:
    """Normalize the channels of every token by their mean square."""
    input = _with_channels(input, range(-len(normalized_shape), 0))
    return input.like(F.rms_norm(input.values, normalized_shape, weight, eps)).settled()


@register_rule(F.batch_norm, tokens=True)
def batch_norm(
    input: MaskedTokens,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Normalize with the running statistics: a function of every token alike."""
    if training or running_mean is None or running_var is None or input.varying(1):
        raise UnsupportedOperatorError(
            f"torch.nn.functional.batch_norm of {input!r} is masked with running statistics of channels only"
        )
    return input.like(F.batch_norm(input.values, running_mean, running_var, weight, bias, False, momentum, eps))


@register_rule(F.group_norm, tokens=True)
def group_norm(
    input: MaskedTokens,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> MaskedTokens:
    """Normalize each group of channels with the mean and variance of its visible tokens."""
    if input.varying(1) or len(input.places) != 1 or input.image_count() != input.shape[0]:
        raise UnsupportedOperatorError(f"torch.nn.functional.group_norm of {input!r} is masked for (N, C, ...) only")
    if input.is_full:
        return input.like(F.group_norm(input.values, num_groups, weight, bias, eps))
    input = input.whole()
    shown = (~input.is_hidden()).expand(input.shape[0], 1, *input.shape[2:])
    return input.like(normalized_groups(input.values, shown, num_groups, weight, bias, eps))


@register_rule(F.conv2d, tokens=True)
def conv2d(
    input: MaskedTokens,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Act on the channels of every token: a 1x1 convolution in whatever layout. Patches in the channels are merged first."""
    channels = _with_channels(input, [1])
    settled: Any = channels.settled()
    if isinstance(settled, MaskedActivation):
        return F.conv2d(settled, weight, bias, stride, padding, dilation, groups)  # type: ignore[call-overload]
    is_pointwise = (
        all(size == 1 for size in weight.shape[2:]) and stride in (1, (1, 1)) and padding in (0, (0, 0), "valid")
    )
    if not is_pointwise:
        raise UnsupportedOperatorError(f"torch.nn.functional.conv2d of {input!r}, which is no map in order")
    return channels.like(F.conv2d(channels.values, weight, bias, stride, padding, dilation, groups))


@register_rule(F.normalize, tokens=True)
def normalize(
    input: MaskedTokens, p: float = 2.0, dim: int | Sequence[int] = 1, eps: float = 1e-12, out: Any = None
) -> Any:
    """Divide by the norm over channels, or over the visible tokens."""
    dims = [dim] if isinstance(dim, int) else list(dim)
    over = tuple(one for one in input.places if any(one.varies(i) for i in dims))
    values = input.with_hidden(0.0, over) if over else input.values
    return input.like(F.normalize(values, p, dim, eps)).settled()  # type: ignore[arg-type]
