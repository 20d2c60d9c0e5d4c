"""What EDDA and ExCon have in common: options, the epoch and its draws, and answers to what an explanation leaves."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lm_plugins.errors import InputTypeError, OptionError
from lm_plugins.removal import Removal
from lm_plugins.training.explainers import Explainer
from lm_plugins.training.explaining import check_share, explained, salient_region, undisturbed
from lm_plugins.training.views import Hiding

__all__ = ["ExplanationDriven", "check_counts"]


class ExplanationDriven:
    """Views that explanations decide about.

    Args:
        explainer: See `Explainer`.
        classes: How many classes there are.
        removal: How regions are hidden.
        threshold: Of the salient region, in [0, 1).
        batch_size: Images that are explained at once.
        training_mode: Explain in the mode that the model has.
        seed: The draws of an epoch depend on it and on the number of the epoch.

    Raises:
        InputTypeError: `explainer` cannot be called.
        OptionError: An option is out of range.
    """

    def __init__(
        self,
        explainer: Explainer,
        classes: int,
        removal: Removal | str | None,
        threshold: float,
        batch_size: int,
        training_mode: bool,
        seed: int,
    ) -> None:
        if not callable(explainer):
            raise InputTypeError(f"explainer is a function of model, images and labels; got {explainer!r}.")
        check_share(threshold, "threshold", below_one=True)
        check_counts({"classes": (classes, 1), "batch_size": (batch_size, 1)})
        self.explainer = explainer
        self.classes = classes
        self.threshold = threshold
        self.batch_size = batch_size
        self.training_mode = training_mode
        self.seed = seed
        self._hiding = Hiding(removal)
        self.epoch = 0

    @property
    def epoch(self) -> int:
        """The number of the epoch, from 0; set it at the start of each."""
        return self._epoch

    @epoch.setter
    def epoch(self, number: int) -> None:
        self._epoch = number
        self._random = np.random.default_rng([self.seed, number])

    def _salient(self, model: nn.Module, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See `salient_region`."""
        maps = explained(model, self.explainer, x, labels, self.batch_size, training_mode=self.training_mode)
        return salient_region(maps, self.threshold)

    def _answers(self, model: nn.Module, x: Tensor, visible: Tensor) -> Tensor:
        """Logits for what is visible of images."""
        found: list[Tensor] = []
        with undisturbed(model, training_mode=self.training_mode), torch.no_grad():
            for part, seen in zip(torch.split(x, self.batch_size), torch.split(visible, self.batch_size), strict=True):
                found.append(self._hiding.run(model, self._hiding.painted(part, seen), seen))
        return torch.cat(found)


def check_counts(counts: dict[str, tuple[Any, int]]) -> None:
    """Check options that are whole numbers.

    Args:
        counts: Each value and its least, by name.

    Raises:
        OptionError: One is no whole number, or below its least.
    """
    for name, (value, least) in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise OptionError(f"{name} is a whole number from {least} on, got {value!r}.")
