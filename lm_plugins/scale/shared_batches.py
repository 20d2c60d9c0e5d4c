"""Coalitions of several images in one model batch: what an explainer asks is noted, answered together, and given back.

An explainer draws its coalitions without looking at the answers (those of which that is not true are not shared). So it
runs twice: once to note what it asks, and once, with the same seed, on the answers. Between the two, the questions of all
images of a group run through the model in full batches.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lm_plugins.checks import as_visible
from lm_plugins.errors import LMPluginsError, VerificationError
from lm_plugins.removal import Removal
from lm_plugins.removal.protocol import Forward

__all__ = ["SHARED", "answered_together"]

#: The methods whose questions do not depend on answers.
SHARED = ("occlusion", "featureablation", "kernelshap", "lime", "rise")


@dataclass
class _Questions:
    """What was asked about one image: bits of masks, one row a question; and the answers, once there are some."""

    x: Tensor
    whole: Tensor
    masks: list[np.ndarray] = field(default_factory=list)
    answers: Tensor | None = None

    def removal(self, model: nn.Module) -> Forward:
        """Stands for the removal while questions are noted, and while answers are given."""
        position = 0

        def forward(x: Tensor, visible: Tensor, *further: Any) -> Tensor:
            nonlocal position
            rows = np.packbits(as_visible(visible, x).flatten(1).cpu().numpy(), axis=1)
            if self.answers is None:
                self.masks.append(rows)
                return self.whole.expand(len(rows), *self.whole.shape[1:])
            if not np.array_equal(self.asked[position : position + len(rows)], rows):
                raise VerificationError(
                    "an explainer asked other questions in its second run: it looks at answers, and cannot share batches "
                    "with other images. Please report this."
                )
            position += len(rows)
            return self.answers[position - len(rows) : position]

        return forward

    def end_of_questions(self) -> None:
        """Everything was asked."""
        self.asked = np.concatenate(self.masks) if self.masks else np.zeros((0, 0), np.uint8)

    def visible(self, rows: np.ndarray) -> Tensor:
        """Masks ``(K, H, W)`` from their bits."""
        height, width = self.x.shape[2:]
        bits = np.unpackbits(rows, axis=1, count=height * width).reshape(-1, height, width)
        return torch.from_numpy(bits.astype(bool)).to(self.x.device)


@torch.no_grad()
def answered_together(
    model: nn.Module,
    removal: Removal,
    images: Sequence[Tensor],
    attribute: Callable[[int, Removal], Tensor],
    batch_size: int,
) -> list[Tensor | LMPluginsError]:
    """Explain several images with shared batches.

    Args:
        model: In evaluation mode; it returns a tensor with a row for each image.
        removal: How pixels are removed.
        images: ``(1, C, H, W)`` each, of one size.
        attribute: ``attribute(i, removal)`` explains image i with a removal, twice with the same result.
        batch_size: Rows of a batch. Which rows stand together follows from the images alone, so that results repeat.

    Returns:
        An attribution for each image, or the error that it raised.
    """
    found: list[Any] = [None] * len(images)
    questions = []
    for i, x in enumerate(images):
        asked = _Questions(x, model(x))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about answers, of which there are none yet
                attribute(i, asked.removal)
        except LMPluginsError as error:
            found[i] = error
            asked.masks = []
        asked.end_of_questions()
        questions.append(asked)
    _answer(removal(model), questions, batch_size)
    for i, asked in enumerate(questions):
        if found[i] is not None:
            continue
        try:
            found[i] = attribute(i, asked.removal)
        except LMPluginsError as error:
            found[i] = error
    return found


def _answer(forward: Forward, questions: Sequence[_Questions], batch_size: int) -> None:
    """Put all questions to the model, in batches across images; each question once."""
    rows: list[tuple[int, np.ndarray]] = []
    inverses = []
    for i, one in enumerate(questions):
        unique, inverse = np.unique(one.asked, axis=0, return_inverse=True) if len(one.asked) else (one.asked, [])
        inverses.append(torch.as_tensor(np.asarray(inverse, np.int64).reshape(-1)))
        rows += [(i, row) for row in unique]
    answers: list[Tensor] = []
    start = 0
    while start < len(rows):
        part = rows[start : start + batch_size]
        x = torch.cat([questions[i].x for i, _ in part])
        visible = torch.cat([questions[i].visible(row[None]) for i, row in part])
        try:
            answers += list(forward(x, visible).split(1))
        except (torch.OutOfMemoryError, RuntimeError) as error:
            is_memory = isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)
            if not is_memory or len(part) == 1:
                raise
            batch_size = len(part) // 2
            warnings.warn(
                f"a batch of {len(part)} did not fit into memory; going on with {batch_size}.",
                RuntimeWarning,
                stacklevel=2,
            )
            continue
        start += len(part)
    position = 0
    for one, inverse in zip(questions, inverses, strict=True):
        count = int(inverse.max()) + 1 if len(inverse) else 0
        mine = torch.cat(answers[position : position + count]) if count else one.whole[:0]
        one.answers = mine[inverse.to(mine.device)]
        position += count
