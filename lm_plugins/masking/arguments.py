"""What a model is called with beside its image: further arguments, keywords, and further images with masks of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.errors import InputTypeError, ShapeError

__all__ = ["Arguments", "several"]


@dataclass(frozen=True)
class Arguments:
    """All that a model takes beside its first image.

    Args:
        further: Behind the images, by position.
        named: By keyword.
        key: The keyword of the image, where it has one.
        others: Further images behind the first, and what of each is visible, bool ``(N, H, W)``.
    """

    further: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None
    others: tuple[tuple[Tensor, Tensor], ...] = ()

    @classmethod
    def of(cls, x: Any, further: tuple[Any, ...], named: Mapping[str, Any]) -> "tuple[Any, Arguments]":
        """The image, by position or by keyword, and the rest.

        Raises:
            InputTypeError: There is no image, or several that may be the one.
        """
        if x is not None:
            return x, cls(further, named)
        images = [
            name for name, one in named.items() if isinstance(one, Tensor) and one.ndim == 4 and one.is_floating_point()
        ]
        if len(images) != 1:
            raise InputTypeError(
                f"layer masking needs an image (N, C, H, W) as first argument, or by one keyword; got {len(images)} of them "
                f"among {', '.join(named) or 'no keywords'}. Pass several as a tuple, with a tuple of masks."
            )
        rest = {name: one for name, one in named.items() if name != images[0]}
        return named[images[0]], cls(further, rest, images[0])

    def call(self, model: nn.Module, x: Any, others: Sequence[Any] | None = None) -> Any:
        """Call the model.

        Args:
            model: It.
            x: Its image, or what stands for it.
            others: What stands for the further images; None: they themselves, of as many as `x` has.
        """
        images = [one[: len(x)] for one, _ in self.others] if others is None else others
        if self.key is not None:
            return model(*self.further, **{self.key: x}, **self.named)
        return model(x, *images, *self.further, **self.named)

    def all_visible(self, count: int) -> "Arguments":
        """The same for the first images of the batch, of which nothing is hidden."""
        return replace(self, others=tuple((x[:count], torch.ones_like(v[:count])) for x, v in self.others))

    @property
    def kind(self) -> Any:
        """What of them may decide which way a model takes: everything but the values of tensors."""
        return _kind_of((self.further, dict(self.named), self.key, [x for x, _ in self.others]))


def several(x: Any, visible: Any) -> tuple[list[Any], list[Any]]:
    """Images and masks, one for each.

    Args:
        x: One image tensor, or a tuple of them.
        visible: A mask, None, or as many of these.

    Raises:
        ShapeError: There are no images, or other numbers of images and masks.
    """
    if not isinstance(x, (tuple, list)):
        return [x], [visible]
    masks = list(visible) if isinstance(visible, (tuple, list)) else [visible] * len(x) if visible is None else []
    if not x or len(masks) != len(x):
        raise ShapeError(
            f"{len(x)} images need a tuple of as many masks, or None for masks that are painted; got "
            f"{len(masks) if masks else type(visible).__name__}."
        )
    return list(x), masks


def _kind_of(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_kind_of(one) for one in value)
    if isinstance(value, dict):
        return tuple((name, _kind_of(one)) for name, one in value.items())
    if isinstance(value, Tensor):
        return value.shape[1:], value.dtype
    return value if isinstance(value, (bool, int, float, str, type(None))) else type(value)
