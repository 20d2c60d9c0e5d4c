"""A worker: it loads the model once, and explains shard after shard."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lm_plugins.checks import check_evaluation_mode, check_finite, check_target
from lm_plugins.errors import ImageFileError, LMPluginsError, NonFiniteError, OptionError, ShapeError
from lm_plugins.outputs.words import as_probabilities
from lm_plugins.removal import PixelRemoval, Removal, as_removal
from lm_plugins.scale.methods import METHODS, Question
from lm_plugins.scale.shared_batches import SHARED, answered_together
from lm_plugins.scale.sources import content_digest, read
from lm_plugins.scale.store import Store
from lm_plugins.scale.task import Task

__all__ = ["Worker", "shard_count"]

#: The methods that say one number for each feature; the others give maps.
_BY_FEATURE = ("featureablation", "kernelshap", "lime", "partition")

#: The errors that are an image's own fault.
_OF_IMAGES = (ImageFileError, NonFiniteError)


def shard_count(task: Task) -> int:
    """How many shards a task has."""
    return -(-len(task.source.keys) // task.shard)


class Worker:
    """Explains shards of a task.

    Args:
        task: What is to be done.
        store: Where results go.

    Raises:
        ModelLoadingError: The model cannot be made here.
        TrainingModeError: It is in training mode.
    """

    def __init__(self, task: Task, store: Store) -> None:
        self._task, self._store = task, store
        self._model = task.loaded_model()
        check_evaluation_mode(self._model, "scale.explain")

    def shard(self, number: int) -> list[str]:
        """Explain a shard and write it.

        Args:
            number: Of the shard.

        Returns:
            The errors of its images; empty texts where there was none.

        Raises:
            LMPluginsError: Not an image, but the model or an option is at fault: no image of the shard can be explained.
        """
        task = self._task
        first = number * task.shard
        indices = range(first, min(first + task.shard, len(task.source.keys)))
        images = [_Image(task, index, self._model) for index in indices]
        usable = [one for one in images if one.error is None]
        for one, result in zip(usable, self._explained(usable), strict=True):
            one.take(result)
        errors = [one.error for one in images if one.error is not None]
        if len(errors) == len(images) and not any(isinstance(one, _OF_IMAGES) for one in errors):
            raise errors[0]
        rows = pd.DataFrame([one.row() for one in images])
        self._store.write_shard(number, rows, _arrays(images, task.method in _BY_FEATURE))
        return ["" if one.error is None else str(one.error) for one in images]

    def _explained(self, images: list["_Image"]) -> list[Tensor | LMPluginsError]:
        task, removal = self._task, as_removal(self._task.removal)
        # Paint is mixed into images under RISE's soft masks, which are no questions of visible and hidden.
        if task.method not in SHARED or (task.method == "rise" and isinstance(removal, PixelRemoval)):
            return [_caught(one, removal) for one in images]
        found: dict[int, Tensor | LMPluginsError] = {}
        for shape in dict.fromkeys(one.x.shape for one in images):
            alike = [one for one in images if one.x.shape == shape]
            results = answered_together(
                self._model,
                removal,
                [one.x for one in alike],
                lambda i, asked, alike=alike: alike[i].attribution(asked),  # type: ignore[misc]
                task.batch_size,
            )
            found.update({id(one): result for one, result in zip(alike, results, strict=True)})
        return [found[id(one)] for one in images]


def _caught(image: "_Image", removal: Removal) -> Tensor | LMPluginsError:
    try:
        return image.attribution(removal)
    except LMPluginsError as error:
        return error


class _Image:
    """One image of a shard: read, asked about, explained; or its error."""

    def __init__(self, task: Task, index: int, model: torch.nn.Module) -> None:
        self._task, self._index, self._model = task, index, model
        self.key = task.source.keys[index]
        self.error: LMPluginsError | None = None
        self._label: str | None = None
        self._digest = ""
        self._said: dict[str, Any] = {"target": None, "predicted": None, "probability": None}
        self.result: Tensor | None = None
        try:
            picture, self._label = read(task.source, index)
            self._digest = content_digest(picture)
            x, pixels = task.prepared(picture)
            self.x = x[None].to(task.device)
            check_finite(self.x, "scale.explain")
            self._ask(pixels)
        except LMPluginsError as error:
            self.error = error

    def _ask(self, pixels: Tensor) -> None:
        task = self._task
        try:
            with torch.inference_mode():
                result = self._model(self.x)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ShapeError(f"the model fails on an image of shape {tuple(self.x.shape)}: {error}") from error
        if not isinstance(result, Tensor) or result.ndim not in (1, 2) or len(result) != 1:
            got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise OptionError(f"a data set is explained for a model that returns a tensor (N, classes), got {got}.")
        rows = as_probabilities(result, task.output).cpu()
        probabilities = rows.reshape(-1)
        predicted = int(probabilities.argmax())
        target = predicted if task.target is None else task.target
        check_target(target, (len(probabilities),))
        self._said = {"target": target, "predicted": predicted, "probability": float(probabilities[target])}
        self.mask = task.chosen_features()(pixels)

    def attribution(self, removal: Removal) -> Tensor:
        """The map ``(H, W)`` of this image, for this removal."""
        task = self._task
        question = Question(
            self._model, self.x, self._said["target"], removal, task.chosen_features(), self.mask.to(self.x.device),
            task.output, task.of, task.samples, task.seed_of(self.key), task.layer, task.batch_size,  # type: ignore[arg-type]
        )  # fmt: skip
        return METHODS[task.method](question).float()

    def take(self, result: Tensor | LMPluginsError) -> None:
        """Keep what the explanation gave."""
        if isinstance(result, LMPluginsError):
            self.error = result
        else:
            self.result = result

    def row(self) -> dict[str, Any]:
        """What is known of it, beside the attribution."""
        return {
            "index": self._index,
            "key": self.key,
            "label": self._label,
            "digest": self._digest,
            **self._said,
            "error": None if self.error is None else f"{type(self.error).__name__}: {self.error}",
        }


def _arrays(images: list[_Image], by_feature: bool) -> dict[str, np.ndarray]:
    """Arrays with an entry for each image; NaN for those without a result."""
    done = [one for one in images if one.result is not None]
    if not done:
        return {}
    height, width = (max(one.x.shape[dim] for one in done) for dim in (2, 3))
    maps = np.full((len(images), height, width), np.nan, np.float32)
    masks = np.full((len(images), height, width), -1, np.int32)
    largest = max(int(one.mask.max()) + 1 for one in done)
    values = np.full((len(images), largest), np.nan, np.float32)
    for i, one in enumerate(images):
        if one.result is None:
            continue
        h, w = one.result.shape
        masks[i, :h, :w] = one.mask.cpu()
        if by_feature:
            values[i, one.mask.cpu().numpy()] = one.result.numpy()
        else:
            maps[i, :h, :w] = one.result
    return {"values": values, "features": masks} if by_feature else {"maps": maps}
