"""Photographs with a part removed, as each removal shows it to the model, and what the model says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.checks import check_evaluation_mode
from lm_plugins.features import grid, visible_from
from lm_plugins.outputs.words import OutputIs, as_probabilities
from lm_plugins.removal import PixelColour, PixelRemoval, Removal
from lm_plugins.report.pictures import photograph

__all__ = ["Example", "Step", "example_photographs"]

_SIDE = 192


@dataclass(frozen=True)
class Step:
    """One photograph after one removal.

    Args:
        removal: Its name.
        fraction: How much was removed.
        picture: A data URI.
        predicted: The class that the model says.
        probability: Of that class.
    """

    removal: str
    fraction: float
    picture: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Example:
    """One photograph, whole and after removals.

    Args:
        name: Of the image.
        picture: The whole photograph, a data URI.
        predicted: The class that the model says of it.
        probability: Of that class.
        steps: For every removal and fraction.
    """

    name: str
    picture: str
    predicted: str
    probability: float
    steps: list[Step]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Example":
        """From what `as_dict` gave."""
        return cls(**{**content, "steps": [Step(**step) for step in content["steps"]]})


@torch.inference_mode()
def example_photographs(
    model: nn.Module,
    images: Sequence[Tensor],
    names: Sequence[str],
    removals: Mapping[str, Removal],
    fractions: Sequence[float],
    pixels: Callable[[Tensor], Tensor],
    class_name: Callable[[int], str],
    patch: int = 16,
    seed: int = 0,
    output: OutputIs = "logits",
) -> list[Example]:
    """Show what removals do to photographs.

    Random patches are removed, the same for every removal, and more of them with every fraction.

    Args:
        model: A classifier in evaluation mode.
        images: Normalised ``(C, H, W)``.
        names: One for each.
        removals: By name.
        fractions: Ascending, on (0, 1].
        pixels: From a normalised image to pixels on [0, 1].
        class_name: From a class index to its name.
        patch: Side of a patch.
        seed: Of the order in which patches go.
        output: What the model returns, in a word of `lm_plugins.outputs.words`.

    Returns:
        One example for each image.

    Raises:
        TrainingModeError: The model or a part of it is in training mode.
    """
    check_evaluation_mode(model, "the report")
    device = next((one.device for one in model.parameters()), torch.device("cpu"))
    examples = []
    for image, name in zip(images, names, strict=True):
        x = image[None].to(device)
        feature_mask = grid((x.shape[2], x.shape[3]), patch)
        count = int(feature_mask.max()) + 1
        place = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).argsort()
        steps = []
        for removal, built in removals.items():
            for fraction in fractions:
                visible = visible_from((place >= round(fraction * count))[None], feature_mask).to(device)
                predicted, probability = _answer(built(model)(x, visible), output, class_name)
                shown = photograph(pixels(_as_seen(built, model, x, visible)[0].cpu()), _SIDE)
                if not isinstance(built, (PixelRemoval, PixelColour)):
                    shown = photograph(_with_holes(pixels(image), visible[0].cpu()), _SIDE)
                steps.append(Step(removal, fraction, shown, predicted, probability))
        predicted, probability = _answer(model(x), output, class_name)
        examples.append(Example(name, photograph(pixels(image), _SIDE), predicted, probability, steps))
    return examples


def _answer(result: Tensor, output: OutputIs, class_name: Callable[[int], str]) -> tuple[str, float]:
    probability, index = as_probabilities(result, output)[0].max(0)
    return class_name(int(index)), float(probability)


def _as_seen(removal: Any, model: nn.Module, x: Tensor, visible: Tensor) -> Tensor:
    """The image that the model gets."""
    if isinstance(removal, PixelColour):
        removal = removal.colour(model)
    return removal.replaced(x, visible) if isinstance(removal, PixelRemoval) else x


def _with_holes(pixels: Tensor, visible: Tensor) -> Tensor:
    """Hidden pixels as the chequers that stand for "nothing" in image editors."""
    rows, columns = (torch.arange(side) // 8 for side in visible.shape)
    chequers = torch.where((rows[:, None] + columns) % 2 == 0, 0.93, 0.78)
    return torch.where(visible, pixels, chequers)
