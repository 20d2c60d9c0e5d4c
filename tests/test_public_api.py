"""The public surface: exactly these names, each documented, and every example in the documentation runs."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import lm_plugins as lm
from lm_plugins import errors, masking, testing

MODULES = [
    "lm_plugins",
    *(module.name for module in pkgutil.walk_packages(lm.__path__, "lm_plugins.")),
    "lm_plugins.errors",
]

CONTRACT = {
    "MASKED",
    "Calibration",
    "LayerMasked",
    "MaskingOptions",
    "calibrate",
    "coverage",
    "errors",
    "override_rule",
    "published",
    "register_rule",
    "unregister_rule",
}


def test_public_names():
    assert set(lm.__all__) == CONTRACT
    assert len(lm.__all__) == len(CONTRACT)
    public = {name for name in vars(lm) if not name.startswith("_") and not inspect.ismodule(getattr(lm, name))}
    assert public == CONTRACT - {"errors"}


@pytest.mark.parametrize("module", [lm, masking, errors, testing], ids=lambda module: module.__name__)
def test_every_public_name_exists_is_sorted_and_documented(module):
    assert list(module.__all__) == sorted(module.__all__, key=lambda name: (not name.isupper(), name))
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value):
            assert inspect.getdoc(value), name
            assert value.__doc__, name


@pytest.mark.parametrize(
    "name", ["LayerMasked", "MaskingOptions", "coverage", "published", "override_rule", "register_rule"]
)
def test_what_is_in_the_contract_has_an_example(name):
    assert "Example:" in inspect.getdoc(getattr(lm, name))
    assert doctest.DocTestFinder(recurse=False).find(getattr(lm, name))[0].examples


@pytest.mark.parametrize(
    "name", ["LayerMasked", "MaskingOptions", "coverage", "published", "override_rule", "register_rule"]
)
def test_every_argument_is_documented(name):
    value = getattr(lm, name)
    documented = inspect.getdoc(value)
    for argument in inspect.signature(value).parameters:
        if argument != "self":
            assert f"{argument}: " in documented, f"{name}: {argument}"


def test_every_option_is_documented_and_frozen():
    options = lm.MaskingOptions()
    with pytest.raises(AttributeError):
        options.visible = "any"
    assert options == lm.MaskingOptions()
    assert hash(options) == hash(lm.MaskingOptions())


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(name)
    assert inspect.getdoc(module)
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


def test_version():
    major, minor, patch = lm.__version__.split(".")
    assert int(major) >= 0
    assert int(minor) + int(patch) > 0
