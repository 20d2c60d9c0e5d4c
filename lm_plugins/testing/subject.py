"""A model, its images and their masks: what `check_model` puts to the test, in the model's dtype or in a copy of another."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lm_plugins.masking import Calibration, MaskingOptions, run_masked
from lm_plugins.testing.case import tensors

__all__ = ["Subject"]


@dataclass(frozen=True)
class Subject:
    """What the laws of a model are about.

    Args:
        model: In evaluation mode.
        x: Images ``(N, C, H, W)``, N > 1.
        visible: Bool ``(N, H, W)``.
        options: The semantics.
        calibration: Of the model.
    """

    model: nn.Module
    x: Tensor
    visible: Tensor
    options: MaskingOptions
    calibration: Calibration | None = None

    def run(self, x: Tensor, visible: Tensor) -> Any:
        """Send images through the engine."""
        return run_masked(self.model, x, visible, self.options, calibration=self.calibration)

    @cached_property
    def plain(self) -> Any:
        """The output of the plain model."""
        return self.model(self.x)

    @cached_property
    def masked(self) -> Any:
        """The output under the masks."""
        return self.run(self.x, self.visible)

    def converted(self, dtype: torch.dtype) -> "Subject":
        """The same of a copy of the model in another dtype; the model itself is not touched."""
        model = copy.deepcopy(self.model).to(dtype)
        calibration = None if self.calibration is None else self.calibration.folded(model, {})
        return Subject(model, self.x.to(dtype), self.visible, self.options, calibration)

    def reduced(self) -> str | None:
        """The first operation of the plain model that computes in less than the dtype of the images, in words, or None."""
        watch = _Watch(self.x.dtype)
        with watch:
            self.model(self.x)
        return watch.found


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Notes the first operation on floating-point tensors whose result has fewer bits than `dtype`."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.bits = torch.finfo(dtype).bits
        self.found: str | None = None

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        made, read = ([one for one in tensors(part) if one.is_floating_point()] for part in (result, args))
        low = [one for one in made if torch.finfo(one.dtype).bits < self.bits]
        if read and low and self.found is None:
            self.found = f"{func} in {low[0].dtype}"
        return result
