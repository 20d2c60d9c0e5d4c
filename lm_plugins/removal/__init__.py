"""Ways to remove pixels: each builds ``forward(x, visible)`` from a plain model."""

from lm_plugins.removal.blur import Blur
from lm_plugins.removal.colour import Colour, ImageMean, PixelColour, RandomColour
from lm_plugins.removal.inpainting import Inpainting
from lm_plugins.removal.layer_masking import LayerMasking
from lm_plugins.removal.named import REMOVALS, as_removal
from lm_plugins.removal.noisy_linear import NoisyLinear
from lm_plugins.removal.protocol import Forward, PixelRemoval, Removal

__all__ = [
    "REMOVALS",
    "Blur",
    "Colour",
    "Forward",
    "ImageMean",
    "Inpainting",
    "LayerMasking",
    "NoisyLinear",
    "PixelColour",
    "PixelRemoval",
    "RandomColour",
    "Removal",
    "as_removal",
]
