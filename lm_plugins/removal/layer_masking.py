"""Removal by layer masking: the model computes on visible pixels only."""

from dataclasses import dataclass

from torch import nn

from lm_plugins.errors import InputTypeError
from lm_plugins.masking import Calibration, LayerMasked, MaskingOptions
from lm_plugins.removal.protocol import Forward

__all__ = ["LayerMasking"]


@dataclass(frozen=True)
class LayerMasking:
    """Layer masking as a removal.

    Args:
        options: The semantics; None for the defaults.
        verify: As of `lm_plugins.LayerMasked`.
        calibration: What `lm_plugins.calibrate` fitted to the model; None leaves moments as they come.

    Example:
        >>> import torch
        >>> from lm_plugins.removal import LayerMasking
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1)).eval()
        >>> forward = LayerMasking()(model)
        >>> forward(torch.rand(1, 3, 8, 8), torch.ones(8, 8, dtype=torch.bool)).shape
        torch.Size([1, 4, 1, 1])
    """

    options: MaskingOptions | None = None
    verify: bool = True
    calibration: Calibration | None = None

    def __call__(self, model: nn.Module) -> Forward:
        """Build ``forward(x, visible, *further)``.

        Raises:
            InputTypeError: `model` is, or contains, a `LayerMasked`.
            CalibrationError: The calibration belongs to another model.
        """
        if isinstance(model, nn.Module) and any(isinstance(module, LayerMasked) for module in model.modules()):
            raise InputTypeError(
                "the model is layer-masked already, and layer masking is the removal: pass the plain model, "
                "masked.model, with removal=masked if its options are not the defaults."
            )
        return LayerMasked(model, self.options, verify=self.verify, calibration=self.calibration)
