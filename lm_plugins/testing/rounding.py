"""Rounding told from faults: a law that does not hold bit for bit is repeated in float64, and judged by both.

Outputs that a law says are the same are sums in another order, so they differ by rounding. By how much depends on the
model: a unit in the last place becomes ten in a ResNet, and 1e6 in a deep network with squeeze-and-excitation and random
weights. No constant fits both, so it is measured, on the output that the law expects: what float32 gives against what
float64 gives. Rounding shrinks with the precision of the dtype (its ``eps``), a fault does not: a rule that multiplies by
1.001 does so in both.
"""

from functools import cached_property

import torch

from lm_plugins.errors import ConformanceError
from lm_plugins.testing.comparison import difference, distance, in_double
from lm_plugins.testing.conformance import Kept
from lm_plugins.testing.model_laws import Comparison, ModelLaw
from lm_plugins.testing.subject import Subject

__all__ = ["Judge"]

# Two outputs of a law may differ by this many times the rounding measured on one of them, which is a sample of one. The
# most that was seen on 23 models of torchvision and timm, chaotic ones among them, is 16.
_SLACK = 100

# Where nothing can be measured, a difference of so many units in the last place is taken for rounding: that is what networks
# without chaos stay below. In half precision it would be as large as the output, so that it counts in units of float32.
_UNMEASURED = 100

# Products of float32 in TF32, as cuDNN computes them by default, have 10 bits; this allows for eight such roundings.
_TF32 = 8 * 2**-11


class Judge:
    """Puts a model to the laws that compare two outputs.

    Args:
        subject: The model and its images.
        tolerance: Differences up to this share of the largest number are accepted without a copy; None accepts none.
    """

    def __init__(self, subject: Subject, tolerance: float | None) -> None:
        self.subject, self.dtype = subject, subject.x.dtype
        self.tolerance = 0.0 if tolerance is None else tolerance
        #: Why there is no copy.
        self.obstacle: str | None = None

    @cached_property
    def copy(self) -> Subject | None:
        """The model in float64, or in float32 where it is in float64 itself; None where it cannot be copied or run so."""
        dtype = torch.float32 if self.dtype == torch.float64 else torch.float64
        try:
            copy = self.subject.converted(dtype)
            _ = copy.plain, copy.masked
        except Exception as error:  # a model may do anything
            self.obstacle = f"a copy of the model cannot be made or run in {dtype} ({type(error).__name__}: {error})"
            return None
        return copy

    def judge(self, law: ModelLaw) -> Kept:
        """Check a law.

        Raises:
            ConformanceError: The law is broken, or there is no telling.
        """
        here = self._compared(law, self.subject)
        size, worst = _largest(here)
        if size == 0:
            return Kept("bit for bit")
        if size <= self.tolerance:
            return Kept(f"{size:.0e} in {_short(self.dtype)}, within the tolerance given", size)
        if self.copy is None:
            if size <= _UNMEASURED * min(torch.finfo(self.dtype).eps, torch.finfo(torch.float32).eps):
                return Kept(f"{size:.0e} in {_short(self.dtype)}, taken for rounding: {self.obstacle}", size)
            raise self.broken(
                law.name,
                f"{_told(worst)}, {size:.1e} of the largest number. It may be rounding or a fault, and nothing can tell: "
                f"{self.obstacle}.\n  Give a model that can be copied and runs in float64, or accept such differences with "
                f"tolerance={2 * size:.0e}.",
            )
        there = self._compared(law, self.copy)
        judged = [(self.subject, here), (self.copy, there)]
        low, high = (there, here) if self.dtype == torch.float64 else (here, there)
        eps = torch.finfo(torch.float32 if self.dtype == torch.float64 else self.dtype).eps
        units = max(_rounding(low, high) / eps, 1.0)
        sizes = []
        for subject, pairs in judged[:1] if self.dtype == torch.float64 else judged:
            allowed = _SLACK * units * torch.finfo(subject.x.dtype).eps
            if subject.x.is_cuda and subject.x.dtype == torch.float32:
                allowed = max(allowed, _TF32)
            found, worst = _largest(pairs)
            if not found <= allowed:
                raise self.broken(law.name, self._story(law, subject, worst, found, allowed))
            sizes.append(f"{found:.0e} in {_short(subject.x.dtype)}")
        return Kept(f"up to rounding: {', '.join(sizes)}", size)

    def broken(self, law: str, problem: str) -> ConformanceError:
        """The error that says so, with the sizes and the dtype."""
        subject = self.subject
        return ConformanceError(
            law,
            f"{type(subject.model).__name__} breaks a law: {law}.\n"
            f"  Images {tuple(subject.x.shape)}, {_short(self.dtype)}, on {subject.x.device}.\n  {problem}",
        )

    def _compared(self, law: ModelLaw, subject: Subject) -> list[Comparison]:
        pairs = []
        for one in law.compare(subject):
            if isinstance(one, str):
                raise self.broken(law.name, f"In {_short(subject.x.dtype)}, {one}.\n  {law.advice}")
            pairs.append(one)
        return pairs

    def _story(self, law: ModelLaw, subject: Subject, worst: Comparison, size: float, allowed: float) -> str:
        culprit = "" if law.culprit is None else law.culprit(subject, allowed)
        story = (
            f"In {_short(subject.x.dtype)}, {culprit}{_told(worst)}, {size:.1e} of the largest number. Rounding, as measured "
            f"on this model, explains {allowed:.0e}: this is a fault."
        )
        reduced = subject.reduced() if subject is self.copy else None
        if reduced is None:
            return f"{story}\n  {law.advice}"
        return (
            f"{story}\n  Unless it is the model's own rounding: its float64 copy computes in less ({reduced}). Let that part "
            f"follow the dtype of its input, or accept such differences with tolerance={2 * size:.0e}. Otherwise: "
            f"{law.advice}"
        )


def _largest(pairs: list[Comparison]) -> tuple[float, Comparison]:
    sizes = [distance(one.got, one.expected) for one in pairs]
    worst = max(range(len(pairs)), key=sizes.__getitem__)
    return sizes[worst], pairs[worst]


def _rounding(low: list[Comparison], high: list[Comparison]) -> float:
    """How much the expected outputs differ between two dtypes; at most 1, where no digit is right."""
    pairs = zip(low, high, strict=True)
    return min(1.0, max(distance(in_double(one.expected), in_double(other.expected)) for one, other in pairs))


def _told(pair: Comparison) -> str:
    return f"{pair.where}{difference(pair.got, pair.expected, tolerance=0)}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
