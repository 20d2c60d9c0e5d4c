"""einops on activations: it gets to know them as it knows tensors, and so its operations arrive at the rule table."""

import sys
from contextlib import suppress
from functools import cache

__all__ = ["introduce_to_einops"]


def introduce_to_einops() -> None:
    """Tell einops how to act on activations, if a model has imported it: by the torch functions that it uses for tensors."""
    if "einops" in sys.modules:
        with suppress(ImportError):  # another einops than we know: it will refuse activations, by an error that says so
            _introduce()


@cache
def _introduce() -> type:
    from einops._backends import TorchBackend

    class ActivationBackend(TorchBackend):
        """einops finds the subclasses of its backends by itself, once the package that they are named for is imported."""

        framework_name = "lm_plugins"

        def is_appropriate_type(self, tensor: object) -> bool:
            """Whether `tensor` is an activation."""
            return hasattr(type(tensor), "is_hidden")

    return ActivationBackend
