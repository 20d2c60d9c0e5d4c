"""`check_model`: models of ours pass, and a rule that leaks deep inside of one is found."""

import pytest
import torch
from torch import nn

import lm_plugins as lm
from lm_plugins import errors
from lm_plugins.testing import check_model


@pytest.fixture
def model():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    ).eval()


@pytest.fixture
def x():
    return torch.randn(3, 3, 12, 14)


def test_good_models_pass(model, x):
    assert check_model(model, x).is_bit_for_bit
    check_model(model, x[:1])
    check_model(model[:4].eval(), x)  # ends in a map
    check_model(model, x, torch.rand(12, 14) > 0.5, options=lm.MaskingOptions(visible="any", computed="visible"))
    check_model(model, x, torch.rand(3, 1, 12, 14) > 0.5, gradients=False)


BAD = {
    "a difference with all visible": (
        "all visible is the plain model",
        lambda input: input.like(input.values.tanh() + 1e-6),
        "at (0, 0)",
    ),
    "a leak": (
        "garbage at hidden positions never surfaces",
        lambda input: input.like(input.values.tanh() + _hidden_sum(input)),
        "garbage in the result of torch.nn.functional.conv2d (call 2; next come torch.tanh",
    ),
    "a mix of images": (
        "an image of a batch gives what it gives alone",
        lambda input: input.like(input.values.tanh() + 0.1 * _others(input)),
        "image 0 of the batch",
    ),
    "no gradient": (
        "gradients of hidden pixels are zero, those of visible ones exist",
        lambda input: input.like(input.values.detach().tanh()),
        "gradient",
    ),
}


def _hidden_sum(input):
    """What hidden positions hold."""
    return 1e-3 * (input.values * input.is_hidden()).sum((2, 3), keepdim=True)


def _others(input):
    """0 with all visible, else the mean over the batch."""
    return input.with_hidden(0.0).mean((0, 2, 3), keepdim=True) if input.is_hidden().any() else 0.0


@pytest.mark.parametrize("how", BAD)
def test_broken_laws_are_found(how, model, x):
    law, rule, text = BAD[how]
    with lm.override_rule(torch.tanh, rule), pytest.raises(errors.ConformanceError) as caught:
        check_model(model, x)
    assert caught.value.law == law
    assert str(caught.value).startswith(f"Sequential breaks a law: {law}")
    assert text in str(caught.value)


def test_no_number_where_nothing_is_visible(model, x):
    def mean(input, output_size):
        region = input.visibility.visible
        count = region.positions.sum((1, 2))[:, None, None, None]
        if region.is_full:
            return nn.functional.adaptive_avg_pool2d(input.values, 1)
        return input.with_hidden(0.0, region).sum((2, 3), keepdim=True) / count

    with lm.override_rule(nn.functional.adaptive_avg_pool2d, mean), pytest.raises(errors.ConformanceError) as caught:
        check_model(model, x)
    assert caught.value.law == "nothing visible gives finite numbers that do not depend on the image"
    assert "at (0, 0) of a tensor (2, 5): got nan" in str(caught.value)


def test_mistakes(model, x):
    with pytest.raises(errors.UnsupportedOperatorError, match=r"(?s)without a rule.*torch\.special\.gammaln|lgamma"):
        check_model(nn.Sequential(model[0], Gamma()).eval(), x)
    with pytest.raises(errors.ShapeError, match=r"needs images \(N, C, H, W\), got shape \(3, 12, 14\)"):
        check_model(model, x[0])
    with pytest.raises(errors.OptionError, match=r"tolerance of check_model is a share from 0 to 1, or None; got 2"):
        check_model(model, x, tolerance=2)
    with pytest.raises(errors.TrainingModeError):
        check_model(model.train(), x)


class Gamma(nn.Module):
    def forward(self, x):
        return torch.lgamma(x)
