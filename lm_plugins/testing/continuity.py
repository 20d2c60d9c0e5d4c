"""Continuity: a little less to see changes little, and what shows something is not the empty image."""

import math
from collections.abc import Iterator
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

from lm_plugins.testing.case import tensors
from lm_plugins.testing.conformance import Kept
from lm_plugins.testing.rounding import Judge
from lm_plugins.testing.subject import Subject

__all__ = ["EMPTY", "ONE_MORE", "continuity"]

ONE_MORE = "hiding one more pixel changes little"
EMPTY = "what shows something is not the empty image"

# In shares of what hiding everything does. Above rounding, and far below what anything visible does: a single pixel does
# 1e-2 in most families.
_NOTHING = 1e-6
# With fewer pixels, one of them is not little.
_FEW = 64


def continuity(judge: Judge, bound: float) -> Iterator[tuple[str, Kept]]:
    """Check both laws on the first image.

    Their measure is how far hiding everything moves the output, since that is where a region that is lost moves it. A
    network with random weights may be chaotic: one pixel of another value moves the plain output far. That is no fault of
    masking, so a hidden pixel may move the output twice as far as another value of it moves the plain model.

    Args:
        judge: Of the model. A law that fails, or that cannot be judged, is repeated in float64.
        bound: How far one pixel may move the output, as a share of that.

    Yields:
        Each law, and how it is kept.

    Raises:
        ConformanceError: A law is broken.
    """
    here = _OneImage(judge.subject)
    for law, check in ((ONE_MORE, _one_more), (EMPTY, _empty)):
        found = check(here, bound)
        if not isinstance(found, Kept) and judge.dtype != torch.float64 and judge.copy is not None:
            found = check(_OneImage(judge.copy), bound)
        if isinstance(found, str):
            again = "" if judge.obstacle is None else f"\n  In float64 it could not be repeated: {judge.obstacle}."
            raise judge.broken(law, f"{found}{again}")
        yield law, found or Kept("not judged: hiding everything does not move the output, or the image is tiny")


