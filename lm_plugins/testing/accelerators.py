"""The road of accelerators, on the host: no layer waits for a value."""

from collections.abc import Iterator
from contextlib import contextmanager

from lm_plugins.masking import Mask

__all__ = ["as_on_accelerator"]


@contextmanager
def as_on_accelerator() -> Iterator[None]:
    """Within the block, masks on the host are treated like those on a GPU, whose values Python does not look at.

    It tests rules and models on that road where there is no GPU. It holds for the whole program.

    Example:
        >>> import torch
        >>> import lm_plugins as lm
        >>> from lm_plugins.testing import as_on_accelerator
        >>> masked = lm.LayerMasked(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)).eval())
        >>> with as_on_accelerator():
        ...     float(masked(torch.ones(1, 1, 2, 2), torch.eye(2)))
        1.0
    """
    before = Mask.looked_at_on
    Mask.looked_at_on = frozenset()
    try:
        yield
    finally:
        Mask.looked_at_on = before
