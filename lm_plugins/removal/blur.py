"""Removal by a Gaussian blur of the visible pixels into the hidden ones."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.checks import check_images
from lm_plugins.errors import OptionError
from lm_plugins.removal.protocol import PixelRemoval

__all__ = ["Blur"]


@dataclass(frozen=True)
class Blur(PixelRemoval):
    r"""Replace hidden pixels by a Gaussian-weighted mean of the visible ones.

    A normalised convolution, :math:`(g * (x \cdot m)) / (g * m)`: unlike a blurred copy of the image, it does not carry
    the hidden pixels themselves. Where no visible pixel is in reach, the mean of the visible pixels stands; 0 if there
    is none.

    Args:
        sigma: Standard deviation of the Gaussian, in pixels, above 0.

    Raises:
        OptionError: `sigma` is not above 0.

    References:
        Knutsson and Westin, "Normalized and differential convolution", CVPR 1993.
    """

    sigma: float = 8.0

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise OptionError(f"Blur.sigma is a number of pixels above 0, got {self.sigma!r}.")

    def replaced(self, x: Tensor, visible: Tensor) -> Tensor:
        """Blur visible pixels into hidden ones; shapes as in `PixelRemoval.replaced`."""
        check_images(x, type(self).__name__)
        mask = visible[:, None].to(x.dtype)  # (N, 1, H, W)
        seen = torch.where(visible[:, None], x, 0.0)
        both = self._blurred(torch.cat([seen, mask], 1))
        values, weight = both[:, :-1], both[:, -1:]
        mean = seen.sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True).clamp(min=1)
        reached = weight > torch.finfo(x.dtype).eps
        blurred = torch.where(reached, values / weight.where(reached, torch.ones_like(weight)), mean)
        return torch.where(visible[:, None], x, blurred)

    def _blurred(self, maps: Tensor) -> Tensor:
        radius = round(4 * self.sigma)
        steps = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
        kernel = torch.exp(-(steps**2) / (2 * self.sigma**2))
        n, c, h, w = maps.shape
        flat = maps.reshape(n * c, 1, h, w)
        flat = F.conv2d(flat, kernel.reshape(1, 1, -1, 1), padding=(radius, 0))
        return F.conv2d(flat, kernel.reshape(1, 1, 1, -1), padding=(0, radius)).reshape(n, c, h, w)
