"""Otsu's threshold, and maps of several layers fused by it from shallow to deep."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lm_plugins.errors import OptionError, ShapeError

__all__ = ["Fusion", "fused", "otsu_threshold", "raised_threshold"]

#: ``"soft"``: a steep sigmoid at the threshold; ``"hard"``: the binary mask above it; ``"simple"``: the map itself.
Fusion = Literal["soft", "hard", "simple"]

#: A threshold is raised where it leaves less than this share of the pixels.
_RAISED_BELOW = 0.1


def otsu_threshold(values: Tensor) -> float:
    r"""Otsu's threshold of some values: it splits them into two classes of the largest variance between them.

    .. math::
        \max_t \; n_0 n_1 (\mu_0 - \mu_1)^2

    of the n values at most t and above t with their means. Every split of the sorted values is looked at, not the bins
    of a histogram.

    Args:
        values: Floating point, any shape; not all equal.

    Returns:
        The middle between the two classes; values above it are the upper one. Of equally good splits the lowest.

    Raises:
        ShapeError: All values are equal, or there are none: there is nothing to separate.

    Example:
        >>> import torch
        >>> from lm_plugins.attribution import otsu_threshold
        >>> round(otsu_threshold(torch.tensor([0.0, 0.2, 0.8, 1.0])), 6)
        0.5

    References:
        Otsu, "A threshold selection method from gray-level histograms", IEEE Transactions on Systems, Man, and
        Cybernetics 9, 1979.
    """
    if not values.numel() or bool(values.min() == values.max()):
        raise ShapeError(f"Otsu's threshold separates different values, got {values.numel()} equal ones.")
    ordered = values.detach().double().flatten().sort().values.cpu()
    n = torch.arange(1, len(ordered), dtype=torch.float64)
    sums = ordered.cumsum(0)
    means = sums[:-1] / n, (sums[-1] - sums[:-1]) / (len(ordered) - n)
    between = n * (len(ordered) - n) * (means[0] - means[1]) ** 2
    # Equal values belong to one class.
    between = between.masked_fill(ordered[:-1] == ordered[1:], -1.0)
    split = int(between.argmax())
    low, high = float(ordered[split]), float(ordered[split + 1])
    middle = low + (high - low) / 2
    return middle if middle < high else low


def raised_threshold(values: Tensor, factor: float) -> float:
    """Otsu's threshold, multiplied by a factor where little lies above the product, as in the course code of SISE.

    Args:
        values: A map in [0, 1], not constant.
        factor: At least 1.

    Returns:
        Factor times the threshold if at least one value, but less than a tenth of them, lies above that; else the
        threshold.

    Example:
        >>> import torch
        >>> from lm_plugins.attribution.fusion import raised_threshold
        >>> values = torch.cat([torch.full((95,), 0.1), torch.full((5,), 0.9)])
        >>> round(raised_threshold(values, 1.0), 6), round(raised_threshold(values, 1.5), 6)
        (0.5, 0.75)
    """
    threshold = otsu_threshold(values)
    above = values > factor * threshold
    return factor * threshold if bool(above.any()) and above.double().mean() < _RAISED_BELOW else threshold


def fused(
    maps: Sequence[Tensor],
    how: Fusion = "soft",
    temperature: float = 100.0,
    otsu_factor: float = 1.0,
    weight: float = 1.0,
) -> Tensor:
    r"""Fuse the maps of several layers from shallow to deep.

    .. math::
        E_1 = V_1, \qquad E_i = \bigl(w E_{i-1} + (2 - w) V_i\bigr) \odot B(V_i)

    B masks what lies above a threshold t of :math:`V_i`: :math:`B(V) = 1[V > t]` (hard, as the formula is published),
    :math:`B(V) = 1 / (1 + e^{-T (V - t)})` (soft, as in the course code of the authors' group), or is the map itself
    (simple, an option of that code). The deeper map decides where something is, the shallower ones how its outline runs.

    Args:
        maps: V, from shallow to deep: ``(H, W)`` each, in [0, 1], none of them constant.
        how: ``"soft"``, ``"hard"`` or ``"simple"``.
        temperature: The steepness T of the soft mask, above 0.
        otsu_factor: What Otsu's threshold is multiplied by where less than a tenth of the pixels, but any, lie above the
            product; at least 1. The published formula has none (1), the course code has 1.5.
        weight: w, of what the shallower layers gave, from 0 to 2; 1 weighs both alike, as published.

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
    check_fusion(how, temperature, otsu_factor, weight)
    if not len(maps):
        raise ShapeError("there is no map to fuse.")
    result = maps[0]
    for one in maps[1:]:
        result = (weight * result + (2 - weight) * one) * _gate(one, how, temperature, otsu_factor)
    return result


def check_fusion(how: Fusion, temperature: float, otsu_factor: float, weight: float) -> None:
    """Check the options of a fusion.

    Args:
        how: See `fused`.
        temperature: See `fused`.
        otsu_factor: See `fused`.
        weight: See `fused`.

    Raises:
        OptionError: An option is not one of those that `fused` lists.
    """
    if how not in get_args(Fusion):
        raise OptionError(f"fusion is one of {', '.join(map(repr, get_args(Fusion)))}; got {how!r}.")
    if not temperature > 0:
        raise OptionError(f"temperature is above 0, got {temperature!r}.")
    if not otsu_factor >= 1:
        raise OptionError(f"otsu_factor is at least 1, got {otsu_factor!r}.")
    if not 0 <= weight <= 2:
        raise OptionError(f"weight is from 0 to 2, got {weight!r}.")


def _gate(values: Tensor, how: Fusion, temperature: float, otsu_factor: float) -> Tensor:
    """B: what of the fused map a layer lets through."""
    if how == "simple":
        return values
    above = values - raised_threshold(values, otsu_factor)
    return torch.sigmoid(temperature * above) if how == "soft" else above > 0
