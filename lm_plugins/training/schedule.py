"""Optimiser and learning rate of the recipes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch.nn import Parameter
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """SGD with momentum, a linear warm-up and a cosine to a thousandth.

    Args:
        learning_rate: Largest learning rate.
        epochs: Until when the cosine falls.
        warm_up: Epochs of linear rise at the start.
        momentum: Of SGD.
        weight_decay: Of SGD.

    References:
        As in the code of ExCon, which uses 0.5, a momentum of .9 and a decay of 1e-4.
    """

    learning_rate: float
    epochs: int
    warm_up: int = 0
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def optimizer(self, parameters: Iterable[Parameter]) -> dict[str, Any]:
        """Optimiser and scheduler, as Lightning takes them."""
        optimizer = SGD(parameters, self.learning_rate, self.momentum, weight_decay=self.weight_decay)
        fall = CosineAnnealingLR(optimizer, max(1, self.epochs - self.warm_up), 1e-3 * self.learning_rate)
        scheduler: LRScheduler = fall
        if self.warm_up:
            rise = LinearLR(optimizer, 1 / (self.warm_up + 1), total_iters=self.warm_up)
            scheduler = SequentialLR(optimizer, [rise, fall], [self.warm_up])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}
