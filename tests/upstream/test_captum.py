"""Captum's own tests of its six perturbation methods, run on ours.

They are not part of this project. With a checkout of https://github.com/pytorch/captum at hand:

    CAPTUM_CHECKOUT=/path/to/captum python -m pytest tests/upstream
"""

import importlib.util
import os
import unittest
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

import captum.attr
import pytest

import lm_plugins.captum
from tests.upstream.adapter import adapted

CHECKOUT = os.environ.get("CAPTUM_CHECKOUT", "")
OURS = {
    name: adapted(getattr(lm_plugins.captum, name)) for name in captum.attr.__all__ if hasattr(lm_plugins.captum, name)
}
# As upstream's, which its tests ask for.
OURS["KernelShap"] = type("KernelShap", (OURS["Lime"],), {"ours": lm_plugins.captum.KernelShap})

#: Files of upstream's, and how many tests of our classes they hold at least, so that none is lost without a word. Why others
#: are not among them stands in docs/captum.md.
FILES = {
    "attr/test_feature_ablation.py": 40,
    "attr/test_occlusion.py": 15,
    "attr/test_shapley.py": 40,
    "attr/test_kernel_shap.py": 20,
    "attr/test_lime.py": 20,
    "attr/test_targets.py": 30,
    "metrics/test_infidelity.py": 1,
}


def load(path: Path) -> ModuleType:
    """A file of upstream's, with our classes in place of its own."""
    from captum.testing.attr.helpers import test_config

    def of_ours(entry: dict) -> dict:
        return {**entry, "algorithms": [OURS[one.__name__] for one in entry["algorithms"] if one.__name__ in OURS]}

    spec = importlib.util.spec_from_file_location(f"upstream_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(test_config, "config", [of_ours(entry) for entry in test_config.config]):
        spec.loader.exec_module(module)
    for name, ours in OURS.items():
        if hasattr(module, name):
            setattr(module, name, ours)
    return module


def cases_of(module: ModuleType) -> Iterator[unittest.TestCase]:
    loader = unittest.TestLoader()
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, unittest.TestCase) and value.__module__ == module.__name__:
            yield from loader.loadTestsFromTestCase(value)


def collected() -> list:
    if not CHECKOUT:
        return [pytest.param(None, marks=pytest.mark.skip(reason="CAPTUM_CHECKOUT names no checkout of captum"))]
    found = []
    for name, least in FILES.items():
        try:
            cases = list(cases_of(load(Path(CHECKOUT) / "tests" / name)))
        except ModuleNotFoundError as error:
            reason = f"{name} needs the package {error.name}"
            found.append(pytest.param(None, id=name, marks=pytest.mark.skip(reason=reason)))
            continue
        if "infidelity" in name:
            cases = [case for case in cases if case._testMethodName.endswith("_fa")]
        assert len(cases) >= least, f"{name} holds {len(cases)} tests"
        for case in cases:
            found.append(pytest.param(case, id=f"{name}::{case._testMethodName}"))
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", collected())
def test_upstream(case: unittest.TestCase) -> None:
    try:
        case.debug()
    except unittest.SkipTest as skipped:
        pytest.skip(str(skipped))
