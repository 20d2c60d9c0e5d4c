"""One number for each image: what the output of a model says about the target."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lm_plugins.errors import InputTypeError, NonFiniteError, OptionError, ProbabilityError, ShapeError

__all__ = ["OutputIs", "Target", "as_probabilities", "selected", "targets_for"]

#: What a model returns: ``"logits"`` go through a softmax, ``"multilabel_logits"`` through a sigmoid,
#: ``"probabilities"`` are checked to be some, ``"scores"`` are taken as they are.
OutputIs = Literal["probabilities", "logits", "multilabel_logits", "scores"]

#: The class of one image: an index, indices of an output with more dimensions, or None for an output without classes.
Target = int | tuple[int, ...] | None

#: Rounding may carry a probability a little over 1.
_SLACK = 1e-3


def targets_for(target: Any, count: int) -> list[Target]:
    """Targets as Captum takes them, as one for each image.

    Args:
        target: An int or tuple of ints for all images, an integer tensor or a list with one for each, or None for a
            model with one output.
        count: The number of images.

    Returns:
        A target for each image.

    Raises:
        InputTypeError: `target` is something else.
        OptionError: There are not as many targets as images.

    Example:
        >>> import torch
        >>> from lm_plugins.features.score import targets_for
        >>> targets_for(3, 2), targets_for(torch.tensor([1, 0]), 2)
        ([3, 3], [1, 0])
    """
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.dtype == torch.bool or target.ndim > 1:
            raise InputTypeError(
                f"target is an int, a tuple, a list or an integer tensor (N,), got a tensor of {target.dtype} and shape "
                f"{tuple(target.shape)}."
            )
        target = target.tolist()
        target = target[0] if isinstance(target, list) and len(target) == 1 else target
    given = target if isinstance(target, list) else [target] * count
    for one in given:
        indices = one if isinstance(one, tuple) else (one,)
        if one is not None and not all(isinstance(index, int) and not isinstance(index, bool) for index in indices):
            raise InputTypeError(f"target is an int, a tuple, a list or an integer tensor (N,), got {one!r}.")
    if len(given) != count:
        raise OptionError(f"target has {len(given)} classes for {count} images: pass one class, or one for each image.")
    return list(given)


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
    chosen = []
    for row, target in zip(output, targets, strict=True):
        index = (0,) * len(shape) if target is None and row.numel() == 1 else target
        index = (index,) if isinstance(index, int) else index
        if index is None:
            raise OptionError(
                f"target is None, the model has outputs of shape {shape}: choose one of them with target=."
            )
        if len(index) != len(shape):
            raise OptionError(
                f"target is {target}, the outputs of the model have shape {shape}: pass {len(shape)} indices."
            )
        if not all(-size <= i < size for i, size in zip(index, shape, strict=True)):
            last = ", ".join(f"0 to {size - 1}" for size in shape)
            raise OptionError(f"target is {target}, the model has outputs of shape {shape}: choose {last}.")
        chosen.append(row[index])
    return torch.stack(chosen)


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
