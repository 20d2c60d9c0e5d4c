"""Feature masks: integer maps in which pixels that share an id are removed together."""

from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lm_plugins.checks.explanations import warn_of_one_feature
from lm_plugins.errors import InputTypeError, MissingDependencyError, OptionError, ShapeError

__all__ = ["grid", "relabelled", "superpixels"]

Method = Literal["slic", "quickshift", "felzenszwalb"]


def grid(size: tuple[int, int], patch: int | tuple[int, int]) -> Tensor:
    """A feature mask of rectangular patches. The last row and column are smaller where the patches don't fit.

    Args:
        size: Height and width of the image.
        patch: Height and width of a patch, or both in one number; at least 1.

    Returns:
        Int64 ``(H, W)`` with ids from 0, row by row.

    Raises:
        OptionError: A number is below 1.

    Example:
        >>> from lm_plugins.features import grid
        >>> grid((4, 5), 2)
        tensor([[0, 0, 1, 1, 2],
                [0, 0, 1, 1, 2],
                [3, 3, 4, 4, 5],
                [3, 3, 4, 4, 5]])
    """
    height, width = (patch, patch) if isinstance(patch, int) else patch
    if min(*size, height, width) < 1:
        raise OptionError(f"sizes of images and patches are at least 1, got size={size} and patch={patch}.")
    rows = torch.arange(size[0]) // height
    columns = torch.arange(size[1]) // width
    return rows[:, None] * (columns[-1] + 1) + columns


def superpixels(image: Tensor | NDArray[Any], method: Method = "slic", **settings: Any) -> Tensor:
    """A feature mask of superpixels, by scikit-image.

    Args:
        image: One image: a tensor ``(C, H, W)`` or an array ``(H, W, C)`` with 1 or 3 channels, or ``(H, W)``. Uint8, or
            floats of any range: they are spread to [0, 1] first, since the algorithms weigh colours against distances.
        method: ``"slic"``, ``"quickshift"`` or ``"felzenszwalb"``.
        settings: Passed on to the function of that name in ``skimage.segmentation``, such as ``n_segments=100``.

    Returns:
        Int64 ``(H, W)`` with ids from 0 without gaps.

    Raises:
        OptionError: An unknown `method`.
        ShapeError: `image` is not one image.
        MissingDependencyError: scikit-image is not installed.

    Warns:
        ExplanationWarning: The whole image is one superpixel.
    """
    if method not in get_args(Method):
        raise OptionError(f"superpixels are made by one of {', '.join(map(repr, get_args(Method)))}; got {method!r}.")
    try:
        from skimage import segmentation
    except ImportError as error:
        raise MissingDependencyError("superpixels need scikit-image: pip install 'lm_plugins[superpixels]'.") from error
    array = image.detach().cpu().movedim(0, -1).numpy() if isinstance(image, Tensor) and image.ndim == 3 else image
    array = np.asarray(array)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise ShapeError(
            f"superpixels need one image, a tensor (C, H, W) or an array (H, W, C) with 1 or 3 channels; got shape "
            f"{tuple(image.shape)}."
        )
    array = array.astype(np.float64)
    low, high = array.min(), array.max()
    array = (array - low) / (high - low if high > low else 1)
    labels = getattr(segmentation, method)(np.repeat(array, 3, 2) if array.shape[2] == 1 else array, **settings)
    made = relabelled(labels)
    if not bool(made.any()) and made.numel() > 1 and settings.get("n_segments") != 1:
        remedy = (
            "Pass other settings (more n_segments=, another compactness= of slic), or take lm_plugins.features.grid."
        )
        warn_of_one_feature(f"superpixels by {method}", remedy)
    return made


def relabelled(feature_mask: Tensor | NDArray[Any]) -> Tensor:
    """Bring a feature mask with any ids to ids from 0 without gaps, in the order of the old ones.

    Args:
        feature_mask: Integer or bool, or floats that are whole numbers; any shape, negative ids too.

    Returns:
        Int64 of the same shape, on the device of `feature_mask`.

    Raises:
        InputTypeError: An id is no whole number.
        ShapeError: There is no pixel.

    Example:
        >>> import torch
        >>> from lm_plugins.features import relabelled
        >>> relabelled(torch.tensor([[1, 1], [7, -2]]))
        tensor([[1, 1],
                [2, 0]])
    """
    ids = feature_mask if isinstance(feature_mask, Tensor) else torch.from_numpy(np.ascontiguousarray(feature_mask))
    if not ids.numel():
        raise ShapeError(f"a feature mask holds an id for every pixel; got an empty one of shape {tuple(ids.shape)}.")
    if ids.is_floating_point() and not bool((ids == ids.round()).all()):
        raise InputTypeError("the ids of a feature mask are whole numbers; got fractions, infinity or NaN.")
    if ids.is_complex():
        raise InputTypeError(f"the ids of a feature mask are whole numbers; got {ids.dtype}.")
    inverse: Tensor = torch.unique(ids.long(), return_inverse=True)[1]
    return inverse
