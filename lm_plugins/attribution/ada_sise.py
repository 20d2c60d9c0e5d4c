"""Ada-SISE: SISE with as few masks as Otsu's threshold leaves."""

import torch
from torch import Tensor

from lm_plugins.attribution.fusion import otsu_threshold
from lm_plugins.attribution.sise import SISE

__all__ = ["AdaSISE"]


class AdaSISE(SISE):
    r"""Adaptive SISE: in each layer, keep the maps whose mean gradient stands out.

    With :math:`\hat g_k = g_k / \max_j g_j` of the mean gradients g, keep :math:`\hat g_k > t`, where t is Otsu's threshold
    of the positive :math:`\hat g_k`. Everything else is `SISE`, whose options it takes; `mu` applies first.

    **Patent.** See `SISE`: US 11,809,519 B2 covers the method that this one speeds up.

    Example:
        >>> import torch
        >>> from lm_plugins.attribution import AdaSISE
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
        >>> model = model.append(torch.nn.Flatten()).append(torch.nn.Softmax(1)).eval()
        >>> AdaSISE(model).attribute(torch.rand(2, 3, 16, 16), target=[0, 1]).shape
        torch.Size([2, 1, 16, 16])

    References:
        Sudhakar et al., "Ada-SISE: adaptive semantic input sampling for efficient explanation of convolutional neural
        networks", ICASSP 2021, arXiv 2102.07799. No official code is known; where the re-implementations differ, we take
        a strict ``>``, Otsu's threshold of the numbers themselves (a histogram of 256 bins, as they have it, kept one map
        too many in half of the layers that we looked at), the map of the largest gradient where there is nothing to
        separate, and SISE's division by the size of the mask.
    """

    def _selected(self, weights: Tensor) -> Tensor:
        positive = super()._selected(weights)
        if not bool(positive.any()):
            return positive
        share = weights / weights.max()
        values = share[positive]
        if bool(values.min() == values.max()):
            return positive & (torch.arange(len(weights), device=weights.device) == weights.argmax())
        return positive & (share > otsu_threshold(values))
