"""Ways to remove pixels: each builds ``forward(x, visible)`` from a plain model."""

from lm_plugins.removal.blur import Blur
from lm_plugins.removal.colour import Colour
from lm_plugins.removal.inpainting import Inpainting
from lm_plugins.removal.layer_masking import LayerMasking
from lm_plugins.removal.protocol import Forward, PixelRemoval, Removal

__all__ = ["Blur", "Colour", "Forward", "Inpainting", "LayerMasking", "PixelRemoval", "Removal"]
