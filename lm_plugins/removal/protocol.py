"""What a removal is: a way to make a model behave as if pixels were absent."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from lm_plugins.masking import as_visible

__all__ = ["Forward", "PixelRemoval", "Removal"]

#: ``forward(x, visible) -> output``: x ``(N, C, H, W)``, visible bool with True = the model may see this pixel.
Forward = Callable[[Tensor, Tensor], Any]


class Removal(Protocol):
    """Builds ``forward(x, visible)`` from a plain model."""

    def __call__(self, model: nn.Module) -> Forward:
        """Build the forward.

        Args:
            model: A model of images ``(N, C, H, W)``, in evaluation mode.

        Returns:
            A function of images and of a pixel mask, as `lm_plugins.LayerMasked.forward` takes them.
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
        """Build ``forward(x, visible)``: replace, then run `model`."""

        def forward(x: Tensor, visible: Tensor) -> Any:
            return model(self.replaced(x, as_visible(visible, x)))

        return forward
