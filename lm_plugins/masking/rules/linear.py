"""Linear layers: a matrix for the channels of every position, as a linear layer or as a 1x1 convolution of tokens."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import NCHW, MaskedActivation
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.registry import register_rule
from lm_plugins.masking.rules.patch_merging import with_channels
from lm_plugins.masking.tokens import MaskedTokens

__all__: list[str] = []


@register_rule(F.linear, both=True)
def linear(input: Carrier, weight: Tensor, bias: Tensor | None = None) -> Any:
    """Act on the channels of every position; a patch of positions in the channels becomes one position first."""
    input = with_channels("torch.nn.functional.linear", input, [-1])
    # Of weights without gradients and values in another order, torch makes a product for each image: several times as slow.
    is_reordered = isinstance(input, MaskedTokens) and (input.is_dropped or not input.is_full)
    values = input.values.contiguous() if is_reordered else input.values
    return input.run.calibrated(input.like(F.linear(values, weight, bias)).simplified(), weight)


@register_rule(F.conv2d, tokens=True)
def conv2d_of_tokens(
    input: MaskedTokens,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Act on the channels of every token: a 1x1 convolution in whatever layout. Patches in the channels are merged first."""
    channels = with_channels("torch.nn.functional.conv2d", input, [1])
    settled = channels.simplified()
    if isinstance(settled, MaskedActivation) and settled.dims != NCHW:  # of one image, channels may stand for images
        found = input.positions[0].as_images(channels.shape)
        settled = channels if found is None else MaskedActivation(channels.values, *found)
    if isinstance(settled, MaskedActivation) and settled.dims == NCHW:
        return F.conv2d(settled, weight, bias, stride, padding, dilation, groups)
    is_pointwise = (
        all(size == 1 for size in weight.shape[2:]) and stride in (1, (1, 1)) and padding in (0, (0, 0), "valid")
    )
    if not is_pointwise:
        raise UnsupportedOperatorError(f"torch.nn.functional.conv2d of {input!r}, which is no map in order")
    result = channels.like(F.conv2d(channels.values, weight, bias, stride, padding, dilation, groups))
    return result if groups > 1 else result.run.calibrated(result, weight)
