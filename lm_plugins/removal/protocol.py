"""What a removal is: a way to make a model behave as if pixels were absent."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from lm_plugins.checks import as_visible, check_evaluation_mode, check_finite, check_images, explaining_mismatch

__all__ = ["Forward", "PixelRemoval", "Removal"]

#: ``forward(x, visible, *further) -> output``: x ``(N, C, H, W)``, visible bool with True = the model may see this pixel,
#: and what else the model takes after the images.
Forward = Callable[..., Any]


class Removal(Protocol):
    """Builds ``forward(x, visible)`` from a plain model."""

    def __call__(self, model: nn.Module) -> Forward:
        """Build the forward.

        Args:
            model: A model of images ``(N, C, H, W)``, in evaluation mode.

        Returns:
            A function of images, of a pixel mask, and of what else the model takes, as `lm_plugins.LayerMasked.forward`
            takes them. It calls ``model(x, *further)``.
        """
        ...


class PixelRemoval:
    """A removal that replaces the values of hidden pixels and runs the plain model. Subclasses say by what."""

    def replaced(self, x: Tensor, visible: Tensor) -> Tensor:
        """Replace hidden pixels.

        Args:
            x: Images ``(N, C, H, W)``, floating point.
            visible: Bool ``(N, H, W)``.

        Returns:
            ``(N, C, H, W)``: `x` where it is visible, something that does not depend on the hidden pixels elsewhere.
        """
        raise NotImplementedError(f"{type(self).__name__} must define replaced(x, visible)")

    def __call__(self, model: nn.Module) -> Forward:
        """Build ``forward(x, visible, *further)``: replace, then run `model`. It checks what `LayerMasked` checks."""
        what = type(self).__name__

        def forward(x: Tensor, visible: Tensor, *further: Any) -> Any:
            check_evaluation_mode(model, what)
            check_images(x, what)
            seen = as_visible(visible, x)
            check_finite(x, what, seen)
            with explaining_mismatch(model, x):
                return model(self.replaced(x, seen), *further)

        return forward
