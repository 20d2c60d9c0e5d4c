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
from lm_plugins.masking.part import Part
from lm_plugins.masking.registry import register_rule, spellings
from lm_plugins.masking.rules.pooling import adaptive_avg_pool2d, precision
from lm_plugins.masking.tokens import MaskedTokens

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
    if isinstance(input, MaskedActivation) and isinstance(input.visibility.visible, Part):
        raise UnsupportedOperatorError("torch.nn.functional.grid_sample of copies of images: a matter of tokens")
    if not isinstance(input, MaskedActivation) or isinstance(grid, Carrier):
        raise UnsupportedOperatorError(
            "torch.nn.functional.grid_sample is masked for an activation, by an ordinary grid or one that tokens compute"
        )
    _check("grid_sample", input)
    settled = MaskedActivation(input.values, input.visibility.settled)
    region = input.visibility.visible
    values = F.grid_sample(
        settled.completed_to(Mask(torch.ones_like(region.positions))), grid, mode, padding_mode, align_corners
    )
    if region.is_full and region.inside is None:
        everywhere = Mask(region.positions.new_ones(values.shape[0], *values.shape[2:]))
        return MaskedActivation(values, input.visibility.all_of(everywhere))

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


@register_rule(F.grid_sample, tokens=True)
def grid_sample_at_tokens(
    input: Any, grid: Any, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Any:
    """Sample a map at places that the model computes, as deformable attention does: each sample belongs to its query.

    Hidden positions of the map are padded from their neighbours, as far as it takes, so that a sample there reads what lies
    next to it; 0 where nothing is visible. A sample is as visible as the query that asks for it.
    """
    as_map = _map_of(input)
    if as_map is None:
        raise UnsupportedOperatorError(f"torch.nn.functional.grid_sample of {input!r}, which is no map in order")
    everywhere = Mask(torch.ones_like(as_map.visibility.visible.positions))
    filled = MaskedActivation(as_map.values, as_map.visibility.settled).completed_to(everywhere)
    if not isinstance(grid, MaskedTokens):
        return F.grid_sample(filled, grid, mode, padding_mode, align_corners)
    grid = grid.whole()
    if not grid.is_channels(-1):
        raise UnsupportedOperatorError(f"torch.nn.functional.grid_sample with a grid {grid!r} of mixed positions")
    places = grid.with_hidden(0.0)  # what is hidden need not be a place at all
    values = F.grid_sample(filled, places, mode, padding_mode, align_corners)  # (N, C, queries, points)
    positions = tuple(one.aligned("nqpx", "ncqp") for one in grid.positions)
    return MaskedTokens(values, positions).simplified()


def _map_of(input: Any) -> MaskedActivation | None:
    """Tokens as the map (or maps of copies of images) that they are in order; None if they are none."""
    if not isinstance(input, MaskedTokens):
        return None
    whole = input.whole()
    found = whole.simplified()
    if isinstance(found, MaskedActivation) and found.dims == NCHW:
        return found
    images = whole.positions[0].as_images(whole.shape) if len(whole.positions) == 1 else None
    if images is None or images[1] != NCHW:
        return None
    return MaskedActivation(whole.values, *images)


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
