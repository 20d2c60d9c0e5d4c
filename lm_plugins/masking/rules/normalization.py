"""Normalization: with fixed statistics it is pointwise; statistics over space count visible positions only."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import NCHW, MaskedActivation
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.registry import register_rule
from lm_plugins.masking.rules.patch_merging import with_channels
from lm_plugins.masking.tokens import MaskedTokens

__all__: list[str] = []


@register_rule(F.batch_norm, both=True)
def batch_norm(
    input: Carrier,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Normalize with the running statistics: a function of every position alike."""
    if training or running_mean is None or running_var is None:
        raise UnsupportedOperatorError(
            "torch.nn.functional.batch_norm is masked with running statistics only; statistics of the batch would mix "
            "images. Call model.eval(), and keep track_running_stats=True"
        )
    if not input.is_channels(1):
        raise UnsupportedOperatorError(f"torch.nn.functional.batch_norm of {input!r} is masked for channels only")
    return input.like(F.batch_norm(input.values, running_mean, running_var, weight, bias, False, momentum, eps))


@register_rule(F.layer_norm, both=True)
def layer_norm(
    input: Carrier,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    """Normalize the channels of every position; a patch of positions in the channels becomes one position first.

    Over channels and space, or space alone, the mean and variance are those of what is visible.
    """
    if isinstance(input, MaskedActivation) and input.dims[-2:] == ("H", "W") and 2 <= len(normalized_shape) <= 3:
        return _normalized_over_space(input, list(normalized_shape), weight, bias, eps)
    input = with_channels("torch.nn.functional.layer_norm", input, range(-len(normalized_shape), 0))
    return input.like(F.layer_norm(input.values, normalized_shape, weight, bias, eps)).simplified()


def _normalized_over_space(
    input: MaskedActivation, shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> MaskedActivation:
    visible = input.visibility.visible
    if list(input.shape[-len(shape) :]) != shape or input.dims != NCHW:
        raise UnsupportedOperatorError(f"torch.nn.functional.layer_norm over {tuple(shape)} of {input!r}")
    if visible.is_full:
        return input.like(F.layer_norm(input.values, shape, weight, bias, eps))
    counted = ~visible.hidden[:, None]  # constants around the image count, as in the plain model
    groups = 1 if len(shape) == 3 else int(input.shape[1])
    values = _normalized_groups(input.values, counted, groups, None, None, eps)
    values = values if weight is None else values * weight
    return MaskedActivation(values if bias is None else values + bias, input.visibility.settled, input.dims)


@register_rule(F.rms_norm, both=True)
def rms_norm(
    input: Carrier, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Any:
    """Normalize the channels of every position by their root mean square; patches in them are merged first."""
    input = with_channels("torch.nn.functional.rms_norm", input, range(-len(normalized_shape), 0))
    return input.like(F.rms_norm(input.values, normalized_shape, weight, eps)).simplified()


@register_rule(F.normalize, both=True)
def normalize(
    input: Carrier, p: float = 2.0, dim: int | Sequence[int] = 1, eps: float = 1e-12, out: None = None
) -> Any:
    """Divide by the norm over channels; of tokens, also over the visible ones."""
    dims = [dim] if isinstance(dim, int) else list(dim)
    values = input.values
    if isinstance(input, MaskedTokens):
        over = tuple(one for one in input.positions if any(one.varies(i) for i in dims))
        values = input.with_hidden(0.0, over) if over else values
    elif not all(input.is_channels(one) for one in dims):
        raise UnsupportedOperatorError(
            f"torch.nn.functional.normalize along dim={dim} of {input!r}: it is masked along channels only"
        )
    return input.like(F.normalize(values, p, dim, eps)).simplified()  # type: ignore[arg-type]


@register_rule(F.group_norm)
def group_norm(
    input: MaskedActivation,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> MaskedActivation:
    """Normalize each group of channels with the mean and variance of its visible positions."""
    if input.dims != NCHW:
        raise UnsupportedOperatorError("torch.nn.functional.group_norm is masked for (N, C, H, W) only")
    visible = input.visibility.visible
    if visible.is_full:
        return input.like(F.group_norm(input.values, num_groups, weight, bias, eps))
    present = ~visible.hidden[:, None]  # constants around the image count, as in the plain model
    return input.like(_normalized_groups(input.values, present, num_groups, weight, bias, eps))


@register_rule(F.group_norm, tokens=True)
def group_norm_of_tokens(
    input: MaskedTokens,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> MaskedTokens:
    """Normalize each group of channels with the mean and variance of its visible tokens."""
    if not input.is_channels(1) or len(input.positions) != 1 or input.image_count() != input.shape[0]:
        raise UnsupportedOperatorError(f"torch.nn.functional.group_norm of {input!r} is masked for (N, C, ...) only")
    if input.is_full:
        return input.like(F.group_norm(input.values, num_groups, weight, bias, eps))
    input = input.whole()
    shown = (~input.is_hidden()).expand(input.shape[0], 1, *input.shape[2:])
    return input.like(_normalized_groups(input.values, shown, num_groups, weight, bias, eps))


def _normalized_groups(
    values: Tensor, counted: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Group norm of ``(N, C, ...)`` with the mean and variance of what is `counted`, bool ``(N, 1, ...)``."""
    n, c = values.shape[:2]
    grouped = values.reshape(n, num_groups, c // num_groups, -1)
    counted = counted.reshape(n, 1, 1, -1)
    count = counted.sum(-1, keepdim=True).clamp(min=1) * (c // num_groups)
    mean = torch.where(counted, grouped, 0.0).sum((2, 3), keepdim=True) / count
    variance = torch.where(counted, grouped - mean, 0.0).square().sum((2, 3), keepdim=True) / count
    result = ((grouped - mean) * (variance + eps).rsqrt()).reshape(values.shape)
    per_channel = (-1, *[1] * (values.ndim - 2))
    result = result if weight is None else result * weight.reshape(per_channel)
    return result if bias is None else result + bias.reshape(per_channel)


@register_rule(F.instance_norm)
def instance_norm(
    input: MaskedActivation,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Normalize each channel with the mean and variance of its visible positions, or with fixed statistics."""
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    visible = input.visibility.visible
    if visible.is_full:
        return input.like(F.instance_norm(input.values, None, None, weight, bias, True, momentum, eps))
    return group_norm(input, int(input.shape[1]), weight, bias, eps)


@register_rule(F.local_response_norm)
def local_response_norm(
    input: MaskedActivation, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> MaskedActivation:
    """Normalize over neighbouring channels of every position: a pointwise function of space."""
    if input.dims != NCHW:
        raise UnsupportedOperatorError("torch.nn.functional.local_response_norm is masked for (N, C, H, W) only")
    return input.like(F.local_response_norm(input.values, size, alpha, beta, k))