class _OneImage:
    """Outputs for the first image under several masks, each as vectors: one for every tensor that the model returns."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.x = subject, subject.x[:1]

    def vectors(self, output: object) -> list[Tensor]:
        return [one.double().flatten() for one in tensors(output) if one.is_floating_point()]

    def plain(self, x: Tensor) -> list[Tensor]:
        return self.vectors(self.subject.model(x))

    def masked(self, mask: Tensor) -> list[Tensor]:
        return self.vectors(self.subject.run(self.x, mask[None]))

    @cached_property
    def everything(self) -> Tensor:
        return torch.ones_like(self.subject.visible[0])

    @cached_property
    def full(self) -> list[Tensor]:
        return self.masked(self.everything)

    @cached_property
    def none(self) -> list[Tensor]:
        return self.masked(~self.everything)

    @cached_property
    def parts(self) -> dict[str, tuple[Tensor, list[Tensor]]]:
        """Mask and output of each half, each quarter, and some single pixels."""
        h, w = self.everything.shape
        found = {}
        for name, rows, columns in (
            ("left", slice(None), slice(w // 2)),
            ("right", slice(None), slice(w // 2, None)),
            ("upper", slice(h // 2), slice(None)),
            ("lower", slice(h // 2, None), slice(None)),
        ):
            found[f"the {name} half"] = self._shown(rows, columns)
        if self.subject.options.sampling == "point":  # the published way, under which less is lost now and then
            return found
        sides = (("upper", slice(h // 2)), ("lower", slice(h // 2, None)))
        for (name, rows), (side, columns) in product(sides, (("left", slice(w // 2)), ("right", slice(w // 2, None)))):
            found[f"the {name} {side} quarter"] = self._shown(rows, columns)
        for row, column in ((h // 2, w // 2), (h // 2 - 1, w // 2 + 3), (h // 3, w // 3)):
            found[f"the pixel {(row, column)} alone"] = self._shown(slice(row, row + 1), slice(column, column + 1))
        return found

    def _shown(self, rows: slice, columns: slice) -> tuple[Tensor, list[Tensor]]:
        mask = ~self.everything
        mask[rows, columns] = True
        return mask, self.masked(mask)

    @cached_property
    def is_judged(self) -> bool:
        """Whether the image has room, and the output depends on what is visible by more than rounding."""
        return self.everything.numel() >= _FEW and any(self._is_moved)

    @cached_property
    def _is_moved(self) -> list[bool]:
        rounding = 1000 * torch.finfo(self.x.dtype).eps
        return [float((a - b).norm()) > rounding * float(a.norm()) for a, b in zip(self.full, self.none, strict=True)]

    def sensitivity(self, pixel: tuple[int, int]) -> float:
        """How far the plain model moves when a pixel takes the value of its neighbour, or 0: chaotic networks move far."""
        row, column = pixel
        moved = []
        for value in (self.x[..., row, column - 1], torch.zeros_like(self.x[..., 0, 0])):
            other = self.x.clone()
            other[..., row, column] = value
            moved.append(self.share(self.plain(other), self.full))
        return max(moved)

    def share(self, got: list[Tensor], expected: list[Tensor]) -> float:
        """How far two outputs are from each other, as a share of how far hiding everything goes; of several, the most."""
        found = zip(got, expected, self.full, self.none, self._is_moved, strict=True)
        return max(float((a - b).norm() / (full - none).norm()) for a, b, full, none, is_moved in found if is_moved)


def _one_more(image: _OneImage, bound: float) -> Kept | str | None:
    if not image.is_judged:
        return None
    h, w = image.everything.shape
    cases = [("all of the image", image.everything, image.full, one) for one in ((h // 2, w // 2), (0, w // 2))]
    for name, pixel in (("the left half", (h // 2, w // 2 - 1)), ("the right half", (h // 2, w // 2))):
        cases.append((name, *image.parts[name], pixel))
    largest = 0.0
    for name, mask, output, pixel in cases:
        less = mask.clone()
        less[pixel] = False
        share = image.share(image.masked(less), output)
        if share > bound or math.isnan(share):
            own = image.sensitivity(pixel)
            if not share <= 2 * own or image.share(image.masked(less), image.none) <= _NOTHING:
                return (
                    f"Where {name} is visible, hiding the pixel {pixel} too moves the output {share:.0%} as far as hiding "
                    f"everything does; {bound:.0%} at most is little. Other values of that pixel move the plain model by "
                    f"{own:.0%}. A rule may lose the region: look at input.visibility after each. If the model looks at so "
                    "few positions that one of them is this much, pass a higher continuity, or None."
                )
        largest = max(largest, share)
    return Kept(f"at most {largest:.1%} as far as hiding everything", largest)


def _empty(image: _OneImage, bound: float) -> Kept | str | None:
    if not image.is_judged:
        return None
    subject = image.subject
    cases = dict(image.parts)
    if subject.visible[0].any():
        cases["the first mask"] = subject.visible[0], image.masked(subject.visible[0])
    least = 1.0
    for name, (mask, output) in cases.items():
        share = image.share(output, image.none)
        least = min(least, share)
        if share > _NOTHING:
            continue
        other = torch.where(mask, image.x.flip(1, 2, 3) - 1, image.x)
        moved = image.share(image.plain(other), image.plain(image.x))
        if moved > _NOTHING:
            return (
                f"Where {name} is visible, the output is that of an image of which nothing is, though the plain model "
                f"depends on what is there: other pixels move its output {moved:.0%} as far as hiding everything does. A "
                "rule, or a merge of two regions that do not meet, loses the region: look at input.visibility after each, "
                'or try MaskingOptions(addition="union").'
            )
    return Kept(f"at least {least:.1%} as far from it as everything visible is", least)
