"""What `check_model` returns: how each law was kept."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Kept", "ModelConformance"]


@dataclass(frozen=True)
class Kept:
    """How a model keeps one law.

    Args:
        how: In words, such as ``"bit for bit"``, or why the law says nothing about this model.
        difference: The largest one in the model's dtype, relative to the largest number of the output; 0: bit for bit.
    """

    how: str
    difference: float = 0.0


@dataclass(frozen=True)
class ModelConformance:
    """The laws that a model keeps, and how.

    Args:
        model: The name of its class.
        laws: How each law is kept, by its name, in the order of their checks.

    Example:
        >>> import torch
        >>> from lm_plugins.testing import check_model
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
        >>> found = check_model(model.eval(), torch.randn(2, 3, 32, 32))
        >>> found.laws["all visible is the plain model"].how
        'bit for bit'
        >>> found.is_bit_for_bit
        True
    """

    model: str
    laws: Mapping[str, Kept]

    @property
    def is_bit_for_bit(self) -> bool:
        """Whether all visible is the plain model bit for bit, rather than up to rounding."""
        return self.laws["all visible is the plain model"].difference == 0

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.model} keeps the laws:", *(f"  {law}: {kept.how}" for law, kept in self.laws.items())]
        )
