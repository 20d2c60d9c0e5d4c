"""Small cases to put a rule to the test: a function, a crop of the samples, and a mask. The smallest come first."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.errors import InputTypeError
from lm_plugins.masking import Mask, MaskedActivation, MaskingOptions, Run, Visibility
from lm_plugins.masking.carrier import Carrier
from lm_plugins.masking.registry import function_name, registered_functions

__all__ = ["Case", "Image", "cases", "changed", "tensors"]

#: Batch, height and width of the crops that are tried, where the samples are as large.
_CROPS = [(1, 1, 1), (1, 1, 2), (1, 2, 2), (1, 3, 3), (2, 2, 3), (2, 4, 4), (2, 5, 6), (2, 8, 8)]


@dataclass(frozen=True)
class Image:
    """A sample that becomes an activation."""

    values: Tensor  # (N, C, H, W)


@dataclass(frozen=True)
class Case:
    """One call of a function, on plain tensors or on activations.

    Args:
        function: A torch function, a method of ``torch.Tensor``, a layer, or a function that calls such.
        args: Its positional arguments, with an `Image` for everything that becomes an activation.
        kwargs: Its named ones.
        shape: Batch, height and width of the images among the arguments.
        visible: Bool ``(N, H, W)``.
        options: The semantics.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: tuple[int, int, int]
    visible: Tensor
    options: MaskingOptions

    @property
    def name(self) -> str:
        """The function, as a message calls it."""
        if isinstance(self.function, nn.Module):
            return repr(self.function).splitlines()[0]
        return function_name(self.function)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the function; a method as models call it, on its first argument."""
        name = getattr(self.function, "__name__", "")
        if args and getattr(torch.Tensor, name, None) is self.function:
            return getattr(args[0], name)(*args[1:], **kwargs)
        return self.function(*args, **kwargs)

    def plain(self) -> Any:
        """Plain torch's result, on copies."""
        return self.call(*self.with_tensors())

    def with_tensors(self, prepare: Callable[[Tensor], Tensor] | None = None) -> tuple[Any, Any]:
        """The arguments with plain tensors in place of images, each made by `prepare`; by default copies."""

        def tensor(value: Any) -> Any:
            return (prepare or _copy)(value.values) if isinstance(value, Image) else _copy(value)

        return changed(self.args, tensor), changed(self.kwargs, tensor)

    def masked(self, hidden_value: float | None = 0.0) -> Any:
        """The rule's result, with `hidden_value` in place of all hidden values, or with these as they are (None)."""
        args, kwargs, _ = self.prepared(hidden_value)
        return self.call(args, kwargs)

    def prepared(
        self, hidden_value: float | None = 0.0, prepare: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any], list[MaskedActivation]]:
        """The arguments with activations in place of images, and these activations."""
        made: list[MaskedActivation] = []
        run = Run(self.options)

        def activation(value: Any) -> Any:
            if not isinstance(value, Image):
                return _copy(value)
            image = (prepare or _copy)(value.values)
            visible = self.visible_of(len(made))
            if hidden_value is not None:
                image = torch.where(visible[:, None], image, hidden_value)
            region = Mask(visible)
            made.append(MaskedActivation(image, Visibility(region, region, run)))
            return made[-1]

        return changed(self.args, activation), changed(self.kwargs, activation), made

    def visible_of(self, index: int) -> Tensor:
        """The mask of one of several images: each its own, shifted by a column, for merges to tell them apart."""
        return self.visible.roll(index, 2)

    def cropped(self, batch: slice, h: int, w: int) -> "Case":
        """The case on some of its images, and their first rows and columns."""

        def crop(value: Any) -> Any:
            return Image(value.values[batch, :, :h, :w]) if isinstance(value, Image) else value

        visible = self.visible[batch, :h, :w]
        n, h, w = visible.shape
        return replace(
            self, args=changed(self.args, crop), kwargs=changed(self.kwargs, crop), shape=(n, h, w), visible=visible
        )

    def image(self, index: int) -> "Case":
        """The case on one of its images."""
        return self.cropped(slice(index, index + 1), *self.shape[1:])

    def describe(self) -> str:
        """The case, as text: the shapes of its images and their masks."""
        images = [activation.values for activation in self.prepared()[2]]
        several = ", images of the batch side by side" if self.shape[0] > 1 else ""
        parts = [
            f"  activation of shape {tuple(image.shape)}, mask (# visible, . hidden{several}):\n"
            f"{_drawing(self.visible_of(index))}"
            for index, image in enumerate(images)
        ]
        return "\n".join(parts)


