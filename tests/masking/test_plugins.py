"""Packages that announce rules under the entry point `lm_plugins.rules`: loaded by themselves, and kept from harm."""

import subprocess
import sys

import pytest

GOOD = """
import torch
import lm_plugins as lm

@lm.register_rule(torch.erfinv)
def erfinv(input):
    return input.like(torch.erfinv(input.values))
"""

CALLED = f"""
def register():
{"".join(f"    {line}" + chr(10) for line in GOOD.strip().splitlines())}
"""

USE = """
import torch, lm_plugins as lm

class Model(torch.nn.Module):
    def forward(self, x):
        return torch.erfinv(x).relu().mean((2, 3))

x, visible = torch.zeros(1, 1, 2, 2), torch.eye(2)
"""

RUN = """
print(float(lm.LayerMasked(Model().eval())(x, visible)))
"""


@pytest.fixture
def distribution(tmp_path):
    """Makes a fake installed distribution of one module with an entry point, and runs code beside it."""

    def make(name, module, value):
        (tmp_path / f"{name}.py").write_text(module)
        info = tmp_path / f"{name}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[lm_plugins.rules]\nmine = {value}\n")

    def run(code, warnings="error"):
        code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"
        command = [sys.executable, "-W", warnings, "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    make.run = run
    return make


def test_rules_of_another_package_are_there_by_themselves(distribution):
    distribution("acme_rules", GOOD, "acme_rules")
    result = distribution.run(USE + "print('acme_rules' in sys.modules)" + RUN)
    assert (result.returncode, result.stdout.split()) == (0, ["False", "0.0"]), result.stderr


def test_a_function_that_registers_imported_before_lm_plugins(distribution):
    distribution("acme_rules", CALLED, "acme_rules:register")
    result = distribution.run("import acme_rules\n" + USE + "print(bool(lm.coverage(Model().eval(), x)))" + RUN)
    assert (result.returncode, result.stdout.split()) == (0, ["True", "0.0"]), result.stderr


def test_a_module_that_registers_imported_before_lm_plugins(distribution):
    distribution("acme_rules", GOOD, "acme_rules")
    table = "from lm_plugins.masking import registered_functions\nprint(torch.erfinv in registered_functions())"
    result = distribution.run("import acme_rules\n" + USE + table + RUN)
    assert (result.returncode, result.stdout.split()) == (0, ["True", "0.0"]), result.stderr


NEW = "import torch, lm_plugins as lm\n@lm.register_rule(torch.lgamma)\ndef lgamma(input):\n    return input\n"
BROKEN = {
    "raises": (NEW + "raise ZeroDivisionError('on purpose')", "ZeroDivisionError: on purpose"),
    "lacks": ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
    "has_one": (
        NEW + "@lm.register_rule(torch.relu)\ndef relu(input):\n    return input",
        "DuplicateRuleError: torch.relu already has a masking rule",
    ),
    "replaces": (
        NEW + "@lm.register_rule(torch.Tensor.relu, overwrite=True)\ndef relu(input):\n    return input",
        "DuplicateRuleError: the rules of torch.Tensor.relu would be replaced; rules can be added only",
    ),
    "takes_out": (
        NEW + "lm.unregister_rule(torch.Tensor.relu)",
        "DuplicateRuleError: the rules of torch.Tensor.relu would be replaced; rules can be added only",
    ),
}


def test_broken_packages_are_named_and_leave_the_table_and_other_packages_alone(distribution):
    for name, (module, _) in BROKEN.items():
        distribution(name, module, name)
    distribution("the_good_one", GOOD, "the_good_one")
    report = """
from lm_plugins.masking import registered_functions
table = registered_functions()
print(torch.lgamma in table, lm.masking.rules.pointwise.__name__ in table[torch.Tensor.relu].__module__)
"""
    result = distribution.run(USE + report + RUN, warnings="always")
    assert (result.returncode, result.stdout.split()) == (0, ["False", "True", "0.0"]), result.stderr
    warnings = [line for line in result.stderr.splitlines() if "PluginWarning: " in line]
    assert len(warnings) == len(BROKEN)  # once each, not at every call
    for name, (_, text) in BROKEN.items():
        start = f"the masking rules of the package '{name} 1.2' (entry point 'mine' = '{name}') were not loaded: {text}"
        assert any(start in line for line in warnings), (start, warnings)
