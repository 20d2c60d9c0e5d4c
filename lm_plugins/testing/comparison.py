"""Two results of a function compared: activations where they are not hidden, everything else as it is."""

import math
from typing import Any

import torch
from torch import Tensor

from lm_plugins.masking.carrier import Carrier
from lm_plugins.testing.case import changed, tensors

__all__ = ["difference", "distance", "first_nonfinite", "image_of", "in_double", "known_values"]


def known_values(part: Any) -> Tensor:
    """The values of an activation with 0 where hidden; of a tensor, itself."""
    if not isinstance(part, Carrier):
        return part  # type: ignore[no-any-return]
    return torch.where(part.is_hidden(), torch.zeros_like(part.values), part.values)


def difference(got: Any, expected: Any, tolerance: float = 1e-5) -> str | None:
    """Where two results differ, in words, or None.

    Args:
        got: Activations, tensors or anything else, in lists, tuples or dicts.
        expected: The same.
        tolerance: Of numbers, relative to the largest one expected; 0: bit for bit.

    Returns:
        What differs first, or None.
    """
    if isinstance(expected, dict) and isinstance(got, dict) and got.keys() == expected.keys():
        return difference(list(got.values()), list(expected.values()), tolerance)
    if isinstance(expected, (list, tuple)) and isinstance(got, (list, tuple)) and len(got) == len(expected):
        found = (difference(*pair, tolerance) for pair in zip(got, expected, strict=True))
        return next((one for one in found if one is not None), None)
    if isinstance(expected, Carrier) and isinstance(got, Carrier):
        return _regions(got, expected) or _numbers(known_values(got), known_values(expected), tolerance)
    if isinstance(expected, Tensor) and isinstance(got, Carrier):
        if bool(got.is_hidden().any()):
            return "the result hides positions, though everything is visible"
        return _numbers(got.values, expected, tolerance)
    if isinstance(expected, Tensor) and isinstance(got, Tensor) and not isinstance(expected, Carrier):
        return _numbers(got, expected, tolerance)
    if type(got) is not type(expected):
        return f"got a {type(got).__name__}, expected a {type(expected).__name__}"
    return None if got == expected else f"got {got!r}, expected {expected!r}"


def distance(got: Any, expected: Any) -> float:
    """How far two outputs are from each other, relative to the largest number of each tensor expected.

    Args:
        got: Tensors or anything else, in lists, tuples or dicts.
        expected: The same.

    Returns:
        The largest distance; infinite where more than finite numbers differ, such as shapes, dtypes, NaN or integers.
    """
    if difference(got, expected, tolerance=math.inf) is not None:
        return math.inf
    pairs = zip(tensors(got), tensors(expected), strict=True)
    return max((_relative(*pair) for pair in pairs if pair[1].is_floating_point() and pair[1].numel()), default=0.0)


def _relative(got: Tensor, expected: Tensor) -> float:
    apart = torch.where(got == expected, 0.0, (got - expected).abs().nan_to_num(0.0, posinf=math.inf))
    return float(apart.max()) / _scale(expected)


def _scale(expected: Tensor) -> float:
    finite = expected[expected.isfinite()]
    return max(float(finite.abs().max()), torch.finfo(expected.dtype).tiny) if finite.numel() else 1.0


def in_double(output: Any) -> Any:
    """An output with its floating-point tensors in float64."""
    return changed(output, lambda one: one.double() if one.is_floating_point() else one)


def _regions(got: Any, expected: Any) -> str | None:
    if got.values.shape != expected.values.shape or getattr(got, "dims", None) != getattr(expected, "dims", None):
        return f"got {got!r}, expected {expected!r}"
    if not torch.equal(got.is_hidden(), expected.is_hidden()):
        return "other positions of the result are hidden"
    return None


def _numbers(got: Tensor, expected: Tensor, tolerance: float) -> str | None:
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return f"got {tuple(got.shape)} of {got.dtype}, expected {tuple(expected.shape)} of {expected.dtype}"
    if got.numel() == 0:
        return None
    same = (got == expected) | (got.isnan() & expected.isnan())
    if tolerance and got.is_floating_point():
        same = same | ((got - expected).abs() <= tolerance * _scale(expected))
    if bool(same.all()):
        return None
    where = tuple(int(one) for one in (~same).nonzero()[0])
    return (
        f"at {where} of a tensor {tuple(got.shape)}: got {got[where].item():.6g}, expected {expected[where].item():.6g}"
    )


def image_of(result: Any, index: int, count: int) -> Any:
    """The part of a result that belongs to one image of a batch of `count`; None of what is no tensor.

    Raises:
        ValueError: A tensor has no batch dimension.
    """
    if isinstance(result, dict):
        return {name: image_of(one, index, count) for name, one in result.items()}
    if isinstance(result, (list, tuple)):
        return [image_of(one, index, count) for one in result]
    if not isinstance(result, Tensor):
        return None
    values = known_values(result)
    dim = result.dims.index("N") if hasattr(result, "dims") else 0
    if values.ndim == 0 or values.shape[dim] != count:
        raise ValueError(f"the result {tuple(values.shape)} has no dimension for a batch of {count}")
    return values.narrow(dim, index, 1)


def first_nonfinite(result: Any) -> str | None:
    """The first number of a result that is infinite or NaN, in words, or None."""
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, (list, tuple)):
        return next((found for one in result if (found := first_nonfinite(one)) is not None), None)
    if not isinstance(result, Tensor):
        return None
    values = known_values(result)
    bad = ~values.isfinite()
    if not bool(bad.any()):
        return None
    where = tuple(int(one) for one in bad.nonzero()[0])
    return f"at {where} of a tensor {tuple(values.shape)}: got {values[where].item()}"
