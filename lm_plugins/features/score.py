"""One number for each image: what the output of a model says about the target."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lm_plugins.checks import Target, check_target
from lm_plugins.errors import NonFiniteError, OptionError, ProbabilityError, ShapeError

__all__ = ["OutputIs", "as_probabilities", "selected"]

#: What a model returns: ``"logits"`` go through a softmax, ``"multilabel_logits"`` through a sigmoid,
#: ``"probabilities"`` are checked to be some, ``"scores"`` are taken as they are.
OutputIs = Literal["probabilities", "logits", "multilabel_logits", "scores"]

#: Rounding may carry a probability a little over 1.
_SLACK = 1e-3


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


def as_probabilities(output: Tensor, output_is: OutputIs) -> Tensor:
    """Probabilities from what a model returns.

    Args:
        output: ``(N, classes)`` or, where no softmax is asked for, of any shape.
        output_is: What it is; see `OutputIs`.

    Returns:
        The same shape.

    Raises:
        OptionError: An unknown `output_is`.
        ShapeError: A softmax is asked for and there are no classes.
        ProbabilityError: It is said to be probabilities and holds something outside of [0, 1].
        NonFiniteError: It holds NaN.

    Example:
        >>> import torch
        >>> from lm_plugins.features.score import as_probabilities
        >>> as_probabilities(torch.tensor([[0.0, 0.0]]), "logits")
        tensor([[0.5000, 0.5000]])
    """
    if output_is not in get_args(OutputIs):
        raise OptionError(f"output_is is one of {', '.join(map(repr, get_args(OutputIs)))}; got {output_is!r}.")
    if bool(output.isnan().any()):
        raise NonFiniteError(
            "the model returns NaN; look for broken weights, or for images outside of what it can take."
        )
    if output_is == "logits":
        if output.ndim < 2 or output.shape[1] < 2:
            raise ShapeError(
                f"the softmax of logits needs outputs (N, classes), got shape {tuple(output.shape)}; for a single yes or no "
                "pass output_is='multilabel_logits'."
            )
        return output.softmax(1)
    if output_is == "multilabel_logits":
        return output.sigmoid()
    if output_is == "probabilities" and not bool(((output >= -_SLACK) & (output <= 1 + _SLACK)).all()):
        raise ProbabilityError(
            f"the method weighs probabilities, the model returns values from {float(output.detach().min()):.4g} to "
            f"{float(output.detach().max()):.4g}. For logits pass output_is='logits' (softmax) or 'multilabel_logits' "
            "(sigmoid); to weigh what the model returns as it is, output_is='scores'."
        )
    return output
