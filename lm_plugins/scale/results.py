"""The results of a data set, read when they are asked for."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lm_plugins.errors import ImageFileError, OptionError
from lm_plugins.scale.store import Store

__all__ = ["DataSetResults", "open_results"]


def open_results(out: str | Path) -> "DataSetResults":
    """Read what `explain` wrote, also while it is writing.

    Args:
        out: The folder.

    Returns:
        The results that are there.

    Raises:
        OptionError: There are none.
    """
    return DataSetResults(Store(out))


class DataSetResults:
    """Attributions and answers of a data set.

    Args:
        store: Where they lie.

    Raises:
        OptionError: It holds no results.
    """

    def __init__(self, store: Store) -> None:
        manifest = store.manifest()
        if manifest is None:
            raise OptionError(f"{store.address} holds no results of lm_plugins.scale.explain.")
        self.manifest = manifest
        self._store = store
        self._shards = sorted(store.finished())
        self._arrays, self._rows = (lru_cache(maxsize=8)(read) for read in (store.arrays, store.rows))

    def __len__(self) -> int:
        """How many images are explained, or have an error."""
        return len(self.table)

    def __repr__(self) -> str:
        return f"DataSetResults({len(self)} of {self.manifest['images']} images, {self.manifest['method']})"

    @property
    def table(self) -> pd.DataFrame:
        """One row for each image: index, key, label, target, predicted, probability of the target, error."""
        if not self._shards:
            return pd.DataFrame(columns=["index", "key", "label", "target", "predicted", "probability", "error"])
        if not hasattr(self, "_table"):
            self._table = pd.concat([self._store.rows(number) for number in self._shards], ignore_index=True)
        return self._table

    def check_any(self) -> None:
        """Refuse where nothing is explained.

        Raises:
            ImageFileError: Every image has an error; the message lists the first.
        """
        errors = self.table["error"].dropna()
        if len(errors) and len(errors) == len(self.table):
            raise ImageFileError(f"none of the {len(errors)} images can be explained: {'; '.join(errors[:3])}")

    def attribution(self, index: int) -> Tensor:
        """The map of one image.

        Args:
            index: Of the image in the data set.

        Returns:
            ``(H, W)``.

        Raises:
            OptionError: The image is not explained; the message says why.
        """
        group, place = self._place(index)
        if "maps" in group:
            return _cut(torch.from_numpy(np.asarray(group["maps"][place])))
        features = torch.from_numpy(np.asarray(group["features"][place]))
        features = features[: int((features >= 0).any(1).sum()), : int((features >= 0).any(0).sum())]
        return torch.from_numpy(np.asarray(group["values"][place]))[features.long()]

    def values(self, index: int) -> Tensor:
        """One number for each feature of an image, ``(F,)``, as they are stored.

        Raises:
            OptionError: The image is not explained; or the method gives maps and not numbers for features.
        """
        group, place = self._place(index)
        if "values" not in group:
            raise OptionError(
                f"{self.manifest['method']} gives a map, not a number for each feature: take attribution()."
            )
        values = torch.from_numpy(np.asarray(group["values"][place]))
        return values[~values.isnan()]

    def _place(self, index: int) -> tuple[Any, int]:
        size = self.manifest["shard"]
        number, place = divmod(index, size)
        if not 0 <= index < self.manifest["images"]:
            raise OptionError(f"there are images 0 .. {self.manifest['images'] - 1}, asked for {index}.")
        if number not in self._shards:
            raise OptionError(f"image {index} is not explained yet.")
        error = self._rows(number)["error"].iloc[place]
        if isinstance(error, str):
            raise OptionError(f"image {index} could not be explained: {error}")
        return self._arrays(number), place

    def to_captum(self) -> Iterator[Tensor]:
        """Attributions as Captum's methods give them, ``(1, 1, H, W)``, image by image; those with an error are left out."""
        for index in self.table.loc[self.table["error"].isna(), "index"]:
            yield self.attribution(int(index))[None, None]

    def concentration(self, share: float = 0.5) -> pd.Series:
        """How concentrated the evidence of each image is.

        Args:
            share: Of the absolute attribution.

        Returns:
            By index of the image: the share of pixels that holds so much of it; small is concentrated.
        """
        found = {}
        for index in self.table.loc[self.table["error"].isna(), "index"]:
            sizes = self.attribution(int(index)).abs().flatten().sort(descending=True).values.double()
            total = sizes.sum()
            reached = (sizes.cumsum(0) < share * total).sum() + 1 if total > 0 else torch.tensor(len(sizes))
            found[int(index)] = float(reached) / len(sizes)
        return pd.Series(found, name="concentration", dtype=float)

    def agreement(self, other: "DataSetResults") -> pd.Series:
        """How far two explanations of the same images agree, such as those by two removals; the least first.

        Args:
            other: Results of the same images, by another removal or method.

        Returns:
            By index of the image: Spearman's rank correlation of the two maps.

        Raises:
            OptionError: The images differ.
        """
        if self.manifest["keys"] != other.manifest["keys"]:
            raise OptionError("agreement compares results of the same images; these have other names.")
        both = set(self.table.loc[self.table["error"].isna(), "index"])
        both &= set(other.table.loc[other.table["error"].isna(), "index"])
        found = {}
        for index in sorted(both):
            a, b = (pd.Series(one.attribution(int(index)).flatten().numpy()).rank() for one in (self, other))
            found[int(index)] = float(a.corr(b)) if a.std() and b.std() else 0.0
        return pd.Series(found, name="agreement", dtype=float).sort_values()

    def by_class(self) -> pd.DataFrame:
        """Images, mean probability and mean concentration, by target; the most concentrated first."""
        table = self.table[self.table["error"].isna()].set_index("index")
        table = table.assign(concentration=self.concentration())
        grouped = table.groupby("target").agg(
            images=("key", "size"), probability=("probability", "mean"), concentration=("concentration", "mean")
        )
        return grouped.sort_values("concentration")

    def mean_map(self, target: int) -> Tensor:
        """The mean attribution of the images of a target, ``(H, W)``.

        Raises:
            OptionError: No image has it, or their sizes differ.
        """
        table = self.table[self.table["error"].isna()]
        maps = [self.attribution(int(i)) for i in table.loc[table["target"] == target, "index"]]
        if not maps or len({one.shape for one in maps}) > 1:
            raise OptionError(f"{len(maps)} images have the target {target}; a mean needs one or more, of one size.")
        return torch.stack(maps).mean(0)


def _cut(values: Tensor) -> Tensor:
    """Without what was added to maps of other sizes."""
    known = ~values.isnan()
    return values[: int(known.any(1).sum()), : int(known.any(0).sum())]
