"""An attribution on top of its image."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lm_plugins.errors import NonFiniteError, OptionError, ShapeError
from lm_plugins.plots.axes import axis_for

__all__ = ["attribution_overlay"]


def attribution_overlay(
    image: Tensor | NDArray[Any],
    attribution: Tensor | NDArray[Any],
    ax: Any = None,
    limit: float | None = None,
    opacity: float = 0.7,
) -> tuple[Any, Any]:
    """Draw an attribution over its image in grey: red speaks for the class, blue against it, white is zero.

    The scale is symmetric around zero, and transparent where the attribution is small.

    Args:
        image: ``(C, H, W)`` or, as an array, ``(H, W, C)``, with 1 or 3 channels, or ``(H, W)``; any range, which is spread
            to what can be shown.
        attribution: ``(H, W)``, ``(C, H, W)`` or ``(1, C, H, W)``; channels are summed.
        ax: A matplotlib axis to draw on; None makes a figure.
        limit: The value of the strongest colour. Give several plots the same one to compare them; None takes the 99th
            percentile of the sizes, so that single pixels do not fade all others.
        opacity: Of the strongest colour, in [0, 1].

    Returns:
        Figure and axis; the drawn map is the last of ``ax.images``, for a colour bar.

    Raises:
        ShapeError: Image and attribution do not fit.
        NonFiniteError: The attribution holds NaN or infinity.
        OptionError: `limit` is not above 0, or `opacity` outside of [0, 1].
        MissingDependencyError: matplotlib is not installed.
    """
    if limit is not None and not limit > 0:
        raise OptionError(f"limit is above 0, or None; got {limit!r}.")
    if not 0 <= opacity <= 1:
        raise OptionError(f"opacity is in [0, 1], got {opacity!r}.")
    values = _map(attribution)
    grey = _grey(image)
    if values.shape != grey.shape:
        raise ShapeError(f"the attribution is {values.shape}, the image {grey.shape}: interpolate the attribution.")
    if not np.isfinite(values).all():
        raise NonFiniteError("the attribution holds NaN or infinity.")
    sizes = np.abs(values)
    scale = limit or float(np.quantile(sizes, 0.99)) or float(sizes.max()) or 1.0
    fig, ax = axis_for(ax, (4.0, 4.0))
    ax.imshow(grey, cmap="gray", vmin=0, vmax=1)
    ax.imshow(values, cmap="RdBu_r", vmin=-scale, vmax=scale, alpha=opacity * np.clip(sizes / scale, 0, 1))
    ax.set_axis_off()
    return fig, ax


def _map(attribution: Tensor | NDArray[Any]) -> NDArray[np.float64]:
    array = _array(attribution)
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    array = array.sum(0) if array.ndim == 3 else array
    if array.ndim != 2:
        raise ShapeError(f"an attribution is (H, W), (C, H, W) or (1, C, H, W), got shape {tuple(attribution.shape)}.")
    return array


def _grey(image: Tensor | NDArray[Any]) -> NDArray[np.float64]:
    array = _array(image)
    if isinstance(image, Tensor):
        array = array[0] if array.ndim == 4 and len(array) == 1 else array
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    array = array.mean(-1) if array.ndim == 3 and array.shape[-1] in (1, 3) else array
    if array.ndim != 2:
        raise ShapeError(f"an image is a tensor (C, H, W) or an array (H, W, C), got shape {tuple(image.shape)}.")
    low, high = float(array.min()), float(array.max())
    grey: NDArray[np.float64] = (array - low) / (high - low if high > low else 1.0)
    return grey


def _array(values: Tensor | NDArray[Any]) -> NDArray[np.float64]:
    tensor = values.detach().cpu() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    return np.asarray(tensor.double().numpy())
