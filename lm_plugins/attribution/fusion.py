"""Otsu's threshold, and maps of several layers fused by it from shallow to deep."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lm_plugins.errors import MissingDependencyError, OptionError, ShapeError

__all__ = ["Fusion", "fused", "otsu_threshold"]

#: ``"soft"``: a steep sigmoid at Otsu's threshold; ``"hard"``: the binary mask above it.
Fusion = Literal["soft", "hard"]


def otsu_threshold(values: Tensor, bins: int = 256) -> float:
    """Otsu's threshold of some values, by scikit-image.

    Args:
        values: Floating point, any shape; not all equal.
        bins: Of the histogram between the smallest and the largest value.

    Returns:
        The threshold, the centre of a bin; values above it are foreground. The smallest value is not, the largest is.

    Raises:
        ShapeError: All values are equal, or there are none: there is nothing to separate.
        MissingDependencyError: scikit-image is not installed.

    Example:
        >>> import torch
        >>> from lm_plugins.attribution import otsu_threshold
        >>> 0.0 < otsu_threshold(torch.tensor([0.0, 0.0, 0.9, 1.0])) < 0.9
        True
    """
    if not values.numel() or bool(values.min() == values.max()):
        raise ShapeError(f"Otsu's threshold separates different values, got {values.numel()} equal ones.")
    try:
        from skimage.filters import threshold_otsu
    except ImportError as error:
        raise MissingDependencyError(
            "Otsu's threshold needs scikit-image: pip install 'lm_plugins[attribution]'."
        ) from error
    array = values.detach().double().cpu().numpy()
    return float(threshold_otsu(array, nbins=bins))  # type: ignore[no-untyped-call, unused-ignore]


def fused(maps: Sequence[Tensor], how: Fusion = "soft", temperature: float = 100.0) -> Tensor:
    r"""Fuse the maps of several layers from shallow to deep.

    .. math::
        E_1 = V_1, \qquad E_i = (E_{i-1} + V_i) \odot B(V_i)

    B masks what lies above Otsu's threshold t of :math:`V_i`: :math:`B(V) = 1[V > t]` (hard, as the formula is published),
    or :math:`B(V) = 1 / (1 + e^{-T (V - t)})` (soft, as in the course code of the authors' group). The deeper map decides
    where something is, the shallower ones how its outline runs.

    Args:
        maps: V, from shallow to deep: ``(H, W)`` each, in [0, 1], none of them constant.
        how: ``"soft"`` or ``"hard"``.
        temperature: The steepness T of the soft mask, above 0.

    Returns:
        ``(H, W)``.

    Raises:
        OptionError: An option is not one of these.
        ShapeError: There is no map, or one is constant.

    Example:
        >>> import torch
        >>> from lm_plugins.attribution import fused
        >>> fused([torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[0.0, 1.0, 0.9]])], "hard")
        tensor([[0.0000, 1.5000, 0.9000]])
    """
    if how not in get_args(Fusion):
        raise OptionError(f"fusion is one of {', '.join(map(repr, get_args(Fusion)))}; got {how!r}.")
    if not temperature > 0:
        raise OptionError(f"temperature is above 0, got {temperature!r}.")
    if not len(maps):
        raise ShapeError("there is no map to fuse.")
    result = maps[0]
    for one in maps[1:]:
        above = one - otsu_threshold(one)
        result = (result + one) * (torch.sigmoid(temperature * above) if how == "soft" else above > 0)
    return result
