"""`import lm_plugins` needs torch and numpy only, and leaves everything optional alone."""

import subprocess
import sys

import pytest

# torch itself imports tqdm where it finds it.
OPTIONAL = ["torchvision", "captum", "lime", "shap", "shapiq", "quantus", "matplotlib", "skimage", "cv2", "ray"]
OPTIONAL += ["einops", "pandas", "sklearn", "scipy", "PIL", "timm", "hypothesis", "pytest"]


def run(code):
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)


def test_imports_nothing_optional():
    code = f"import sys, lm_plugins; print(*[name for name in {OPTIONAL} if name in sys.modules])"
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


def test_works_where_nothing_optional_is_installed():
    code = f"""
import sys
for name in {OPTIONAL}:
    sys.modules[name] = None
import torch, lm_plugins as lm
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1)).eval()
x = torch.rand(1, 3, 8, 8)
print(tuple(lm.LayerMasked(model)(x, torch.eye(8)).shape), bool(lm.coverage(model, x)))
print(lm.published("resnet50").addition)
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[:2] == ["(1, 4, 1, 1) True", "intersection"]


def test_import_is_silent_and_leaves_the_state_of_torch_alone():
    code = """
import random, numpy, torch
before = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state().tolist()
states = random.getstate(), numpy.random.get_state()[1].tolist()
import lm_plugins
after = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state().tolist()
assert before == after
assert states == (random.getstate(), numpy.random.get_state()[1].tolist())
"""
    result = run(code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "module", ["masking", "masking.model", "masking.rules.convolution", "masking.registry", "errors", "testing"]
)
def test_every_part_can_be_imported_first(module):
    result = run(f"import lm_plugins.{module}")
    assert result.returncode == 0, result.stderr
