"""LIME's segments: superpixels with ids from 0 without gaps."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import segmentation
from torch import Tensor

from lm_plugins.checks.explanations import warn_of_one_feature
from lm_plugins.errors import InputTypeError, ShapeError
from lm_plugins.features import relabelled

__all__ = ["segments_of"]


def segments_of(
    image: NDArray[Any], segmentation_fn: Callable[[NDArray[Any]], Any] | None, seed: int
) -> NDArray[np.int64]:
    """Segment an image.

    LIME takes it for granted that ids run from 0 without gaps. Where they don't, as with today's ``slic``, which starts
    at 1, its last segments are never hidden. So they are relabelled here.

    Args:
        image: ``(H, W, 3)``.
        segmentation_fn: The user's own; None for LIME's default, quickshift.
        seed: Of quickshift.

    Returns:
        Int64 ``(H, W)``.

    Raises:
        InputTypeError: The ids are no whole numbers.
        ShapeError: They don't fit the image, or the default segmentation was asked for an image without three channels.

    Warns:
        ExplanationWarning: There is a single segment.
    """
    segments = _quickshift(image, seed) if segmentation_fn is None else segmentation_fn(image)
    ids = segments.detach().cpu().numpy() if isinstance(segments, Tensor) else np.asarray(segments)
    if ids.dtype.kind not in "biuf":
        raise InputTypeError(f"segmentation_fn returns an array of integers (H, W), got {type(segments).__name__}.")
    if ids.shape != image.shape[:2]:
        raise ShapeError(
            f"segmentation_fn returned shape {ids.shape} for an image {image.shape}: expected {image.shape[:2]}."
        )
    relabelled_ids: NDArray[np.int64] = relabelled(ids).numpy()
    if not relabelled_ids.any() and relabelled_ids.size > 1:
        maker = "LIME's quickshift" if segmentation_fn is None else "segmentation_fn"
        warn_of_one_feature(maker, "Pass segmentation_fn= with other settings, such as slic with more segments.")
    return relabelled_ids


def _quickshift(image: NDArray[Any], seed: int) -> Any:
    if image.shape[2] != 3:
        raise ShapeError(
            f"LIME's default segmentation needs an image with 1 or 3 channels, got {image.shape[2]}; pass segmentation_fn=, "
            "a function from the image to integers (H, W)."
        )
    quickshift: Callable[..., Any] = segmentation.quickshift
    # scikit-image 0.21 renamed it. LIME still passes the old name, which is dropped without a word.
    name = "rng" if "rng" in inspect.signature(quickshift).parameters else "random_seed"
    return quickshift(image, kernel_size=4, max_dist=200, ratio=0.2, **{name: seed})
