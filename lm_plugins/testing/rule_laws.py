"""The laws that a rule keeps, each a check of one case that returns what is wrong, or None."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lm_plugins.errors import LMPluginsError
from lm_plugins.masking.registry import rule_of
from lm_plugins.testing.case import Case, tensors
from lm_plugins.testing.comparison import difference, first_nonfinite, image_of, known_values
from lm_plugins.testing.garbage import carriers

__all__ = ["LAWS", "Law"]

_GARBAGE = (1e30, -1e30, torch.inf, -torch.inf, torch.nan, None)


@dataclass(frozen=True)
class Law:
    """A law, its check, and what to do where it is broken."""

    name: str
    check: Callable[[Case], str | None]
    advice: str


def _runs(case: Case) -> str | None:
    try:
        case.masked()
    except LMPluginsError:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _all_visible(case: Case) -> str | None:
    return difference(case.masked(), case.plain(), tolerance=0) if bool(case.visible.all()) else None


def _hidden_values(case: Case) -> str | None:
    expected = case.masked(0.0)
    for value in _GARBAGE:
        found = difference(case.masked(value), expected)
        if found is not None:
            held = "the values of the sample" if value is None else f"{value:g}"
            return f"with {held} at hidden positions instead of 0, {found}"
    return None


def _nothing_visible(case: Case) -> str | None:
    if bool(case.visible.any()) or first_nonfinite(case.plain()) is not None:
        return None
    return first_nonfinite(case.masked())


def _batch(case: Case) -> str | None:
    count = case.shape[0]
    if count == 1 or not _takes_single_images(case):
        return None
    whole = case.masked()
    for index in range(count):
        try:
            found = difference(image_of(whole, index, count), image_of(case.image(index).masked(), 0, 1))
        except ValueError as error:
            return str(error)
        if found is not None:
            return f"image {index} of the batch, {found} alone"
    return None


def _takes_single_images(case: Case) -> bool:
    try:
        case.image(0).plain()
    except Exception:  # the samples hold the size of the batch, as those of a view do
        return False
    return True


def _gradients(case: Case) -> str | None:
    leaves: list[Tensor] = []

    def leaf(image: Tensor) -> Tensor:
        leaves.append(image.detach().clone().requires_grad_())
        return leaves[-1] * 1  # functions may work in place, though not on a leaf

    with torch.enable_grad():
        args, kwargs, made = case.prepared(None, leaf)
        result = case.call(args, kwargs)
        total = _weighted_sum([known_values(one) for one in (*carriers(result), *tensors(result))])
        count = len(made)
        plain = _weighted_sum(tensors(case.call(*case.with_tensors(leaf))))
    if plain is None or not plain.requires_grad:
        return None
    if total is None or not total.requires_grad:
        return "the result has lost its gradient" if bool(case.visible.any()) else None
    gradients = torch.autograd.grad(total, leaves[:count], allow_unused=True, materialize_grads=True)
    for gradient, activation in zip(gradients, made, strict=True):
        hidden = activation.visibility.visible.hidden[:, None].expand_as(gradient)
        for wrong, text in ((hidden & (gradient != 0), "of a hidden value"), (~gradient.isfinite(), "of a value")):
            if bool(wrong.any()):
                where = tuple(int(one) for one in wrong.nonzero()[0])
                return f"the gradient {text} at {where} is {gradient[where].item():g}"
    if bool(case.visible.all()):
        expected = torch.autograd.grad(plain, leaves[count:], allow_unused=True, materialize_grads=True)
        found = difference(gradients, expected)
        return None if found is None else f"the gradient differs from plain torch's: {found}"
    return None


def _weighted_sum(values: list[Tensor]) -> Tensor | None:
    generator = torch.Generator().manual_seed(0)
    floats = [one for one in values if one.is_floating_point()]
    if not floats:
        return None
    terms = [(one * torch.rand(one.shape, generator=generator).to(one).add(0.5)).sum() for one in floats]
    return torch.stack([one.double() for one in terms]).sum()


def _keywords(case: Case) -> str | None:
    rule = rule_of(case.function)
    if rule is None or isinstance(case.function, nn.Module) or case.name.rsplit(".", 1)[-1].startswith("__"):
        return None
    is_method = getattr(torch.Tensor, case.function.__name__, None) is case.function
    expected = case.masked()
    for signature in _signatures(case.function, rule):
        try:
            bound = signature.bind(*case.args, **case.kwargs)
        except TypeError:
            continue
        kinds = {signature.parameters[name].kind for name in bound.arguments}
        if kinds - {inspect.Parameter.POSITIONAL_OR_KEYWORD}:
            return None
        items = list(bound.arguments.items())
        lead = 1 if is_method else 0
        spellings = [
            ("keywords", tuple(value for _, value in items[:lead]), dict(items[lead:])),
            ("positions", tuple(value for _, value in items), {}),
        ]
        accepted = False
        for what, args, kwargs in spellings:
            spelled = Case(case.function, args, kwargs, case.shape, case.visible, case.options)
            try:
                spelled.plain()
            except TypeError:
                continue
            accepted = True
            try:
                found = difference(spelled.masked(), expected)
            except TypeError as error:
                found = str(error)
            if found is not None:
                names = ", ".join(name for name, _ in items)
                return f"called with {what} ({names}): {found}"
        if accepted:
            return None
    return None


def _signatures(function: Callable[..., Any], rule: Callable[..., Any]) -> list[inspect.Signature]:
    """How the function may be called: by its own names; by the rule's, the first as torch calls it, or as the rule does."""
    try:
        return [inspect.signature(function)]
    except ValueError:  # written in C++
        signature = inspect.signature(rule)
    parameters = list(signature.parameters.values())
    if not parameters:
        return []
    try:
        as_torch = signature.replace(parameters=[parameters[0].replace(name="input"), *parameters[1:]])
    except ValueError:
        return [signature]
    return [as_torch, signature]


