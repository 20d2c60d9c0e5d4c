"""Resizing: maps interpolated, positions gathered into channels and channels spread over positions."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.errors import UnsupportedOperatorError
from lm_plugins.masking.activation import NCHW, MaskedActivation
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.geometry import Resizing, Window
from lm_plugins.masking.mask import Mask
from lm_plugins.masking.registry import register_rule, spellings
from lm_plugins.masking.rules.pooling import adaptive_avg_pool2d, precision

__all__: list[str] = []


def _check(name: str, input: MaskedActivation) -> None:
    if input.dims != NCHW:
        raise UnsupportedOperatorError(f"torch.nn.functional.{name} is masked for (N, C, H, W) only")


def _both(value: Any) -> Any:
    """Both of two numbers, from torch's number or pair; None stays."""
    return value if value is None else tuple(value) if isinstance(value, Sequence) else (value, value)


@register_rule(F.interpolate)
def interpolate(
    input: MaskedActivation,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> MaskedActivation | Tensor:
    """Resize: the region is interpolated alike; bilinear interpolation pads it from its neighbours first."""
    _check("interpolate", input)
    if mode == "area":
        shape = F.interpolate(
            torch.empty(input.shape, device="meta"), size, scale_factor, mode, align_corners, recompute_scale_factor
        ).shape
        result: MaskedActivation | Tensor = adaptive_avg_pool2d(input, tuple(shape[2:]))
        return result
    if mode not in ("nearest", "nearest-exact", "bilinear", "bicubic"):
        raise UnsupportedOperatorError(
            "torch.nn.functional.interpolate is masked with mode 'nearest', 'nearest-exact', 'bilinear', 'bicubic' or "
            f"'area'; got mode={mode!r}"
        )
    resizing = Resizing(
        _both(size),
        _both(scale_factor),
        mode,
        align_corners,
        recompute_scale_factor,
        precision(input.values),
        antialias,
    )
    of_regions, values = resizing.of_regions, input.values
    span = 0
    if antialias or mode == "bicubic":
        step = math.ceil(max(1.0, resizing.step_of(input.visibility.visible.size)))
        span = (4 if mode == "bicubic" else 2) * step + 2
    elif input.visibility.resamples(resizing):  # what a sample stands for ends within two steps of it
        span = 2 * math.ceil(resizing.step_of(input.visibility.visible.size)) + 2
    elif mode == "bilinear":
        span = 2
    if span:
        values = input.padded_for(Window((span, span), (1, 1), (0, 0, 0, 0), (1, 1)))
    return MaskedActivation(resizing(values), input.visibility.resized(of_regions))


@register_rule(F.grid_sample)
def grid_sample(
    input: MaskedActivation,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> MaskedActivation:
    """Sample a map at the places that an ordinary tensor names: visible is what is sampled from visible positions.

    As for `interpolate`, hidden positions are padded from their neighbours first, and a sample is visible from the share of
    visible positions on that `MaskingOptions` call coverage. What lies outside of the image is as in the plain model.
    """
    _check("grid_sample", input)
    if not isinstance(input, MaskedActivation) or isinstance(grid, Carrier):
        raise UnsupportedOperatorError(
            "torch.nn.functional.grid_sample is masked with an activation and an ordinary grid only; a grid that the model "
            "computes at every position would look anywhere, at hidden positions as well"
        )
    settled = MaskedActivation(input.values, input.visibility.settled)
    region = input.visibility.visible
    values = F.grid_sample(
        settled.completed_to(Mask(torch.ones_like(region.positions))), grid, mode, padding_mode, align_corners
    )
    if region.is_full and region.inside is None:
        return MaskedActivation(values, input.visibility.all_of(_all_of(region, values)))

    def sampled(of: Tensor) -> Tensor:
        shape = "bilinear" if mode == "bicubic" else mode
        result: Tensor = F.grid_sample(of[:, None].to(grid.dtype), grid, shape, padding_mode, align_corners)[:, 0]
        return result

    inside = (
        torch.ones_like(region.positions) if region.inside is None else region.inside.expand(region.positions.shape)
    )
    covered, possible = sampled(region.positions), sampled(inside)
    visible = (covered >= input.visibility.options.coverage * possible - 1e-5) & ((covered > 0) | (possible <= 0))
    is_lost = ~(visible & (covered > 0)).flatten(1).any(1)  # (N,)
    return MaskedActivation(values, input.visibility.all_of(Mask(visible | (is_lost[:, None, None] & (covered > 0)))))


def _all_of(region: Mask, values: Tensor) -> Mask:
    return Mask(region.positions.new_ones(values.shape[0], *values.shape[2:]))


@register_rule(*spellings("pixel_shuffle"))
def pixel_shuffle(input: MaskedActivation, upscale_factor: int) -> MaskedActivation:
    """Spread channels over a block of positions, each as visible as the one that it comes from."""
    _check("pixel_shuffle", input)
    return MaskedActivation(F.pixel_shuffle(input.values, upscale_factor), input.visibility.enlarged(upscale_factor))


@register_rule(*spellings("pixel_unshuffle"))
def pixel_unshuffle(input: MaskedActivation, downscale_factor: int) -> MaskedActivation:
    """Gather blocks of positions into channels: a convolution whose stride is its kernel, and padded like one."""
    _check("pixel_unshuffle", input)
    block = Window.block((downscale_factor, downscale_factor))
    values = F.pixel_unshuffle(input.padded_for(block), downscale_factor)
    return MaskedActivation(values, input.visibility.after_convolution(block))
