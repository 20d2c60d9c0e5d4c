"""Transposed convolution: neighbour padding as far as two positions reach the same output, then the convolution."""

import torch.nn.functional as F
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import NCHW, MaskedActivation
from lm_plugins.masking.geometry import Window
from lm_plugins.masking.registry import register_rule
from lm_plugins.masking.rules.convolution import pair
from lm_plugins.masking.transposed_window import TransposedWindow

__all__: list[str] = []


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
    return MaskedActivation(values, input.visibility.after_transposed(window))
