"""`lm.coverage` tells what a model calls, where, and what of it has no rule."""

import pytest
import torch
from torch import nn

import lm_plugins as lm


@pytest.fixture
def model():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()


@pytest.fixture
def x():
    return torch.randn(3, 3, 12, 14)


def test_coverage_names_functions_and_where_they_are_called(model, x):
    found = lm.coverage(model, x)
    assert found
    assert found.supported["torch.nn.functional.conv2d"] == ["0 (Conv2d)", "2 (Conv2d)"]
    assert "torch.nn.functional.conv2d, called in '0 (Conv2d)', '2 (Conv2d)'" in str(found)
    assert not found.missing
    assert found.stopped is None


def test_coverage_goes_on_after_what_is_missing(x):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LPPool3d(1, 2), nn.FractionalMaxPool2d(2, 4))
    found = lm.coverage(model.eval(), x)
    assert not found
    assert list(found.missing.values()) == [["1 (LPPool3d)"], ["2 (FractionalMaxPool2d)"]]


def test_coverage_reports_what_stopped_it(model, x):
    found = lm.coverage(model, x[:, :2])
    assert not found
    assert "RuntimeError" in found.stopped
    assert "more may be missing" in str(found)
