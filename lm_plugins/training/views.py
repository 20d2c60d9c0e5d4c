"""Views of a batch: its images with the regions that are hidden in them, and what each is trained towards."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.errors import OptionError
from lm_plugins.removal import PixelRemoval, Removal, as_removal
from lm_plugins.removal.protocol import Forward

__all__ = ["Hiding", "Views"]


@dataclass(frozen=True)
class Views:
    """A batch to train on.

    Args:
        images: ``(M, C, H, W)``. Hidden pixels are painted already if the removal paints.
        visible: Bool ``(M, H, W)``: True = the model may see this pixel.
        targets: Int64 ``(M,)``, or floating point ``(M, classes)`` where a target is a distribution.
        background: Bool ``(M,)``: views that show background; negatives only in ExConB's loss.
        sources: Int64 ``(M,)``: of which image of the batch each view is.
        run: ``run(model, images, visible)``: the model's output for images of which something is hidden.
    """

    images: Tensor
    visible: Tensor
    targets: Tensor
    background: Tensor
    sources: Tensor
    run: Callable[[nn.Module, Tensor, Tensor], Any]

    def __len__(self) -> int:
        return len(self.images)

    def with_images(self, x: Tensor) -> "Views":
        """The same with other images in the place of the first ones, of which nothing is hidden."""
        return replace(self, images=torch.cat([x, self.images[len(x) :]]))

    def outputs(self, model: nn.Module) -> Any:
        """What a model returns for the views: of painted images in the mode that it has, by layer masking in evaluation mode.

        Args:
            model: The model that is trained, or a part of it.

        Returns:
            Its output.

        Raises:
            TrainingModeError: The removal is layer masking, and the model is in training mode.
        """
        return self.run(model, self.images, self.visible)

    def logits(self, model: nn.Module) -> Tensor:
        """`outputs` of a classifier, checked to have a logit for every target.

        Args:
            model: The classifier that is trained.

        Returns:
            ``(M, classes)``.

        Raises:
            OptionError: It has too few or too many logits.
            TrainingModeError: The removal is layer masking, and the model is in training mode.
        """
        output: Tensor = self.outputs(model)
        if self.targets.ndim == 2 and self.targets.shape[1] != output.shape[1]:
            raise OptionError(
                f"targets are distributions over {self.targets.shape[1]} classes, the model has {output.shape[1]}."
            )
        if self.targets.ndim == 1 and len(self) and int(self.targets.max()) >= output.shape[1]:
            raise OptionError(
                f"a target is class {int(self.targets.max())}, and the model has {output.shape[1]} outputs. "
                "low_confidence='background' needs one output more than there are classes, 'negative' twice as many."
            )
        return output


class Hiding:
    """A removal in training: pixels are painted at once; layer masking waits for the model.

    Args:
        removal: As everywhere: a removal, its name, or None for layer masking.

    Raises:
        OptionError: No removal has that name.
        InputTypeError: It is neither a removal nor a name.
    """

    def __init__(self, removal: Removal | str | None) -> None:
        self.removal = as_removal(removal)
        self._built: dict[nn.Module, Forward] = {}

    @property
    def paints(self) -> bool:
        """Whether hidden pixels can be painted before the model runs."""
        return isinstance(self.removal, PixelRemoval)

    def painted(self, x: Tensor, visible: Tensor) -> Tensor:
        """The images as the removal paints them, or as they are if it does not paint."""
        if not isinstance(self.removal, PixelRemoval) or not len(x):
            return x
        return torch.where(visible[:, None], x, self.removal.replaced(x, visible))

    def run(self, model: nn.Module, x: Tensor, visible: Tensor) -> Any:
        """The output of a model for what `painted` gave."""
        if self.paints:
            return model(x)
        # Kept: layer masking checks a model once, not at every step. A training run has a model and its encoder.
        if model not in self._built:
            self._built = dict(list(self._built.items())[-1:]) | {model: self.removal(model)}
        return self._built[model](x, visible)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_built": {}}
