"""One number for each image: what the output of a model says about the target."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lm_plugins.checks import Target, check_target

__all__ = ["selected"]


def selected(output: Tensor, targets: Sequence[Target]) -> Tensor:
    """The entry of each row of an output that belongs to its target.

    Args:
        output: ``(N, ...)``.
        targets: N of them, as `targets_for` makes them.

    Returns:
        ``(N,)``, differentiable.

    Raises:
        OptionError: A target is not among the outputs, or there is none and the model has several outputs.

    Example:
        >>> import torch
        >>> from lm_plugins.features.score import selected
        >>> selected(torch.tensor([[0.1, 0.9], [0.7, 0.3]]), [1, 0])
        tensor([0.9000, 0.7000])
    """
    if output.ndim == 1 and all(target in (None, 0, (0,)) for target in targets):
        return output
    shape = tuple(output.shape[1:])
    return torch.stack([row[check_target(target, shape)] for row, target in zip(output, targets, strict=True)])
