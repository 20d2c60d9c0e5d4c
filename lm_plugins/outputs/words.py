"""What a model returns: the tensor that is explained, the word for what it holds, and the probabilities that it means.

One word everywhere, for ``output=`` and ``--output``:

- ``"logits"``: of classes that exclude each other, ``(N, classes)``; a softmax follows.
- ``"probabilities"``: nothing follows; they are checked to be some.
- ``"sigmoid"``: logits of labels that do not exclude each other; a sigmoid follows.
- ``"single_logit"``: one logit for a yes or no, ``(N,)`` or ``(N, 1)``; a sigmoid follows.
- ``"regression"``: no probabilities; taken as they are.

``output=`` also takes a function that chooses the tensor from what the model returns, the name of a field as
``"field:logits"`` (of a dict, a dataclass or transformers' ``ModelOutput``), or either and the word for what it gives, as a
pair: ``output=("field:logits", "logits")``.

A single probability is that of class 1 of two: it becomes ``(N, 2)``, so that labels 0 and 1 mean the same everywhere.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from lm_plugins.errors import InputTypeError, NonFiniteError, OptionError, OutputWarning, ProbabilityError, ShapeError

__all__ = ["Output", "OutputIs", "as_probabilities", "chosen_by", "field_of", "guessed", "parted", "rows_of"]

OutputIs = Literal["logits", "probabilities", "sigmoid", "single_logit", "regression"]

#: What an argument ``output=`` takes: a word, a function from what a model returns to the tensor that is explained, the name
#: of a field in its place, or a function or field and a word.
Output = OutputIs | str | Callable[[Any], Any] | tuple[Callable[[Any], Any] | str, OutputIs]

_FIELD = "field:"

#: Rounding may carry a probability a little over 1.
_SLACK = 1e-3


def parted(output: Output | str | None) -> tuple[Callable[[Any], Any] | None, OutputIs | None]:
    """Check ``output=``, and tell a function that chooses from the word for what is chosen.

    Args:
        output: A word, a function, a pair of both, or None.

    Returns:
        The function and the word; None where there is none.

    Raises:
        OptionError: The word is unknown.
        InputTypeError: `output` is none of these.

    Example:
        >>> from lm_plugins.outputs.words import parted
        >>> parted("single logit")
        (None, 'single_logit')
    """
    if output is None:
        return None, None
    if isinstance(output, str):
        return (chosen_by(output[len(_FIELD) :]), None) if output.startswith(_FIELD) else (None, _known(output))
    if isinstance(output, tuple | list) and len(output) == 2 and isinstance(output[1], str):
        choose = parted(output[0])[0]
        if choose is not None:
            return choose, _known(output[1])
    if not callable(output):
        raise InputTypeError(
            "output is a word, a function of what the model returns, 'field:NAME', or the pair (function, word), got "
            f"{type(output).__name__}: {str(output)[:80]}."
        )
    return output, None


def _known(given: Any) -> OutputIs:
    word = given.replace(" ", "_").replace("-", "_") if isinstance(given, str) else given
    if word not in get_args(OutputIs):
        words = ", ".join(map(repr, get_args(OutputIs)))
        raise OptionError(
            f"output is one of {words}, a function of what the model returns, or 'field:NAME'; got {given!r}."
        )
    return cast(OutputIs, word)


def chosen_by(field: str | Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    """The function that chooses a part of what a model returns.

    Args:
        field: The name of the part, a function, or None for all.

    Raises:
        InputTypeError: It is none of these.
    """
    if field is None:
        return lambda result: result
    if callable(field):
        return field
    if not isinstance(field, str) or not field:
        raise InputTypeError(f"a field is a name or a function, got {field!r}.")
    name = field

    def choose(result: Any) -> Any:
        missing = object()
        found = field_of(result, name, missing)
        if found is missing:
            names = list(result) if isinstance(result, Mapping) else list(getattr(result, "__dict__", {}))
            raise InputTypeError(
                f"the model returns {type(result).__name__} without a field {name!r}; it has "
                f"{', '.join(map(repr, names)) or 'no fields'}."
            )
        return found

    return choose


def field_of(result: Any, name: str, default: Any = None) -> Any:
    """The field of a dict, a dataclass or a named tuple; `default` if it has none.

    Args:
        result: What a model returned.
        name: Of the field.
        default: What to return in its place.
    """
    if isinstance(result, Mapping):
        return result.get(name, default)
    return getattr(result, name, default)


def rows_of(result: Any, count: int, output: Output | None = None) -> Tensor:
    """The part of a model's output that is explained, with one row for each image.

    Args:
        result: What the model returned: a tensor, tuple, dict, dataclass, ...
        count: The number of images.
        output: Chooses or computes the tensor from it, such as ``lambda result: result["out"].mean((2, 3))``. A word says
            what the tensor holds, and asks for the probabilities that it means. A pair does both. None takes `result` as it
            is.

    Returns:
        ``(count, ...)``.

    Raises:
        InputTypeError: The choice is no tensor with one row for each image.
        LMPluginsError: A word does not fit the tensor; see `as_probabilities`.

    Warns:
        OutputWarning: A function returned 1 for everything: a softmax over a single output.

    Example:
        >>> import torch
        >>> from lm_plugins.outputs.words import rows_of
        >>> rows_of({"out": torch.ones(2, 5, 4, 4), "aux": None}, 2, output=lambda result: result["out"].mean((2, 3))).shape
        torch.Size([2, 5])
        >>> rows_of(torch.zeros(2, 1), 2, output="single_logit")
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """
    choose, word = parted(output)
    chosen = result if choose is None else choose(result)
    if isinstance(chosen, Tensor) and chosen.ndim and len(chosen) == count:
        if word is not None:
            return as_probabilities(chosen, word)
        if choose is not None and chosen.shape[1:] == (1,) and bool((chosen == 1).all()):
            warnings.warn(
                "output= returns a single number for each image, and it is exactly 1: the softmax of a single logit, which "
                "says nothing. Pass output='single_logit': two classes, 0 and 1.",
                OutputWarning,
                stacklevel=3,
            )
        return chosen
    got = f"a tensor of shape {tuple(chosen.shape)}" if isinstance(chosen, Tensor) else type(chosen).__name__
    if isinstance(chosen, dict):
        got += f" with {', '.join(map(repr, chosen))}"
    source = "the model must return" if choose is None else "output= must return"
    raise InputTypeError(
        f"{source} a tensor with one row for each of the {count} images, got {got}. Choose a part of what the model "
        "returns with output=, for example output=lambda result: result.logits."
    )


def as_probabilities(output: Tensor, word: OutputIs | None) -> Tensor:
    """Probabilities from what a model returns.

    Args:
        output: ``(N, classes)`` or, where no softmax is asked for, of any shape.
        word: What it holds; see `lm_plugins.outputs.words`. None checks for probabilities and leaves their form alone: a
            single one stays one.

    Returns:
        The same shape; ``(N, 2)`` where there is a single probability for each image: that of class 1 is the second.
        Regressions stay as they are.

    Raises:
        OptionError: The word is unknown.
        ShapeError: A softmax is asked for and there are no classes, or one logit and there are several.
        ProbabilityError: It is said to be probabilities and holds something outside of [0, 1].
        NonFiniteError: It holds NaN.

    Warns:
        OutputWarning: It is said to be logits, and every row is in [0, 1] and sums to 1.

    Example:
        >>> import torch
        >>> from lm_plugins.outputs.words import as_probabilities
        >>> as_probabilities(torch.tensor([[0.0, 0.0]]), "logits")
        tensor([[0.5000, 0.5000]])
    """
    word = None if word is None else _known(word)
    if bool(output.isnan().any()):
        raise NonFiniteError(
            "the model returns NaN; look for broken weights, or for images outside of what it can take."
        )
    if word == "regression":
        return output
    if word == "logits":
        if output.ndim < 2 or output.shape[1] < 2:
            raise ShapeError(
                f"the softmax of logits needs outputs (N, classes), got shape {tuple(output.shape)}; for a single yes or no "
                "pass output='single_logit'."
            )
        if _sum_to_one(output):
            warnings.warn(
                f"what was said to be logits looks like probabilities: {_USE.format('a second softmax')}.",
                OutputWarning,
                stacklevel=3,
            )
        return output.softmax(1)
    is_single = output.ndim == 1 or output.shape[1:] == (1,)
    if word == "single_logit" and not is_single:
        raise ShapeError(
            f"a single logit is an output (N,) or (N, 1), got shape {tuple(output.shape)}; for several classes pass "
            "output='logits' (softmax) or 'sigmoid' (labels that do not exclude each other)."
        )
    if word in ("probabilities", None):
        if not bool(_in_range(output, _SLACK)):
            raise ProbabilityError(
                f"probabilities are expected, the model returns values from {float(output.detach().min()):.4g} to "
                f"{float(output.detach().max()):.4g}. Pass output='logits' (a softmax follows), 'sigmoid' or 'single_logit' "
                "(a sigmoid follows), or 'regression' to take them as they are."
            )
        return torch.stack([1 - output.reshape(-1), output.reshape(-1)], 1) if is_single and word else output
    if is_single:
        return torch.stack([-output.reshape(-1), output.reshape(-1)], 1).sigmoid()
    return output.sigmoid()


_USE = "pass output='probabilities' (--output probabilities), or {} would flatten them"


def guessed(output: Tensor) -> OutputIs:
    """What a model returns, where nobody said: logits, unless its answer to a whole image looks like something else.

    A value outside of [0, 1] proves that there are no probabilities. Values within may be either: nobody can tell.

    Args:
        output: For whole images, ``(N, classes)``, ``(N, 1)`` or ``(N,)``.

    Returns:
        ``"logits"``, or ``"single_logit"`` where there is a single output.

    Raises:
        OptionError: All values are in [0, 1].
        NonFiniteError: There is NaN among them.
        ShapeError: There is no output.

    Warns:
        OutputWarning: There is a single output, which is taken for a logit.

    Example:
        >>> import torch
        >>> from lm_plugins.outputs.words import guessed
        >>> guessed(torch.tensor([[-1.0, 3.0]]))
        'logits'
    """
    if bool(output.isnan().any()):
        return cast(OutputIs, as_probabilities(output, "regression"))  # raises
    if not output.numel():
        raise ShapeError(
            f"a model that returns a tensor (N, classes) is needed; this one returns {tuple(output.shape)}, no class."
        )
    is_single = output.ndim == 1 or output.shape[1:] == (1,)
    if bool(_in_range(output, 0.0)):
        if not is_single and _sum_to_one(output):
            raise OptionError(f"the model already returns probabilities: {_USE.format('a second softmax')}.")
        if is_single:
            raise OptionError(
                f"the model returns one number for each image, here {float(output.reshape(-1)[0]):.4g}, which may be a "
                "probability or a logit. Say which: output='probabilities' or output='single_logit' (two classes, 0 and 1), "
                "or output='regression' for neither (--output on the command line)."
            )
        raise OptionError(
            f"all {output.shape[1]} outputs of the model are in [0, 1] and do not sum to 1, as those of a sigmoid: "
            f"{_USE.format('a softmax')}; pass output='logits' if they are logits all the same."
        )
    if is_single:
        warnings.warn(
            "the model returns one number for each image: it is taken for a single logit, so that there are two classes, 0 "
            "and 1. Pass output='single_logit' to say so (--output single_logit), or output='regression' if it is none.",
            OutputWarning,
            stacklevel=4,
        )
        return "single_logit"
    return "logits"


def _in_range(output: Tensor, slack: float) -> Tensor:
    return ((output >= -slack) & (output <= 1 + slack)).all()


def _sum_to_one(output: Tensor) -> bool:
    if not output.is_floating_point():
        return False
    tolerance = max(1e-4, 4 * torch.finfo(output.dtype).eps)
    rows = output.detach().float()
    return bool((rows >= 0).all() & ((rows.sum(1) - 1).abs() < tolerance).all())
