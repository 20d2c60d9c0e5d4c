"""Pooling: counts visible positions only; a map pooled to a single position leaves the spatial world."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import NCHW, MaskedActivation
from lm_plugins.masking.geometry import Pair, Window
from lm_plugins.masking.mask import Mask
from lm_plugins.masking.neighbour_padding import fill
from lm_plugins.masking.registry import register_rule, spellings
from lm_plugins.masking.rules.convolution import pair

__all__ = ["precision"]

Size = int | tuple[int, int] | list[int]


def precision(values: Tensor) -> torch.dtype:
    """The dtype in which to count positions for a mean of `values`: at least float32."""
    return torch.promote_types(values.dtype, torch.float32)


def _check(name: str, input: MaskedActivation, return_indices: bool = False) -> None:
    if return_indices:
        raise UnsupportedOperatorError(f"torch.nn.functional.{name} is masked without return_indices=True only")
    if input.dims != NCHW:
        raise UnsupportedOperatorError(f"torch.nn.functional.{name} is masked for (N, C, H, W) only")


def _pool(
    input: MaskedActivation,
    pool: Callable[[Tensor], Tensor],
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    mean: bool,
) -> MaskedActivation:
    region = input.visibility.visible
    values = pool(input.with_hidden(0.0 if mean else -torch.inf, region))
    size, output = (input.shape[2], input.shape[3]), (values.shape[2], values.shape[3])
    window = Window.between(kernel, stride, padding, dilation, size, output)
    values = _of_region(input, values, window, mean)
    if input.visibility.samples(window) and not region.is_full:
        around = _padded(input, window)
        others = pool(around.with_hidden(0.0 if mean else -torch.inf))
        others = _of_region(around, others, window, mean)
        values = torch.where(region.any_in(window).positions[:, None], values, others)
    return MaskedActivation(values, input.visibility.after_pooling(window))


def _of_region(input: MaskedActivation, values: Tensor, window: Window, mean: bool) -> Tensor:
    """What was pooled of a map with 0 or minus infinity at hidden positions, corrected for those."""
    region = input.visibility.visible
    if region.is_full:
        return values
    if not mean:  # no infinity may stay behind, not even at hidden positions
        return _without_infinity(values, region.any_in(window))
    if input.visibility.options.average == "all":
        return values
    return (values * region.mean_correction(window, precision(values))).to(values.dtype)


def _padded(input: MaskedActivation, window: Window) -> MaskedActivation:
    """The map, with what is padded for a window that samples it as visible as the rest."""
    settled = input.visibility.settled
    plan, rings = settled.neighbour_plan(settled.visible), window.reach_of_widened
    known = settled.visible.once(
        ("padded for", window, settled.options), lambda: Mask(plan.known_after(rings), settled.visible.inside)
    )
    # Never in place: another branch may look at what is computed beyond the visible region.
    return MaskedActivation(fill(input.values, plan, rings, in_place=False), settled.all_of(known))


def _without_infinity(maxima: Tensor, anything: Mask) -> Tensor:
    """Maxima with 0 for those of nothing."""
    if anything.is_full:
        return maxima
    return anything.overwritten(maxima, 0.0, in_place=not torch.is_grad_enabled())


@register_rule(*spellings("max_pool2d"))
def max_pool2d(
    input: MaskedActivation,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> MaskedActivation:
    """Take the maximum of the visible positions of each window: hidden ones never win."""
    _check("max_pool2d", input, return_indices)
    stride = stride or kernel_size  # torch reads None and () as the kernel
    return _pool(
        input,
        lambda values: F.max_pool2d(values, kernel_size, stride, padding, dilation, ceil_mode),
        pair(kernel_size),
        pair(stride),
        pair(padding),
        pair(dilation),
        mean=False,
    )


@register_rule(F.avg_pool2d)
def avg_pool2d(
    input: MaskedActivation,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> MaskedActivation:
    """Take the mean of the visible positions of each window; with ``average="all"``, zeros count for hidden ones."""
    _check("avg_pool2d", input)
    stride = stride or kernel_size
    return _pool(
        input,
        lambda values: F.avg_pool2d(
            values, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        ),
        pair(kernel_size),
        pair(stride),
        pair(padding),
        (1, 1),
        mean=True,
    )


def _adaptive_size(input: MaskedActivation, output_size: int | Sequence[int | None] | None) -> Pair:
    sizes = output_size if isinstance(output_size, Sequence) else (output_size, output_size)
    height, width = (
        int(input.shape[2 + i]) if size is None else int(size) for i, size in enumerate((sizes[0], sizes[-1]))
    )
    return height, width


@register_rule(*spellings("adaptive_avg_pool2d"))
def adaptive_avg_pool2d(input: MaskedActivation, output_size: Any) -> MaskedActivation | Tensor:
    """Take means of visible positions; with ``global_average="all"``, zeros count for hidden ones."""
    _check("adaptive_avg_pool2d", input)
    size, region = _adaptive_size(input, output_size), input.visibility.visible
    if size == (1, 1) and not region.is_full and region.inside is None:
        values = (input.visible_sum() / (input.shape[2] * input.shape[3]))[:, :, None, None]
    else:
        values = F.adaptive_avg_pool2d(input.with_hidden(0.0, region), size)
    if not region.is_full and input.visibility.options.global_average == "visible":
        correction = region.mean_correction_adaptive(size, precision(values))
        values = (values * correction).to(values.dtype)
    if size == (1, 1):
        return values
    return MaskedActivation(values, input.visibility.after_adaptive_pooling(size))


@register_rule(F.adaptive_max_pool2d)
def adaptive_max_pool2d(
    input: MaskedActivation, output_size: Any, return_indices: bool = False
) -> MaskedActivation | Tensor:
    """Take maxima of visible positions; 0 where there is none."""
    _check("adaptive_max_pool2d", input, return_indices)
    size, region = _adaptive_size(input, output_size), input.visibility.visible
    values = F.adaptive_max_pool2d(input.with_hidden(-torch.inf, region), size)
    if not region.is_full:
        values = _without_infinity(values, region.any_in_adaptive(size))
    if size == (1, 1):
        return values
    return MaskedActivation(values, input.visibility.after_adaptive_pooling(size))
