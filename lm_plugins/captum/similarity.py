"""LIME's similarity between samples, computed on features instead of pixel values."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lm_plugins.errors import OptionError

__all__ = ["feature_similarity"]


def feature_similarity(kernel_width: float = 1.0) -> Callable[..., float]:
    r"""A similarity for LIME that looks at which features are present, not at pixel values.

    :math:`\exp(-d^2 / 2w^2)` with the cosine distance d between the coalition and the full one, :math:`1 - \sqrt{k / F}`
    for k of F features. For Captum's own `Lime` on ``lm.LayerMasked(model)``, whose default similarity would see the
    sentinel value of hidden pixels.

    Args:
        kernel_width: The width w, above 0. Captum's default is 1, that of the lime package 0.25.

    Returns:
        A ``similarity_func`` for `captum.attr.Lime`.

    Raises:
        OptionError: `kernel_width` is not above 0.

    Example:
        >>> import torch
        >>> from lm_plugins.captum import feature_similarity
        >>> similarity = feature_similarity(kernel_width=0.5)
        >>> round(similarity(None, None, torch.tensor([[1, 0, 0, 0]])), 4)
        0.6065
    """
    if not kernel_width > 0:
        raise OptionError(f"kernel_width is above 0, got {kernel_width!r}.")

    def similarity(original: Any, perturbed: Any, coalition: Tensor, **settings: Any) -> float:
        share = float(coalition.double().mean())
        distance = 1 - share**0.5
        return float(torch.tensor(-(distance**2) / (2 * kernel_width**2)).exp())

    return similarity
