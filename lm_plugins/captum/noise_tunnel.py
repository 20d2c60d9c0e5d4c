"""What Captum's `NoiseTunnel` needs of a method that it runs on noisy images."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

__all__ = ["for_noise_tunnel"]

_Method = TypeVar("_Method", bound=Callable[..., Any])


def for_noise_tunnel(attribute: _Method) -> _Method:
    """Put a method into a wrapper, as Captum does with its own: `captum.attr.NoiseTunnel` calls what is beneath.

    Args:
        attribute: The method ``attribute`` of an attribution.

    Returns:
        The same, with ``__wrapped__``.

    Example:
        >>> from lm_plugins.captum.noise_tunnel import for_noise_tunnel
        >>> for_noise_tunnel(abs)(-1), for_noise_tunnel(abs).__wrapped__ is abs
        (1, True)
    """

    @wraps(attribute)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return attribute(*args, **kwargs)

    return cast(_Method, wrapper)
