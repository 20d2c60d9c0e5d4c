"""Salient regions kept from epoch to epoch: explaining every image in every epoch is dear."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lm_plugins.errors import ShapeError
from lm_plugins.training.explanation_driven import check_counts

__all__ = ["RegionCache"]


class RegionCache:
    """Regions by the number of an image, one bit a pixel.

    Args:
        refresh: Epochs for which a region is used.

    Raises:
        OptionError: `refresh` is no whole number above 0.
    """

    def __init__(self, refresh: int) -> None:
        check_counts({"refresh": (refresh, 1)})
        self.refresh = refresh
        self._kept: dict[int, tuple[int, tuple[int, int], Tensor]] = {}

    def regions(
        self, numbers: Sequence[int], epoch: int, explain: Callable[[Tensor], Tensor], images: Tensor
    ) -> Tensor:
        """Regions of images, explained where none is known or the known one is too old.

        Args:
            numbers: Of the images in the data set.
            epoch: The number of this epoch.
            explain: Gives the regions of some of the images, by their positions in the batch.
            images: The batch ``(N, C, H, W)``.

        Returns:
            Bool ``(N, H, W)``.

        Raises:
            ShapeError: An image had another size in an earlier epoch.
        """
        size = (int(images.shape[2]), int(images.shape[3]))
        old = []
        for i, number in enumerate(numbers):
            since, its_size, _ = self._kept.get(number, (-self.refresh, size, None))
            if its_size != size:
                raise ShapeError(
                    f"image {number} is of {size[0]} x {size[1]} now, and was of {its_size[0]} x {its_size[1]}: with "
                    "refresh, images are the same in every epoch."
                )
            # A run that goes back to an earlier epoch explains anew.
            if not 0 <= epoch - since < self.refresh:
                old.append(i)
        if old:
            found = explain(torch.tensor(old, device=images.device)).cpu().numpy()
            for i, region in zip(old, found, strict=True):
                self._kept[numbers[i]] = (epoch, size, torch.from_numpy(np.packbits(region)))
        known = [np.unpackbits(self._kept[one][2].numpy(), count=size[0] * size[1]).reshape(size) for one in numbers]
        return torch.from_numpy(np.stack(known).astype(bool)).to(images.device)

    def state(self) -> dict[int, tuple[int, tuple[int, int], Tensor]]:
        """What is kept, for a checkpoint."""
        return dict(self._kept)

    def take_up(self, state: dict[int, tuple[int, tuple[int, int], Tensor]]) -> None:
        """Go on with what `state` gave."""
        self._kept = dict(state)
