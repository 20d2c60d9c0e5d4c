"""Removal by inpainting, with the algorithms of OpenCV."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lm_plugins.checks import check_images
from lm_plugins.errors import InputTypeError, MissingDependencyError, OptionError
from lm_plugins.removal.protocol import PixelRemoval

__all__ = ["Inpainting"]


@dataclass(frozen=True)
class Inpainting(PixelRemoval):
    """Inpaint hidden pixels from visible ones.

    OpenCV inpaints 8-bit images: the visible range of each image is spread over 0..255, inpainted and spread back, so
    inpainted pixels are exact to 1/255 of that range; visible pixels stay as they are.

    Args:
        method: ``"telea"`` (Telea 2004, fast marching) or ``"ns"`` (Bertalmio et al. 2001, Navier-Stokes).
        radius: Neighbourhood of each inpainted pixel, in pixels, above 0.

    Raises:
        OptionError: `method` or `radius` is not one of these.
        MissingDependencyError: OpenCV is not installed.
        InputTypeError: Images do not have 1 or 3 channels.
    """

    method: Literal["telea", "ns"] = "telea"
    radius: float = 3.0

    def __post_init__(self) -> None:
        if self.method not in ("telea", "ns"):
            raise OptionError(f"Inpainting.method is 'telea' or 'ns', got {self.method!r}.")
        if not self.radius > 0:
            raise OptionError(f"Inpainting.radius is a number of pixels above 0, got {self.radius!r}.")

    def replaced(self, x: Tensor, visible: Tensor) -> Tensor:
        """Inpaint hidden pixels; shapes as in `PixelRemoval.replaced`."""
        check_images(x, type(self).__name__)
        try:
            import cv2
        except ImportError as error:
            raise MissingDependencyError("Inpainting needs OpenCV: pip install 'lm_plugins[inpainting]'.") from error
        if x.shape[1] not in (1, 3):
            raise InputTypeError(f"OpenCV inpaints images with 1 or 3 channels, got {x.shape[1]}.")
        flag = cv2.INPAINT_TELEA if self.method == "telea" else cv2.INPAINT_NS
        result = torch.where(visible[:, None], x, 0.0)
        for image, mask in zip(result, visible, strict=True):
            if bool(mask.all()) or not bool(mask.any()):
                continue
            seen = image[:, mask]
            low, span = seen.min(), (seen.max() - seen.min()).clamp(min=torch.finfo(x.dtype).tiny)
            bytes_hwc = ((image - low) / span * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
            hidden = (~mask).cpu().numpy().astype(np.uint8)
            painted = cv2.inpaint(np.ascontiguousarray(bytes_hwc), hidden, self.radius, flag)
            painted = torch.from_numpy(painted.reshape(bytes_hwc.shape)).to(x).permute(2, 0, 1) / 255 * span + low
            image[:, ~mask] = painted[:, ~mask]
        return result
