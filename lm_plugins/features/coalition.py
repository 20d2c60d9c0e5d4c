"""Coalitions of features, and the pixels that they make visible."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.errors import InputTypeError, MaskValueError, ShapeError

__all__ = ["visible_from"]


def visible_from(coalitions: Tensor, feature_mask: Tensor) -> Tensor:
    """The pixels that are visible when only the features of a coalition are present.

    One gather on the device of the feature mask.

    Args:
        coalitions: Bool, or 0/1 of any dtype: ``(K, F)``, True = the feature is present.
        feature_mask: Integer ``(H, W)`` with ids from 0 to F - 1, as `relabelled` makes them.

    Returns:
        Bool ``(K, H, W)``.

    Raises:
        ShapeError: `coalitions` is not ``(K, F)``, `feature_mask` not ``(H, W)``, or it has other features.
        InputTypeError: `feature_mask` is not of an integer dtype.
        MaskValueError: `coalitions` holds something other than 0 and 1.

    Example:
        >>> import torch
        >>> from lm_plugins.features import visible_from
        >>> visible_from(torch.tensor([[True, False]]), torch.tensor([[0, 1], [1, 0]]))
        tensor([[[ True, False],
                 [False,  True]]])
    """
    if coalitions.ndim != 2:
        raise ShapeError(f"expected coalitions (K, F), got {tuple(coalitions.shape)}.")
    features = checked_features(feature_mask, coalitions.shape[1])
    return spread(present_in(coalitions, features.device), features)


def checked_features(feature_mask: Tensor, count: int) -> Tensor:
    """A feature mask as `spread` needs it.

    Args:
        feature_mask: See `visible_from`.
        count: The number of features.

    Returns:
        The same, int64.

    Raises:
        ShapeError: It is not ``(H, W)``, or has other features.
        InputTypeError: It is not of an integer dtype.
    """
    if feature_mask.ndim != 2:
        raise ShapeError(f"expected a feature mask (H, W), got {tuple(feature_mask.shape)}.")
    if feature_mask.is_floating_point() or feature_mask.is_complex() or feature_mask.dtype == torch.bool:
        raise InputTypeError(
            f"a feature mask is of an integer dtype, got {feature_mask.dtype}; lm_plugins.features.relabelled converts it."
        )
    low, high = int(feature_mask.min()), int(feature_mask.max())
    if low < 0 or high >= count:
        raise ShapeError(
            f"the feature mask has ids from {low} to {high}, the coalitions {count} features; "
            "lm_plugins.features.relabelled makes ids from 0 without gaps."
        )
    return feature_mask.long()


def present_in(coalitions: Tensor, device: torch.device) -> Tensor:
    """Coalitions as `spread` needs them.

    Args:
        coalitions: Bool, or 0/1 of any dtype.
        device: Of the feature mask.

    Returns:
        Bool, on that device.

    Raises:
        MaskValueError: They hold something other than 0 and 1.
    """
    present = coalitions.to(device)
    if present.dtype == torch.bool:
        return present
    if not bool(((present == 0) | (present == 1)).all()):
        raise MaskValueError("coalitions hold 0 (absent) and 1 (present) only.")
    return present == 1


def spread(present: Tensor, feature_mask: Tensor) -> Tensor:
    """As `visible_from`, of what has been checked: bool ``(K, F)`` and int64 ``(H, W)``.

    A look-up of whole rows, one a pixel: several times as fast as indexing the columns.
    """
    return F.embedding(feature_mask, present.T.contiguous()).permute(2, 0, 1).contiguous()
