"""Data of the recipes: each image whole and in two random views, the same ones in every run with a seed."""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset
from torchvision.transforms import v2

from lm_plugins.errors import InputTypeError, OptionError

__all__ = ["Batch", "ImageData", "datasets_of"]

#: Keys: ``whole``, ``view`` and, of two views, ``other``: images ``(N, C, H, W)``; ``label`` and ``index``: int64 ``(N,)``.
Batch = dict[str, Tensor]


class Labelled(Protocol):
    """A data set of pairs (image, label); the image is PIL's, or a tensor ``(C, H, W)`` of uint8 or of floats on [0, 1]."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """One of them."""
        ...


def datasets_of(name: str) -> tuple[Labelled, Labelled]:
    """The training and the test set that a name stands for. Nothing is downloaded.

    Args:
        name: A folder with ``train`` and ``test``, each with a folder a class; ``torchvision:CIFAR100@FOLDER`` for a data set
            of torchvision's; or ``package.module:factory``, which returns the two.

    Returns:
        Training and test set.

    Raises:
        OptionError: There is no such folder, data set or factory.
        InputTypeError: The factory returns something else.
    """
    if Path(name).is_dir():
        from torchvision.datasets import ImageFolder

        folders = [Path(name) / part for part in ("train", "test")]
        missing = [str(one) for one in folders if not one.is_dir()]
        if missing:
            raise OptionError(
                f"{name} is to have the folders train and test, each with a folder a class; {missing[0]} is missing."
            )
        train, test = (ImageFolder(str(one)) for one in folders)
        if train.classes != test.classes:
            raise OptionError(f"{folders[0]} and {folders[1]} have different classes.")
        return train, test
    kind, _, rest = name.partition(":")
    if kind == "torchvision":
        from torchvision import datasets

        kind, _, root = rest.partition("@")
        try:
            data = getattr(datasets, kind)
            return data(root or ".", train=True), data(root or ".", train=False)
        except (AttributeError, RuntimeError, TypeError) as error:
            raise OptionError(
                f"{name!r} cannot be read ({error}): torchvision:CIFAR100@FOLDER, of data that lies in the folder already."
            ) from error
    try:
        found = getattr(importlib.import_module(kind), rest)()
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError(
            f"{name!r} is no folder, no torchvision:NAME@FOLDER and no package.module:factory ({error})."
        ) from error
    if not isinstance(found, tuple) or len(found) != 2:
        raise InputTypeError(f"{name} returns a training set and a test set, got {type(found).__name__}.")
    return found


class ImageData(lightning.LightningDataModule):
    """Training, validation and test set of labelled images.

    A view depends on seed, epoch and image alone: not on workers, nor on whether a run was interrupted.

    Args:
        train: Labelled images to train on.
        test: Others, looked at once, at the end.
        classes: How many classes there are.
        size: Height and width, to which images are resized; views are cropped to it.
        mean: Of the normalisation, on [0, 1].
        std: Of the normalisation.
        batch_size: Images in a batch.
        validation: Share of `train` that is held out, for every choice.
        smallest_crop: Smallest share of the area that a view shows.
        colour_jitter: Change colours of views, as contrastive learning does.
        two_views: Draw two views of each image, for contrastive learning.
        workers: Processes that decode images.
        seed: Of the split, the order and the views.

    Raises:
        OptionError: An option is out of range, or there are too few images.

    References:
        Views as in the code of ExCon: crops of 20 to 100 % of the area, flips, colour jitter (.4, .4, .4, .1) with
        probability .8, grey with .2.
    """

    def __init__(
        self,
        train: Labelled,
        test: Labelled,
        classes: int,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int = 128,
        validation: float = 0.1,
        smallest_crop: float = 0.2,
        colour_jitter: bool = True,
        two_views: bool = True,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < validation < 1:
            raise OptionError(f"validation lies between 0 and 1, got {validation!r}.")
        held_out = round(validation * len(train))
        if not 0 < held_out < len(train):
            raise OptionError(f"{len(train)} training images cannot be split: {validation:.0%} of them for validation.")
        order = np.random.default_rng(seed).permutation(len(train))
        transform = _transform(size, mean, std, smallest_crop, colour_jitter)
        drawn = dict.fromkeys(("view", "other")[: 1 + two_views], transform)
        whole = v2.Compose([v2.Resize((size, size), antialias=True), v2.Normalize(list(mean), list(std))])
        self._train = _Views(train, order[held_out:].tolist(), classes, whole, drawn, seed)
        self._validation = _Views(train, order[:held_out].tolist(), classes, whole, {}, seed)
        self._test = _Views(test, list(range(len(test))), classes, whole, {}, seed)
        self._batch_size = batch_size
        self._workers = workers
        self._seed = seed

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of this epoch, in the order of its number; a last one that is smaller than the others is left out."""
        sampler = _EpochSampler(len(self._train), self._seed)
        return self._loader(self._train, sampler=sampler, drop_last=len(self._train) >= self._batch_size)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The images that were held out."""
        return self._loader(self._validation)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test images."""
        return self._loader(self._test)

    def _loader(self, data: "_Views", **options: Any) -> DataLoader[Batch]:
        return DataLoader(data, self._batch_size, num_workers=self._workers, **options)


class _EpochSampler(Sampler[tuple[int, int]]):
    """A new order for each epoch; Lightning says which epoch it is."""

    def __init__(self, length: int, seed: int) -> None:
        self._length, self._seed, self._epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for index in np.random.default_rng([self._seed, self._epoch]).permutation(self._length).tolist():
            yield self._epoch, index


class _Views(Dataset[Batch]):
    """Samples by their number, or by (epoch, number) where views are drawn."""

    def __init__(
        self, data: Labelled, numbers: list[int], classes: int, whole: Any, drawn: dict[str, Any], seed: int
    ) -> None:
        self._data: Subset[Any] = Subset(data, numbers)  # type: ignore[arg-type]
        self._numbers, self._classes, self._seed = numbers, classes, seed
        self._whole, self._drawn = whole, drawn

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = index if isinstance(index, tuple) else (0, index)
        sample = self._data[index]
        number = self._numbers[index]
        if not isinstance(sample, (tuple, list)) or len(sample) != 2:
            raise InputTypeError(f"the data set is of pairs (image, label), image {number} is {type(sample).__name__}.")
        image, label = sample
        label = int(label)
        if not 0 <= label < self._classes:
            raise OptionError(f"labels are 0 .. {self._classes - 1}, image {number} has {label}.")
        x = v2.functional.to_dtype(v2.functional.to_image(image), torch.float32, scale=True).as_subclass(Tensor)
        x = x[:3] if len(x) == 4 else x.expand(3, -1, -1)
        found = {"whole": self._whole(x), "label": label, "index": number}
        if not self._drawn:
            return found
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.default_rng([self._seed, epoch, number]).integers(2**62)))
            return found | {name: transform(x) for name, transform in self._drawn.items()}


def _transform(size: int, mean: Sequence[float], std: Sequence[float], smallest: float, colour: bool) -> Any:
    jitter = [v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8), v2.RandomGrayscale(0.2)] if colour else []
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, (smallest, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            *jitter,
            v2.Normalize(list(mean), list(std)),
        ]
    )
