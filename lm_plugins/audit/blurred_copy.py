"""The blurred copy of an image that RISE's insertion starts from."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_plugins.checks import check_finite
from lm_plugins.errors import OptionError
from lm_plugins.removal import PixelRemoval

__all__ = ["BlurredCopy"]


@dataclass(frozen=True)
class BlurredCopy(PixelRemoval):
    r"""Replace hidden pixels by those of a blurred copy of the whole image, as RISE's published insertion does.

    **It removes nothing.** The copy is made of the hidden pixels, so that the model still sees what is "hidden", without
    its details. It is here for numbers that compare with published insertion curves; `run_audit` finds that its answers
    depend on hidden pixels and does not recommend it. `lm_plugins.removal.Blur` sees visible pixels only, and gives other
    curves.

    The kernel is a Gaussian on `size` x `size` pixels, whose tails are reflected into these, so that its sum is 1. Beyond
    the border of the image lie zeros, also as published, so that the copy is paler there.

    Args:
        size: Of the kernel, in pixels: odd, at least 3.
        sigma: Standard deviation of the Gaussian in pixels, above 0.

    Raises:
        OptionError: An option is out of its range.

    Example:
        >>> import torch
        >>> from lm_plugins.audit import BlurredCopy
        >>> x = torch.zeros(1, 1, 31, 31)
        >>> x[0, 0, 15, 15] = 1.0
        >>> round(float(BlurredCopy().replaced(x, torch.zeros(1, 31, 31, dtype=torch.bool)).sum()), 4)
        1.0

    References:
        Petsiuk, Das and Saenko, "RISE", BMVC 2018: 11 x 11 pixels, a standard deviation of 5.
    """

    size: int = 11
    sigma: float = 5.0

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 3 or self.size % 2 == 0:
            raise OptionError(f"BlurredCopy.size is an odd number of at least 3, got {self.size!r}.")
        if not self.sigma > 0:
            raise OptionError(f"BlurredCopy.sigma is a number of pixels above 0, got {self.sigma!r}.")

    def replaced(self, x: Tensor, visible: Tensor) -> Tensor:
        """Replace hidden pixels; shapes as in `PixelRemoval.replaced`. Hidden ones are finite, too."""
        check_finite(x, type(self).__name__)
        kernel, half = self._kernel().to(x), self.size // 2
        flat = x.reshape(-1, 1, *x.shape[2:])
        flat = F.conv2d(flat, kernel.reshape(1, 1, -1, 1), padding=(half, 0))
        blurred = F.conv2d(flat, kernel.reshape(1, 1, 1, -1), padding=(0, half)).reshape(x.shape)
        return torch.where(visible[:, None], x, blurred)

    def _kernel(self) -> Tensor:
        """One side of the kernel, ``(size,)``."""
        reach = int(4 * self.sigma + 0.5)
        steps = torch.arange(-reach, reach + 1)
        weights = torch.exp(-(steps.double() ** 2) / (2 * self.sigma**2))
        # Reflected about the outer edges of the first and the last pixel, as often as it takes.
        place = (steps + self.size // 2) % (2 * self.size)
        place = torch.minimum(place, 2 * self.size - 1 - place)
        kernel = torch.zeros(self.size, dtype=torch.float64).index_add_(0, place, weights)
        return kernel / kernel.sum()
