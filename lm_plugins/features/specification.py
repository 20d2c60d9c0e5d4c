"""Features in a word: ``"grid:16"`` and ``"slic:100"``, the same for adapters, audits and the command line."""

import re
from dataclasses import dataclass

from torch import Tensor

from lm_plugins.errors import OptionError
from lm_plugins.features.feature_mask import grid, superpixels

__all__ = ["Features"]


@dataclass(frozen=True)
class Features:
    """Which pixels of an image go together, whatever its size.

    Args:
        kind: ``"grid"`` (patches) or ``"slic"`` (superpixels).
        number: Pixels along a side of a patch, or about how many superpixels.

    Example:
        >>> import torch
        >>> from lm_plugins.features import Features
        >>> Features.of("grid:2")(torch.zeros(3, 2, 4))
        tensor([[0, 0, 1, 1],
                [0, 0, 1, 1]])
    """

    kind: str
    number: int

    @classmethod
    def of(cls, text: str) -> "Features":
        """From ``"grid:N"`` (patches of N x N pixels) or ``"slic:N"`` (about N superpixels), N from 1 to 999999.

        Args:
            text: The word.

        Raises:
            OptionError: It is neither.
        """
        kind, _, number = str(text).partition(":")
        if kind not in ("grid", "slic") or not re.fullmatch("0*[1-9][0-9]{0,5}", number):
            raise OptionError(
                f"{text!r} is neither grid:N (patches of N x N pixels) nor slic:N (about N superpixels), N from 1 to 999999."
            )
        return cls(kind, int(number))

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}"

    def __call__(self, image: Tensor) -> Tensor:
        """The feature mask of an image ``(C, H, W)``: int64 ``(H, W)`` with ids from 0.

        Raises:
            MissingDependencyError: Superpixels need scikit-image, which is not installed.
        """
        if self.kind == "grid":
            return grid((image.shape[-2], image.shape[-1]), self.number)
        return superpixels(image, n_segments=self.number, start_label=0)
