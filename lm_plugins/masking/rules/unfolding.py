"""Unfolding maps into patches, and folding patches back: as the convolutions that do the same.

Patches that do not overlap are a matter of layout: every value keeps its position. Patches that overlap are what a
convolution looks at, `torch.nn.functional.unfold` one whose weights are 0 and 1; folding them is its transposed convolution.
"""

from typing import Any

import torch
import torch.nn.functional as F

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import NCHW, MaskedActivation
from lm_plugins.masking.geometry import Pair, Window
from lm_plugins.masking.registry import register_rule
from lm_plugins.masking.rules.convolution import pair
from lm_plugins.masking.tokens import MaskedTokens
from lm_plugins.masking.transposed_window import TransposedWindow

__all__: list[str] = []


def _are_blocks(kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, size: Pair) -> bool:
    """Whether patches cut the map without a rest."""
    fits = all(side % k == 0 for side, k in zip(size, kernel, strict=True))
    return kernel == stride and padding == (0, 0) and dilation == (1, 1) and fits


@register_rule(F.unfold)
def unfold(input: MaskedActivation, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """Put the positions of each patch into the channels: ``(N, C * kernel, patches)``.

    Where patches overlap, the known region is padded from its neighbours, and a patch is as visible as the output of a
    convolution with this kernel.
    """
    if input.dims != NCHW:
        raise UnsupportedOperatorError("torch.nn.functional.unfold is masked for (N, C, H, W) only")
    kernel, steps, start, spread = pair(kernel_size), pair(stride), pair(padding), pair(dilation)
    n, c, h, w = input.shape
    if _are_blocks(kernel, steps, start, spread, (h, w)):
        cut = input.reshape(n, c, h // kernel[0], kernel[0], w // kernel[1], kernel[1])
        return cut.permute(0, 1, 3, 5, 2, 4).reshape(n, c * kernel[0] * kernel[1], -1)
    if input.visibility.options.padding == "partial":
        raise UnsupportedOperatorError(
            "torch.nn.functional.unfold of patches that overlap has no partial convolution; choose "
            'MaskingOptions(padding="neighbours") or padding="zero"'
        )
    output = _count((h, w), kernel, steps, start, spread)
    window = Window.between(kernel, steps, start, spread, (h, w), output)
    values = F.unfold(input.padded_for(window), kernel_size, dilation, padding, stride)
    patches = MaskedActivation(values.reshape(n, -1, *output), input.visibility.after_convolution(window))
    return patches.flatten(2)


@register_rule(F.fold, tokens=True)
def fold(input: Any, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """Put the channels of each patch back to its positions, and sum where patches overlap."""
    kernel, steps, start, spread = pair(kernel_size), pair(stride), pair(padding), pair(dilation)
    size = pair(output_size)
    if not isinstance(input, MaskedTokens) or input.ndim != 3:
        raise UnsupportedOperatorError("torch.nn.functional.fold is masked for (N, C * kernel, patches) only")
    n, channels, _ = input.shape
    output = _count(size, kernel, steps, start, spread)
    if _are_blocks(kernel, steps, start, spread, size):
        cut = input.reshape(n, channels // (kernel[0] * kernel[1]), *kernel, *output)
        return cut.permute(0, 1, 4, 2, 5, 3).reshape(n, -1, *size)
    patches: Any = input.reshape(n, channels, *output)
    if not isinstance(patches, MaskedActivation) or patches.dims != NCHW:
        raise UnsupportedOperatorError(f"torch.nn.functional.fold of {input!r}, which is no map of patches in order")
    rest = [size[i] - ((output[i] - 1) * steps[i] - 2 * start[i] + spread[i] * (kernel[i] - 1) + 1) for i in range(2)]
    window = TransposedWindow(kernel, steps, start, (rest[0], rest[1]), spread)
    side = window.reach + 1
    padded = patches.padded_for(Window((side, side), (1, 1), (0, 0, 0, 0), (1, 1)))
    values = F.fold(padded.flatten(2), output_size, kernel_size, dilation, padding, stride)
    return MaskedActivation(values, patches.visibility.after_transposed(window))


def _count(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    """Patches along either side."""
    height, width = ((size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2))
    return height, width


@register_rule(F.conv1d, tokens=True)
def conv1d(
    input: Any,
    weight: torch.Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Act on the channels of every token: a kernel of size 1."""
    is_pointwise = weight.shape[2] == 1 and stride in (1, (1,)) and padding in (0, (0,), "valid", "same")
    if not isinstance(input, MaskedTokens) or input.ndim != 3 or not input.is_channels(1) or not is_pointwise:
        raise UnsupportedOperatorError(
            f"torch.nn.functional.conv1d of {input!r}: its window runs over tokens from the end of a row of the map to the "
            "start of the next; it is masked with a kernel of size 1, along channels"
        )
    return input.like(F.conv1d(input.values, weight, bias, stride, padding, dilation, groups)).simplified()
