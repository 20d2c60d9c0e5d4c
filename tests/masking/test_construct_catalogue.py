"""Everything that benchmarks/constructs.py knows to write: it runs and keeps the laws, or is refused in words that help."""

import importlib
import sys
import warnings
from pathlib import Path

import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")

#: Why there is no masked meaning, as the error says it.
REFUSED = {
    "fractional max pool": "draws at random",
    "1d convolution of tokens, kernel 3": "from the end of a row of the map to the start of the next",
    "3d convolution of one slice": "volumes and videos",
    "sort over space": "where hidden and visible positions lie",
    "cumulative sum over space": "where hidden and visible positions lie",
    "randn_like": "draws at random",
    "dense layer over positions": "mixes positions that are no patch of the map",
    "LSTM over positions": "all tokens before it",
    "Fourier transform": "every frequency depends on every position",
    "decision by a value": "mean over the dimensions",
}


@pytest.fixture(scope="module")
def libraries():
    sys.path.insert(0, BENCHMARKS)
    try:
        yield importlib.import_module("libraries")
    finally:
        sys.path.remove(BENCHMARKS)
        sys.modules.pop("coverage", None)  # numba asks for the package of that name


def _names() -> list[str]:
    sys.path.insert(0, BENCHMARKS)
    try:
        return [name for name, _ in importlib.import_module("constructs").constructs()]
    finally:
        sys.path.remove(BENCHMARKS)


@pytest.mark.parametrize("name", _names())
def test_a_construct_keeps_the_laws_or_is_refused(name: str, libraries) -> None:
    builders = dict(importlib.import_module("constructs").constructs())
    row = libraries.Row("constructs", name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about the constructs
        libraries.check(row, builders[name])
    if name in REFUSED:
        assert row.outcome == "refused"
        assert REFUSED[name] in row.reason
    else:
        assert (row.outcome, row.reason) == ("runs", "")
