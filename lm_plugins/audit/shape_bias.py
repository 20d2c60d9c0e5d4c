"""Shape bias and shape leakage: what the outline of a hole tells a model."""

import torch
from torch import Tensor

from lm_plugins.audit.removal_order import feature_means
from lm_plugins.checks import check_target
from lm_plugins.errors import OptionError, ShapeError

__all__ = ["salient_region", "shape_leakage", "swapped_quadrants"]


def swapped_quadrants(region: Tensor) -> Tensor:
    """The same region with opposite quadrants of the image swapped: as large, but of another shape.

    Args:
        region: ``(..., H, W)``.

    Returns:
        The same shape, rolled by half the height and half the width.

    Raises:
        ShapeError: `region` has fewer than two dimensions.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import swapped_quadrants
        >>> swapped_quadrants(torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]]))
        tensor([[0, 0, 1, 0],
                [0, 0, 1, 1]])

    References:
        Balasubramanian and Feizi, ICCV 2023, "broken masks".
    """
    if region.ndim < 2:
        raise ShapeError(f"a region is (..., H, W), got shape {tuple(region.shape)}.")
    return region.roll((region.shape[-2] // 2, region.shape[-1] // 2), (-2, -1))


def salient_region(saliency: Tensor, feature_mask: Tensor, share: float = 0.25) -> Tensor:
    """The most salient features, up to a share of the image: an object mask for images that have none.

    Args:
        saliency: ``(H, W)``, such as `gradient_saliency`.
        feature_mask: Integer ``(H, W)`` with ids from 0, superpixels best.
        share: Of the pixels, in (0, 1); the feature that reaches it is the last.

    Returns:
        Bool ``(H, W)``, at least one feature.

    Raises:
        OptionError: `share` is not between 0 and 1.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import salient_region
        >>> salient_region(torch.tensor([[0.0, 5.0, 1.0, 1.0]]), torch.tensor([[0, 1, 2, 2]]))
        tensor([[False,  True, False, False]])
    """
    if not 0 < share < 1:
        raise OptionError(f"share is between 0 and 1, got {share!r}.")
    order = feature_means(saliency, feature_mask).argsort(descending=True, stable=True)
    sizes = torch.bincount(feature_mask.flatten().cpu())[order]
    before = sizes.cumsum(0) - sizes  # pixels that are covered before each feature
    return torch.isin(feature_mask, order[before < share * feature_mask.numel()].to(feature_mask.device))


def shape_leakage(of_shape: Tensor, of_swapped: Tensor, target: int) -> Tensor:
    r"""How much the hole of an object, cut into other images, pulls towards the class of that object.

    .. math::
        \text{leakage}_j = p_t(x_j \mid \text{hole of the object}) - p_t(x_j \mid \text{the same hole, quadrants swapped})

    with t the class of the object and x_j an image of something else. The swapped hole is as large, so that what is left
    is due to the shape.

    Args:
        of_shape: Probabilities of images with the object's hole, ``(N, classes)``.
        of_swapped: The same images with swapped quadrants, ``(N, classes)``.
        target: The class t.

    Returns:
        ``(N,)`` from -1 to 1; 0 = the shape says nothing.

    Raises:
        ShapeError: The two do not fit.
        OptionError: There is no such class.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import shape_leakage
        >>> shape_leakage(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.75, 0.25]]), target=1)
        tensor([0.2500])

    References:
        The effect: Balasubramanian and Feizi, ICCV 2023 ("the shape of the mask can leak the class"). The number is ours.
    """
    if of_shape.shape != of_swapped.shape or of_shape.ndim != 2:
        raise ShapeError(f"expected (N, classes) twice, got {tuple(of_shape.shape)} and {tuple(of_swapped.shape)}.")
    check_target(target, tuple(of_shape.shape[1:]))
    return of_shape[:, target] - of_swapped[:, target]