def _arguments(case: Case) -> str | None:
    args, kwargs, made = case.prepared()
    ordinary = tensors((args, kwargs))
    held = [one.clone() for one in ordinary]
    before = [(one, one.visibility, known_values(one).clone()) for one in made]
    result = case.call(args, kwargs)
    copies: list[Tensor] = []

    def copy(image: Tensor) -> Tensor:
        copies.append(image.detach().clone())
        return copies[-1]

    case.call(*case.with_tensors(copy))
    for copied, (activation, visibility, values) in zip(copies, before, strict=True):
        if copied._version:
            if not any(one is activation for one in carriers(result)) and activation.values.shape == values.shape:
                return "torch works in place here, but the rule does not return the activation that it was given"
        elif activation.visibility is not visibility or activation.values.shape != values.shape:
            return "the activation that it was given has other regions or another shape afterwards"
        else:
            found = difference(known_values(activation), values, tolerance=0)
            if found is not None:
                return f"the activation that it was given has changed {found}"
    for one, other in zip(ordinary, held, strict=True):
        found = difference(one, other, tolerance=0)
        if found is not None:
            return f"an ordinary tensor among its arguments has changed {found}"
    return None


LAWS = (
    Law("the rule runs wherever plain torch does", _runs, "Mind images of one pixel, and batches of one."),
    Law(
        "all visible is plain torch, bit for bit",
        _all_visible,
        "Call the torch function itself on the values when nothing is hidden (region.is_full).",
    ),
    Law(
        "hidden values cannot matter",
        _hidden_values,
        "Replace hidden values before anything reads them, for example by input.with_hidden(0.0), or hide every "
        "position of the result that has read one.",
    ),
    Law(
        "nothing visible gives finite numbers",
        _nothing_visible,
        "Fill in a number where there is nothing to compute from, for example by torch.nan_to_num.",
    ),
    Law(
        "an image of a batch is the image alone",
        _batch,
        "Reduce within each image only, and keep the batch dimension.",
    ),
    Law(
        "gradients of hidden values are zero, those of visible ones are plain torch's",
        _gradients,
        "Use differentiable torch functions on input.values, and torch.where rather than multiplication by the mask.",
    ),
    Law(
        "a call with positions is the call with keywords",
        _keywords,
        "Write the rule with the names, order and defaults of the torch function.",
    ),
    Law(
        "arguments are not modified, except by functions in place",
        _arguments,
        "Work out of place, and return input.like(values); where torch works in place, let it change input.values.",
    ),
)