def _drawing(visible: Tensor) -> str:
    rows = visible.transpose(0, 1).tolist()  # (H, N, W)
    return "\n".join(
        "    " + "   ".join("".join("#" if one else "." for one in image) for image in row) for row in rows
    )


def cases(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: MaskingOptions
) -> Iterator[Case]:
    """Every case to try, from small to large: crops of the samples that plain torch accepts, each with several masks.

    Raises:
        InputTypeError: A rule was passed in place of its function, or there is no image among the samples.
    """
    if not callable(function) or any(rule is function for rule in registered_functions().values()):
        raise InputTypeError(
            f"check_rule needs the torch function that the rule is for (or a layer, or a function that calls it), then "
            f"sample inputs: check_rule(torch.relu, x). Got {function!r}."
        )
    sizes = [size for one in tensors((args, kwargs)) if (size := _image_size(one)) is not None]
    if not sizes:
        raise InputTypeError(
            "check_rule needs at least one sample image, a floating-point tensor (N, C, H, W), such as "
            f"torch.randn(2, 3, 8, 8); the samples for {function_name(function)} have none."
        )
    n, h, w = sizes[0]

    def mark(value: Any) -> Any:
        return Image(value) if _image_size(value) == sizes[0] else value

    visible = torch.ones(n, h, w, dtype=torch.bool)
    case = Case(function, changed(args, mark), changed(kwargs, mark), sizes[0], visible, options)
    crops = [crop for crop in _CROPS if all(have <= size for have, size in zip(crop, sizes[0], strict=True))]
    for crop in dict.fromkeys([*crops, sizes[0]]):
        small = case.cropped(slice(crop[0]), *crop[1:])
        if crop != sizes[0]:
            try:
                small.plain()
            except Exception:  # too small for a kernel, say; the samples as they are must work
                continue
        for visible in _masks(*crop):
            yield replace(small, visible=visible)


def _masks(n: int, h: int, w: int) -> Iterator[Tensor]:
    """All visible, one position hidden, one visible, half of them, nothing visible."""
    everything = torch.ones(n, h, w, dtype=torch.bool)
    yield everything
    if h * w > 1:
        one_hidden = everything.clone()
        one_hidden[-1, h // 2, w // 2] = False
        yield one_hidden
        one_visible = ~everything
        one_visible[:, h // 2, w // 2] = True
        yield one_visible
        generator = torch.Generator().manual_seed(h * w)
        yield torch.rand(n, h, w, generator=generator) < 0.5
    yield ~everything


def changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """Arguments with every ordinary tensor and every image in them changed."""
    if isinstance(value, (Tensor, Image)):
        return value if isinstance(value, Carrier) else change(value)
    if isinstance(value, dict):
        return {name: changed(one, change) for name, one in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_make"):
        return type(value)._make(changed(one, change) for one in value)
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return type(value)(changed(one, change) for one in value)
    return value


def tensors(value: Any) -> list[Tensor]:
    """The ordinary tensors in arguments or in a result."""
    found: list[Tensor] = []
    changed(value, lambda one: found.append(one))
    return found


def _image_size(value: Any) -> tuple[int, int, int] | None:
    if not isinstance(value, Tensor) or value.ndim != 4 or not value.is_floating_point() or 0 in value.shape:
        return None
    return int(value.shape[0]), int(value.shape[2]), int(value.shape[3])


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
