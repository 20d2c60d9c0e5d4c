"""Convolution and transposed convolution: neighbour padding around the known region, then the convolution itself."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import NCHW, MaskedActivation, PaddedActivation
from lm_plugins.masking.geometry import Pair, Window
from lm_plugins.masking.registry import register_rule
from lm_plugins.masking.rules.layout import FOLDED
from lm_plugins.masking.transposed_window import TransposedWindow

__all__ = ["pair"]


def pair(value: int | tuple[int, ...] | list[int]) -> Pair:
    """Both of two sizes, from torch's ``int`` or ``(int,)`` or ``(int, int)``."""
    if isinstance(value, int):
        return value, value
    return int(value[0]), int(value[-1])


@register_rule(F.conv2d)
def conv2d(
    input: MaskedActivation,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | str | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> MaskedActivation:
    """Pad the known region from its neighbours as far as outputs that count can see, then convolve.

    Under other options for `padding`, hidden positions are zeros, and partial convolutions divide by what they saw.
    """
    if not isinstance(input, MaskedActivation) or input.dims not in (NCHW, FOLDED):
        raise UnsupportedOperatorError(
            "torch.nn.functional.conv2d is masked for an image-like input (N, C, H, W) and ordinary weights only"
        )
    if isinstance(input, PaddedActivation):
        input, padding = input.left_to(padding) or (input, padding)
    size: Pair = (int(input.shape[2]), int(input.shape[3]))
    kernel: Pair = (int(weight.shape[2]), int(weight.shape[3]))
    window = _window(kernel, pair(stride), padding if isinstance(padding, str) else pair(padding), pair(dilation), size)
    halo = input.visibility.next_halo(window)
    if input.dims == FOLDED:
        n = input.visibility.visible.positions.shape[0]
        if groups % n:
            raise UnsupportedOperatorError(
                f"torch.nn.functional.conv2d with groups={groups} would mix the {n} images that are folded into the channels"
            )
        images = MaskedActivation(input.values.reshape(n, -1, *size), input.visibility)
        input.share_memory_with(images)
        padded = images.padded_for(window, halo).reshape(input.shape)
    else:
        padded = input.padded_for(window, halo)
    rescaling = input.visibility.rescaling_for(window, torch.promote_types(input.dtype, torch.float32))
    values = F.conv2d(padded, weight, bias if rescaling is None else None, stride, padding, dilation, groups)
    result = MaskedActivation(values, input.visibility.after_convolution(window, halo), input.dims)
    result = result if rescaling is None else _rescaled(result, rescaling, bias)
    # A layer that mixes the channels comes after a depthwise one: one correction does for both.
    is_depthwise = 1 < groups == int(input.shape[1])
    return result if is_depthwise or input.dims == FOLDED else input.run.calibrated(result, weight)


def _rescaled(sums: MaskedActivation, rescaling: Tensor, bias: Tensor | None) -> MaskedActivation:
    values = (sums.values * sums.broadcast(rescaling)).to(sums.dtype)
    return sums.like(values if bias is None else values + bias[:, None, None])


@register_rule(F.conv_transpose2d)
def conv_transpose2d(
    input: MaskedActivation,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    output_padding: int | tuple[int, int] = 0,
    groups: int = 1,
    dilation: int | tuple[int, int] = 1,
) -> MaskedActivation:
    """Pad the known region from its neighbours as far as outputs that count can see, then spread it.

    Outputs that no position reaches are constants of the layer, as those of an explicit pad are.
    """
    if not isinstance(input, MaskedActivation) or input.dims != NCHW:
        raise UnsupportedOperatorError(
            "torch.nn.functional.conv_transpose2d is masked for an image-like input (N, C, H, W) and ordinary weights only"
        )
    if input.visibility.options.padding == "partial":
        raise UnsupportedOperatorError(
            'torch.nn.functional.conv_transpose2d has no partial convolution; choose MaskingOptions(padding="neighbours") '
            'or padding="zero"'
        )
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    window = TransposedWindow(kernel, pair(stride), pair(padding), pair(output_padding), pair(dilation))
    side = window.reach + 1
    padded = input.padded_for(Window((side, side), (1, 1), (0, 0, 0, 0), (1, 1)))
    values = F.conv_transpose2d(padded, weight, bias, stride, padding, output_padding, groups, dilation)
    result = MaskedActivation(values, input.visibility.after_transposed(window))
    return input.run.calibrated(result, weight)  # type: ignore[no-any-return]


@lru_cache(maxsize=4096)
def _window(kernel: Pair, stride: Pair, padding: str | Pair, dilation: Pair, size: Pair) -> Window:
    start, total = zip(*(_padding(padding, axis, kernel, dilation) for axis in range(2)), strict=True)
    output = [(size[i] + total[i] - (kernel[i] - 1) * dilation[i] - 1) // stride[i] + 1 for i in range(2)]
    return Window.between(kernel, stride, (start[0], start[1]), dilation, size, (output[0], output[1]))


def _padding(padding: str | Pair, axis: int, kernel: Pair, dilation: Pair) -> Pair:
    """Positions padded in front, and in all, along an axis."""
    if padding == "valid":
        return 0, 0
    if isinstance(padding, str):  # "same", which torch splits with the odd position behind
        total = (kernel[axis] - 1) * dilation[axis]
        return total // 2, total
    return padding[axis], 2 * padding[axis]
