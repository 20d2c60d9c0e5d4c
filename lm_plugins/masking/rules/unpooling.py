"""Max pooling that tells the place of each maximum, the unpooling that puts values back there, and power-average pooling."""

from typing import Any

import torch
import torch.nn.functional as F

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import NCHW, MaskedActivation
from lm_plugins.masking.geometry import Window
from lm_plugins.masking.mask import Mask
from lm_plugins.masking.registry import register_rule
from lm_plugins.masking.rules.convolution import pair

__all__: list[str] = []


@register_rule(F.max_pool2d_with_indices)
def max_pool2d_with_indices(
    input: MaskedActivation,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = True,
) -> tuple[MaskedActivation, MaskedActivation]:
    """Take the maximum of the visible positions of each window, and its place; of none, 0 and its first place."""
    kernel, steps, start, spread = pair(kernel_size), pair(stride or kernel_size), pair(padding), pair(dilation)
    region = input.visibility.visible
    if input.dims != NCHW:
        raise UnsupportedOperatorError("torch.nn.functional.max_pool2d is masked for (N, C, H, W) only")
    values, places = F.max_pool2d_with_indices(
        input.with_hidden(-torch.inf, region), kernel_size, stride, padding, dilation, ceil_mode
    )
    size, output = (int(input.shape[2]), int(input.shape[3])), (int(values.shape[2]), int(values.shape[3]))
    window = Window.between(kernel, steps, start, spread, size, output)
    if input.visibility.samples(window):
        raise UnsupportedOperatorError(
            "torch.nn.functional.max_pool2d with return_indices=True is masked where windows leave out no position"
        )
    anything = region.any_in(window)
    if not anything.is_full:
        values = values.masked_fill(anything.hidden[:, None], 0.0)
    visibility = input.visibility.after_pooling(window)
    return MaskedActivation(values, visibility), MaskedActivation(places, visibility)


@register_rule(F.max_unpool2d)
def max_unpool2d(
    input: MaskedActivation,
    indices: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> MaskedActivation:
    """Put each value back to the place of its maximum, beside zeros: the window is as visible as the value."""
    kernel, steps = pair(kernel_size), pair(stride or kernel_size)
    if kernel != steps or pair(padding) != (0, 0) or not isinstance(indices, MaskedActivation) or input.dims != NCHW:
        raise UnsupportedOperatorError(
            "torch.nn.functional.max_unpool2d is masked for windows that neither overlap nor leave out positions, without "
            "padding, by the indices of a masked max_pool2d"
        )
    h, w = input.shape[2:]
    size = (h * kernel[0], w * kernel[1]) if output_size is None else (int(output_size[-2]), int(output_size[-1]))
    # Both have to be known, whatever the option for additions says.
    visible = input.visibility.visible.merged([indices.visibility.visible], "intersection")
    # What is hidden need not be a place in its window.
    rows = torch.arange(h, device=input.device)[:, None] * kernel[0] * size[1]
    first = rows + torch.arange(w, device=input.device) * kernel[1]
    places = torch.where(visible.positions[:, None], indices.values, first)
    values = F.max_unpool2d(input.values, places, kernel_size, stride, padding, size)
    enlarged = visible.once(("unpooled", kernel, size), lambda: Mask(_enlarged(visible.positions, kernel, size)))
    return MaskedActivation(values, input.visibility.all_of(enlarged))


def _enlarged(region: torch.Tensor, kernel: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """Windows of a region, bool ``(N, h, w)``, as positions ``(N, H, W)``; a rest at the border is as its last window."""
    for axis in range(2):
        index = torch.arange(size[axis], device=region.device) // kernel[axis]
        region = region.index_select(axis + 1, index.clamp(max=region.shape[axis + 1] - 1))
    return region


@register_rule(F.lp_pool2d)
def lp_pool2d(
    input: MaskedActivation, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Any:
    """Take the power average of the visible positions of each window, times the root of its size, as torch does."""
    height, width = pair(kernel_size)
    powers = F.avg_pool2d(input.pow(norm_type), kernel_size, stride, 0, ceil_mode)
    return (torch.sign(powers) * F.relu(torch.abs(powers))).mul(height * width).pow(1.0 / norm_type)
