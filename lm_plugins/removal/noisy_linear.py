"""Removal by noisy linear imputation, as ROAD does it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lm_plugins.checks import check_images
from lm_plugins.errors import MissingDependencyError, OptionError
from lm_plugins.removal.protocol import PixelRemoval

__all__ = ["NoisyLinear"]

#: Of the eight neighbours of a pixel, those beside it count twice as much as those across a corner (ROAD, section 4.2).
_NEIGHBOURS = [(i, j, 2.0 if 0 in (i, j) else 1.0) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]


@dataclass(frozen=True)
class NoisyLinear(PixelRemoval):
    """Impute hidden pixels linearly: each is the weighted mean of its eight neighbours, plus a little noise.

    The hidden pixels of an image are solved for together (a sparse linear system, by SciPy on the CPU), so that holes
    are filled smoothly from their rims. At the border of the image the missing neighbours are left out of the mean. An
    image of which nothing is visible becomes the noise alone.

    Args:
        noise: Standard deviation of the noise, at least 0, in the normalised space of the model's input.
        seed: Of the noise, which depends on nothing else but the image's size.

    Raises:
        OptionError: `noise` is below 0.
        MissingDependencyError: SciPy is not installed.

    Example:
        >>> import torch
        >>> from lm_plugins.removal import NoisyLinear
        >>> x = torch.tensor([1.0, 9.0, 9.0, 4.0]).expand(1, 1, 1, 4)
        >>> visible = torch.tensor([True, False, False, True])[None, None]
        >>> NoisyLinear(noise=0.0).replaced(x, visible)[0, 0, 0]
        tensor([1., 2., 3., 4.])

    References:
        Rong et al., "A consistent and efficient evaluation strategy for attribution methods", ICML 2022.
    """

    noise: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise OptionError(f"NoisyLinear.noise is a standard deviation of at least 0, got {self.noise!r}.")

    def replaced(self, x: Tensor, visible: Tensor) -> Tensor:
        """Impute hidden pixels; shapes as in `PixelRemoval.replaced`."""
        check_images(x, type(self).__name__)
        generator = torch.Generator().manual_seed(self.seed)
        noise = self.noise * torch.randn(x.shape[1:], generator=generator).to(x)
        result = torch.where(visible[:, None], x, noise)
        for image, mask in zip(result, visible.cpu(), strict=True):
            if bool(mask.all()) or not bool(mask.any()):
                continue
            seen = image[:, mask.to(x.device)].double().cpu().numpy()
            imputed = torch.from_numpy(_solution(mask.numpy(), seen)).to(x)
            image[:, ~mask.to(x.device)] += imputed
        return result


def _solution(visible: NDArray[np.bool_], seen: NDArray[Any]) -> NDArray[Any]:
    """Values ``(C, hidden)`` of the hidden pixels, given those ``(C, visible)`` of the visible ones."""
    try:
        from scipy.sparse import csc_matrix
        from scipy.sparse.linalg import splu
    except ImportError as error:
        raise MissingDependencyError("NoisyLinear needs SciPy: pip install 'lm_plugins[imputation]'.") from error
    height, width = visible.shape
    hidden_at = np.stack(np.nonzero(~visible))  # (2, hidden)
    number = np.zeros(visible.shape, np.int64)
    number[visible] = np.arange(visible.sum())
    number[~visible] = np.arange(hidden_at.shape[1])
    weights = np.zeros((hidden_at.shape[1],))
    rows, columns, values, right = [], [], [], np.zeros((seen.shape[0], hidden_at.shape[1]))
    for down, across, weight in _NEIGHBOURS:
        row, column = hidden_at[0] + down, hidden_at[1] + across
        inside = np.nonzero((row >= 0) & (row < height) & (column >= 0) & (column < width))[0]
        row, column = row[inside], column[inside]
        weights[inside] += weight
        is_seen = visible[row, column]
        right[:, inside[is_seen]] += weight * seen[:, number[row, column][is_seen]]
        rows.append(inside[~is_seen])
        columns.append(number[row, column][~is_seen])
        values.append(np.full(len(rows[-1]), -weight))
    every = np.arange(len(weights))
    system = csc_matrix(
        (np.concatenate([*values, weights]), (np.concatenate([*rows, every]), np.concatenate([*columns, every])))
    )
    return np.ascontiguousarray(splu(system).solve(right.T).T)
