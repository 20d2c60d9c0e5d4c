"""Removals by name, for every argument ``removal=``."""

from collections.abc import Callable
from difflib import get_close_matches

from lm_plugins.errors import InputTypeError, OptionError
from lm_plugins.masking import LayerMasked
from lm_plugins.removal.blur import Blur
from lm_plugins.removal.colour import Colour, ImageMean, PixelColour, RandomColour
from lm_plugins.removal.inpainting import Inpainting
from lm_plugins.removal.layer_masking import LayerMasking
from lm_plugins.removal.noisy_linear import NoisyLinear
from lm_plugins.removal.protocol import Removal

__all__ = ["REMOVALS", "as_removal"]

#: What each name stands for; every one with its defaults.
REMOVALS: dict[str, Callable[[], Removal]] = {
    "layer_masking": LayerMasking,
    "grey": Colour,
    "black": PixelColour,
    "white": lambda: PixelColour(1.0),
    "random_colour": RandomColour,
    "image_mean": ImageMean,
    "blur": Blur,
    "inpainting_telea": Inpainting,
    "inpainting_ns": lambda: Inpainting("ns"),
    "noisy_linear": NoisyLinear,
}


def as_removal(removal: Removal | LayerMasked | str | None) -> Removal:
    """The removal that an argument ``removal=`` means.

    Args:
        removal: A removal, the name of one (a key of `REMOVALS`), None for layer masking, or a `lm_plugins.LayerMasked`,
            for layer masking with its options and its calibration.

    Returns:
        The removal.

    Raises:
        OptionError: No removal has that name; the message lists those there are.
        InputTypeError: It is neither a removal nor a name.

    Example:
        >>> from lm_plugins.removal import as_removal
        >>> as_removal("grey")
        Colour(value=0.0)
    """
    if removal is None:
        return LayerMasking()
    if isinstance(removal, LayerMasked):
        return LayerMasking(removal.options, removal.verify, removal.calibration)
    if isinstance(removal, str):
        if removal not in REMOVALS:
            near = get_close_matches(removal, REMOVALS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise OptionError(f"no removal is called {removal!r}; there are {', '.join(REMOVALS)}.{hint}")
        return REMOVALS[removal]()
    if not callable(removal) or isinstance(removal, type):
        hint = f"; did you mean {removal.__name__}()?" if isinstance(removal, type) else ""
        raise InputTypeError(
            f"removal is an object such as lm_plugins.removal.Blur(8.0), a name ({', '.join(REMOVALS)}) or None for layer "
            f"masking; got {removal!r}{hint}"
        )
    return removal
