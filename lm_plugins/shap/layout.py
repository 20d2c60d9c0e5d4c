"""Features of one image: which value of the image belongs to which feature, and credit spread over the pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lm_plugins.errors import InputTypeError, MaskValueError, OptionError, ShapeError
from lm_plugins.features import Features as InAWord
from lm_plugins.features import grid, relabelled
from lm_plugins.shap.hierarchy import centres_of, hierarchy_of_features, hierarchy_of_pixels

__all__ = ["Features", "Layout", "as_numpy", "by_image", "feature_mask_of"]

#: None: every pixel is a feature. A patch size, (height, width) of a patch, "grid:16" or "slic:100", a feature mask (H, W),
#: or a function of an image, an array (H, W, C), that returns one.
Features = int | str | Sequence[int] | Tensor | NDArray[Any] | Callable[[NDArray[Any]], Tensor | NDArray[Any]] | None


def as_numpy(images: Any) -> NDArray[Any]:
    """Images as an array on the CPU: of an array, a tensor on any device, or a sequence of them."""
    if isinstance(images, Tensor):
        return np.asarray(images.detach().cpu())
    return images if isinstance(images, np.ndarray) else np.stack([as_numpy(image) for image in images])


def by_image(features: Features) -> Features:
    """A word, such as ``"slic:100"``, as the function of an image that it stands for; anything else as it is.

    Raises:
        OptionError: The word is neither ``grid:N`` nor ``slic:N``.
    """
    return partial(_in_a_word, InAWord.of(features)) if isinstance(features, str) else features


def _in_a_word(word: InAWord, image: NDArray[Any]) -> Tensor:
    return word(torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0))))


def feature_mask_of(features: Features, shape: Sequence[int], image: Any = None) -> NDArray[np.int64]:
    """The feature mask that an argument ``features=`` means.

    Args:
        features: See `Features`.
        shape: Height and width of the image, and whatever follows.
        image: ``(H, W, C)``, array or tensor, for a function of it; it gets an array.

    Returns:
        Int64 ``(H, W)`` with ids from 0 to K - 1.

    Raises:
        ShapeError: The feature mask has another height or width than the image.
        InputTypeError: It is no array or tensor, or an id is no whole number.
        OptionError: A patch size is below 1, or a word is neither ``grid:N`` nor ``slic:N``.

    Example:
        >>> from lm_plugins.shap.layout import feature_mask_of
        >>> feature_mask_of((1, 2), (2, 4))
        array([[0, 0, 1, 1],
               [2, 2, 3, 3]])
    """
    height, width = size = int(shape[0]), int(shape[1])
    if features is None:
        return np.arange(height * width).reshape(size)
    features = by_image(features)
    made = features(as_numpy(image)) if callable(features) else features
    if isinstance(made, (int, np.integer)) and not isinstance(made, bool) and not callable(features):
        made = (int(made), int(made))
    if isinstance(made, tuple) and len(made) == 2 and not callable(features):
        if not all(isinstance(side, (int, np.integer)) for side in made):
            raise OptionError(f"a patch has a height and a width, two whole numbers; got features={features!r}.")
        return np.asarray(grid(size, (int(made[0]), int(made[1]))))
    if not isinstance(made, (Tensor, np.ndarray)):
        source = "the function features= returned" if callable(features) else "features is"
        raise InputTypeError(
            f"{source} {type(made).__name__}; expected a feature mask ({height}, {width}), a tensor or an array"
            f"{'' if callable(features) else ', or a patch size such as 16, or a function of an image'}."
        )
    if tuple(made.shape) != size:
        raise ShapeError(f"the feature mask has shape {tuple(made.shape)}, the image {tuple(shape)}: expected {size}.")
    return np.asarray(relabelled(made).cpu())


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the features of one image lie.

    Args:
        feature_mask: Int64 ``(H, W)`` with ids from 0 to K - 1.
        channels: The number of channels C of the image.
    """

    feature_mask: NDArray[np.int64]
    channels: int

    @cached_property
    def count(self) -> int:
        """The number of features K."""
        return int(self.feature_mask.max()) + 1

    @cached_property
    def hierarchy_of_features(self) -> NDArray[np.float64]:
        """Of K leaves, ``(K - 1, 4)``."""
        return hierarchy_of_features(centres_of(self.feature_mask))

    @cached_property
    def hierarchy_of_pixels(self) -> NDArray[np.float64]:
        """Of H * W * C leaves."""
        return hierarchy_of_pixels(self.feature_mask, self.channels)

    @cached_property
    def _first(self) -> NDArray[np.int64]:
        """A pixel of each feature."""
        return np.unique(self.feature_mask, return_index=True)[1]

    def visible_from_values(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The pixel mask that a mask of all values of the image means.

        Args:
            mask: Bool ``(H * W * C,)``, True = kept.

        Returns:
            Bool ``(H, W)``.

        Raises:
            MaskValueError: It keeps only a part of a feature.
        """
        values = mask.reshape(-1, self.channels)
        visible: NDArray[np.bool_] = values[self._first, 0][self.feature_mask]
        if not np.array_equal(values, np.broadcast_to(visible.reshape(-1, 1), values.shape)):
            raise MaskValueError(
                "the explainer keeps only a part of a feature, such as some channels of a pixel; a feature is visible or "
                "hidden as a whole. The Partition explainer respects this; for Permutation and Exact use "
                'lm_plugins.shap.Masker(shape, features, values="features").'
            )
        return visible

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """Divide the credit of each feature evenly among its pixels and channels, which keeps the sum.

        Args:
            values: ``(K, ...)``.

        Returns:
            ``(H, W, C, ...)``.

        Raises:
            ShapeError: There are not K values.
        """
        if len(values) != self.count:
            raise ShapeError(f"expected {self.count} values, one for each feature; got {len(values)}.")
        sizes = np.bincount(self.feature_mask.ravel()).reshape(-1, *(1,) * (values.ndim - 1))
        pixels = (values / (sizes * self.channels))[self.feature_mask]
        return np.repeat(pixels[:, :, None], self.channels, 2)
