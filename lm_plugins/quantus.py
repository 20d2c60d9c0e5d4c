"""Quantus' faithfulness metrics with any removal.

Metrics that remove patches need no adapter: ``lm.LayerMasked(model)`` with ``perturb_baseline=lm.MASKED``. `PixelMasks` is
for those that remove single features, `hide_segments` for IROF.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lm_plugins.checks import check_evaluation_mode, check_finite, check_images
from lm_plugins.errors import InputTypeError, MaskValueError, ShapeError
from lm_plugins.masking import MASKED
from lm_plugins.outputs.words import Output, parted, rows_of
from lm_plugins.removal import Removal, as_removal

__all__ = ["PixelMasks", "hide_segments"]

_WHAT = "Quantus"


class PixelMasks(nn.Module):
    """A model of pixel masks, for metrics that flip single features (PixelFlipping, FaithfulnessCorrelation, ...).

    These perturb each channel of each pixel by itself, while a pixel is visible or hidden as a whole. Given masks with one
    channel in place of the images, they perturb pixels, with any removal. The masks carry the number of their image, so
    that Quantus may split and repeat batches as it likes.

    Args:
        model: A model of images ``(N, C, H, W)``, in evaluation mode.
        images: The images to evaluate, ``(N, C, H, W)``: a floating-point tensor or array.
        removal: How pixels are removed: an object or a name of `lm_plugins.removal`; layer masking by default.
        output: A word for what the model returns, for the probabilities that it means (leave Quantus' ``softmax=False``); or
            a function that chooses ``(N, classes)``. None takes what it returns.

    Raises:
        ShapeError: `images` is no batch of images.
        InputTypeError: It is neither a tensor nor an array, or not floating point.
        NonFiniteError: A pixel is infinite or NaN.

    Example:
        >>> import numpy as np, torch
        >>> from lm_plugins.quantus import PixelMasks
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
        >>> masks = PixelMasks(model, np.random.rand(2, 3, 8, 8).astype("float32"))
        >>> masks.x_batch.shape
        (2, 1, 8, 8)

        Then ``quantus.PixelFlipping(features_in_step=8, perturb_baseline=0.0)(model=masks, x_batch=masks.x_batch, ...)`` with
        attributions ``(N, 1, H, W)``.
    """

    images: Tensor

    def __init__(
        self,
        model: nn.Module,
        images: Tensor | NDArray[Any],
        removal: Removal | str | None = None,
        output: Output | None = None,
    ) -> None:
        super().__init__()
        batch = torch.as_tensor(images) if isinstance(images, np.ndarray) else images
        check_images(batch, _WHAT)
        check_finite(batch, _WHAT)
        self.model = model
        # It has no mode of its own: that of the model is asked in every call.
        self.training = False
        self.register_buffer("images", batch, persistent=False)
        self._forward = as_removal(removal)(model)
        parted(output)  # an unknown word is said now
        self._output = output

    @property
    def x_batch(self) -> NDArray[np.float32]:
        """What to pass to a metric as ``x_batch``: ``(N, 1, H, W)``, the number of the image (from 1) plus a fraction of it.

        The fraction differs from pixel to pixel, so that a value that Quantus makes of the others shows.
        """
        n, _, h, w = self.images.shape
        numbers = np.arange(1, n + 1, dtype=np.float32)[:, None, None, None]
        fractions: NDArray[np.float32] = numbers + _fractions(h, w).numpy()
        return fractions

    def forward(self, masks: Tensor) -> Tensor:
        """Run the model on the images that the masks name.

        Args:
            masks: ``(K, 1, H, W)``, rows of `x_batch` with 0 at hidden pixels. A row without visible pixels stands for
                any image: what a removal makes of nothing does not depend on it.

        Returns:
            ``(K, classes)``.

        Raises:
            ShapeError: `masks` are not ``(K, 1, H, W)`` of the images' size.
            MaskValueError: They hold something else than 0 and rows of `x_batch`, such as a baseline of Quantus' own.
            TrainingModeError: The model or a part of it is in training mode.
        """
        check_evaluation_mode(self.model, _WHAT)
        if masks.ndim != 4 or masks.shape[1] != 1 or masks.shape[2:] != self.images.shape[2:]:
            size = tuple(self.images.shape[2:])
            raise ShapeError(
                f"expected rows of PixelMasks.x_batch, (K, 1, {size[0]}, {size[1]}), got {tuple(masks.shape)}."
            )
        number = masks.amax((1, 2, 3)).floor()
        visible = masks != 0
        rows = number[:, None, None, None] + _fractions(masks.shape[2], masks.shape[3]).to(masks)
        if not bool(((masks == rows) | ~visible).all() & (number >= 0).all() & (number <= len(self.images)).all()):
            raise MaskValueError(
                "masks are rows of PixelMasks.x_batch with 0 where a pixel is hidden; something else was painted into them. "
                "Pass x_batch=PixelMasks.x_batch and perturb_baseline=0.0 to the metric, in place of Quantus' own 'black', "
                "'white', 'mean', 'uniform', ...: removal= says what becomes of hidden pixels."
            )
        x = self.images[(number.long() - 1).clamp(min=0)]
        return rows_of(self._forward(x, visible), len(x), self._output)


def _fractions(height: int, width: int) -> Tensor:
    """The fraction of every pixel, ``(H, W)``: two take turns, and two pixels have the least and the greatest.

    So the minimum, maximum or mean of a row of `PixelMasks.x_batch` is what no other pixel, or no pixel at all, may hold.
    """
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    fractions = torch.where((rows + columns) % 2 == 0, 0.25, 0.5)
    fractions[0, 0] = 0.125
    fractions[-1, -1] = 0.75
    return fractions


def hide_segments(arr: NDArray[Any], mask: NDArray[np.bool_], **settings: Any) -> NDArray[Any]:
    """A ``perturb_func`` for `quantus.IROF` on ``lm.LayerMasked(model)``: hide the pixels of a segment.

    Quantus' own function asks for masks with as many channels as the images have, and is given masks with one.

    Args:
        arr: Images ``(N, C, H, W)``, floating point.
        mask: Bool, broadcasts to `arr`; True = hide.
        settings: What else Quantus passes; not used.

    Returns:
        ``(N, C, H, W)``: `arr` with `lm_plugins.MASKED` where `mask` is True.

    Raises:
        InputTypeError: `arr` is not floating point, so that it cannot hold `lm_plugins.MASKED`.

    Example:
        >>> import numpy as np
        >>> from lm_plugins.quantus import hide_segments
        >>> hide_segments(np.zeros((1, 1, 1, 2), "float32"), np.array([[[[True, False]]]]))[0, 0, 0].tolist()
        [-7.71875, 0.0]
    """
    if arr.dtype.kind != "f":
        raise InputTypeError(
            f"{_WHAT} needs images that are floating point, got {arr.dtype}; convert and normalise them first."
        )
    return np.where(mask, np.asarray(MASKED, arr.dtype), arr)
