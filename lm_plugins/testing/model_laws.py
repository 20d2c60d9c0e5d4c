"""The laws of a whole model that compare two of its outputs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lm_plugins.masking import LayerMasked, observing
from lm_plugins.masking.registry import function_name
from lm_plugins.testing.comparison import difference, first_nonfinite, image_of
from lm_plugins.testing.garbage import carriers, overwrite, overwrite_hidden
from lm_plugins.testing.subject import Subject

__all__ = ["COMPARISONS", "Comparison", "ModelLaw"]


@dataclass(frozen=True)
class Comparison:
    """Two outputs that a law says are the same.

    Args:
        where: What `got` is, for a message; it may be empty.
        got: An output.
        expected: What it has to be.
    """

    where: str
    got: Any
    expected: Any


@dataclass(frozen=True)
class ModelLaw:
    """A law, what it compares, and what to do where it is broken.

    Args:
        name: The law, in words.
        compare: Its comparisons; a text in place of one is a fault that no rounding explains.
        advice: What to do.
        culprit: Who is to blame for a difference beyond a tolerance, in words.
    """

    name: str
    compare: Callable[[Subject], Iterator[Comparison | str]]
    advice: str
    culprit: Callable[[Subject, float], str] | None = None


def _all_visible(subject: Subject) -> Iterator[Comparison | str]:
    yield Comparison("", subject.run(subject.x, torch.ones_like(subject.visible)), subject.plain)


def _hidden_pixels(subject: Subject) -> Iterator[Comparison | str]:
    # That is a law of its own here.
    masked = LayerMasked(subject.model, subject.options, verify=False, calibration=subject.calibration)
    for value in (0.0, 1e30, torch.inf, torch.nan):
        x = torch.where(subject.visible[:, None], subject.x, value)
        yield Comparison(f"with {value:g} in hidden pixels, ", masked(x, subject.visible), subject.masked)


def _batch(subject: Subject) -> Iterator[Comparison | str]:
    count = len(subject.x)
    for i in range(count):
        alone = subject.run(subject.x[i : i + 1], subject.visible[i : i + 1])
        where = f"image {i} of the batch against the image alone, "
        try:
            yield Comparison(where, image_of(subject.masked, i, count), image_of(alone, 0, 1))
        except ValueError as error:
            yield f"{where}{error}"


def _nothing_visible(subject: Subject) -> Iterator[Comparison | str]:
    # The second image is another one, and of another magnitude: that must not matter either.
    x = torch.stack([subject.x[0], subject.x[1] * 1e6])
    output = subject.run(x, torch.zeros_like(subject.visible[:2]))
    bad = first_nonfinite(output)
    if bad is not None:
        yield bad
    yield Comparison("of two images, ", image_of(output, 0, 2), image_of(output, 1, 2))


def _garbage(subject: Subject) -> Iterator[Comparison | str]:
    with observing(overwrite_hidden()):
        yield Comparison("", subject.run(subject.x, subject.visible), subject.masked)


def _reader(subject: Subject, tolerance: float) -> str:
    """The first call after which garbage in its result alone surfaces."""
    last = 1
    call = 0
    while call < last:
        calls: list[str] = []

        def overwrite_one(
            function: Callable[..., Any],
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
            act: Callable[[], Any],
            calls: list[str] = calls,
            chosen: int = call,
        ) -> Any:
            result = act()
            calls.append(function_name(function))
            for one in carriers(result) if len(calls) == chosen + 1 else []:
                overwrite(one, None, torch.Generator().manual_seed(0))
            return result

        with observing(overwrite_one):
            output = subject.run(subject.x, subject.visible)
        if difference(output, subject.masked, tolerance) is not None:
            readers = ", ".join(dict.fromkeys(calls[call + 1 : call + 4])) or "the output"
            return f"garbage in the result of {calls[call]} (call {call}; next come {readers}) reaches the output: "
        last, call = len(calls), call + 1
    return "garbage in the results of several calls reaches the output: "


COMPARISONS = (
    ModelLaw(
        "all visible is the plain model",
        _all_visible,
        "Look for the module whose output differs first; its rule should call the torch function itself when nothing is "
        "hidden.",
    ),
    ModelLaw(
        "hidden pixels may hold anything",
        _hidden_pixels,
        "A rule reads hidden positions: put the rules of this model to the test with check_rule.",
    ),
    ModelLaw(
        "an image of a batch gives what it gives alone",
        _batch,
        "A rule, or the model itself, computes over the batch: reduce within each image only.",
    ),
    ModelLaw(
        "nothing visible gives finite numbers that do not depend on the image",
        _nothing_visible,
        "A rule divides by the number of visible positions, or reads hidden ones: fill in a number where there is nothing "
        "to compute from.",
    ),
    ModelLaw(
        "garbage at hidden positions never surfaces",
        _garbage,
        "Replace hidden values before anything reads them, for example by input.with_hidden(0.0), in the rules of the "
        "functions that come next.",
        _reader,
    ),
)
