"""Confidence intervals by the bootstrap over images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lm_plugins.errors import OptionError

__all__ = ["entropy_interval", "mean_interval"]

#: How often images are drawn anew.
DRAWS = 1000


def mean_interval(
    values: Sequence[float] | NDArray[np.float64], seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """A bootstrap percentile interval of a mean.

    Args:
        values: One number for each image.
        seed: Of the draws: equal numbers and seeds give equal intervals.
        level: Of confidence, between 0 and 1.

    Returns:
        The low and the high end; both are the value if there is only one.

    Raises:
        OptionError: There is no value, or the level is not between 0 and 1.

    Example:
        >>> from lm_plugins.audit import mean_interval
        >>> mean_interval([1.0, 1.0, 1.0, 1.0])
        (1.0, 1.0)

    References:
        Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    numbers = _checked(values, level)
    return _percentiles(numbers[_draws(len(numbers), seed)].mean(1), level)


def entropy_interval(
    classes: Sequence[float] | NDArray[np.float64], seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """A bootstrap interval of the entropy of predicted classes.

    Images drawn with replacement hold fewer different classes than the images themselves, so that their entropy is too
    low. The percentiles are moved up by what it is too low on average.

    Args:
        classes: A class index for each image.
        seed: Of the draws.
        level: Of confidence, between 0 and 1.

    Returns:
        The low and the high end, within what an entropy of so many images can be.

    Raises:
        OptionError: There is no value, or the level is not between 0 and 1.
    """
    numbers = _checked(classes, level)
    names, codes = np.unique(numbers, return_inverse=True)
    draws = codes[_draws(len(codes), seed)]
    counts = np.zeros((DRAWS, len(names)))
    np.add.at(counts, (np.arange(DRAWS)[:, None], draws), 1.0)
    entropies = _entropy(counts / len(codes))
    centre = float(_entropy(np.bincount(codes)[None] / len(codes))[0])
    low, high = _percentiles(entropies - entropies.mean() + centre, level)
    return max(low, 0.0), min(high, float(np.log(len(codes))))


def _entropy(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    logs = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    total: NDArray[np.float64] = -(shares * logs).sum(1)
    return total


def _checked(values: Sequence[float] | NDArray[np.float64], level: float) -> NDArray[np.float64]:
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != 1 or not len(numbers):
        raise OptionError(f"a confidence interval needs at least one number, got an array of shape {numbers.shape}.")
    if not 0 < level < 1:
        raise OptionError(f"level is between 0 and 1, got {level!r}.")
    return numbers


def _draws(count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, count, (DRAWS, count))


def _percentiles(statistics: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
