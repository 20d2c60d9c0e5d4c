"""`check_model` tells rounding from faults, of every size and in every dtype."""

import copy

import pytest
import torch
from torch import nn

import lm_plugins as lm
from lm_plugins import errors
from lm_plugins.testing import check_model

ALL_VISIBLE = "all visible is the plain model"
BATCH = "an image of a batch gives what it gives alone"
GARBAGE = "garbage at hidden positions never surfaces"


@pytest.fixture
def model():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    ).eval()


@pytest.fixture
def x():
    return torch.randn(3, 3, 12, 14)


def check(model, x, rule, **named):
    """`check_model` with another rule for the hyperbolic tangent."""
    with lm.override_rule(torch.tanh, rule):
        return check_model(model, x, **named)


def _rounded(input):
    """The hyperbolic tangent by another formula."""
    return input.like(1 - 2 / ((2 * input.values).exp() + 1))


def _hidden_sum(input):
    return (input.values * input.is_hidden()).sum((2, 3), keepdim=True)


def _others(input):
    """0 with all visible, else the mean over the batch."""
    return input.with_hidden(0.0).mean((0, 2, 3), keepdim=True) if input.is_hidden().any() else 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rounding_is_no_fault(dtype, model, x):
    found = check(model.to(dtype), x.to(dtype), _rounded)
    assert not found.is_bit_for_bit
    assert found.laws[ALL_VISIBLE].how.startswith("up to rounding: ")
    assert found.laws[ALL_VISIBLE].difference < 100 * torch.finfo(dtype).eps


def test_rounding_that_the_model_amplifies_is_no_fault(model, x):
    class Amplified(nn.Module):
        def forward(self, x):
            return (1e6 * x).sin()

    model = nn.Sequential(*model[:2], Amplified(), *model[2:]).eval()
    found = check(model, x, _rounded)
    assert found.laws[ALL_VISIBLE].difference > 1e-4  # so that no tolerance of float32 would do


# What a rule adds to the hyperbolic tangent, times a size, and the law that it breaks. A difference of 1e-9 is below the
# resolution of float32: only a number that does not happen to be rounded away shows it.
FAULTS = {
    "a factor": (ALL_VISIBLE, lambda input, size: size * input.values.tanh()),
    "a leak": (GARBAGE, lambda input, size: size * _hidden_sum(input)),
    "a mix of images": (BATCH, lambda input, size: size * _others(input)),
}


@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-5, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_all_sizes_are_found(fault, dtype, size, model, x):
    law, added = FAULTS[fault]
    with pytest.raises(errors.ConformanceError) as caught:
        check(model.to(dtype), x.to(dtype), lambda input: input.like(input.values.tanh() + added(input, size)))
    assert caught.value.law == law
    assert "Rounding, as measured on this model, explains" in str(caught.value)
    assert f"Images (3, 3, 12, 14), {str(dtype)[6:]}, on cpu" in str(caught.value)


@pytest.mark.parametrize("size", [1e-9, 1e-12])
def test_smaller_faults_are_found_in_float64(size, model, x):
    with pytest.raises(errors.ConformanceError) as caught:
        check(model.double(), x.double(), lambda input: input.like(input.values.tanh() * (1 + size)))
    assert caught.value.law == ALL_VISIBLE


def test_a_fault_behind_rounding_is_found(model, x):
    with pytest.raises(errors.ConformanceError, match=r"In float64, .*this is a fault"):
        check(model, x, lambda input: input.like(_rounded(input).values * (1 + 1e-7)))


def test_a_fault_in_float32_only_is_found(model, x):
    def rule(input):
        return input.like(input.values.tanh() * (1.001 if input.values.dtype == torch.float32 else 1))

    with pytest.raises(errors.ConformanceError, match=r"In float32, .*this is a fault"):
        check(model, x, rule)


def test_a_tolerance_accepts_without_a_copy(model, x, monkeypatch):
    monkeypatch.setattr(nn.Module, "__deepcopy__", lambda self, memo: pytest.fail("copied"), raising=False)
    found = check(model, x, _rounded, tolerance=1e-5)
    assert "within the tolerance given" in found.laws[ALL_VISIBLE].how


class Uncopyable(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)

    def __deepcopy__(self, memo):
        raise TypeError("one of a kind")


class InFloat32(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x.float())


@pytest.mark.parametrize(("wrapper", "reason"), [(Uncopyable, "one of a kind"), (InFloat32, "should be the same")])
def test_models_that_no_copy_is_made_of(wrapper, reason, model, x):
    model = wrapper(model).eval()
    how = check(model, x, _rounded).laws[ALL_VISIBLE].how
    assert "taken for rounding: a copy of the model cannot be made or run in torch.float64" in how
    assert reason in how
    with pytest.raises(errors.ConformanceError, match=rf"(?s)nothing can tell: .*{reason}.*accept.*tolerance=1e-0"):
        check(model, x, lambda input: input.like(input.values.tanh() + 1e-3 * input.values.tanh()))


def test_a_copy_that_computes_in_less_is_named(x):
    class Low(nn.Module):
        def forward(self, x):
            return torch.tanh(x.float()).to(x.dtype)

    model = nn.Sequential(Low(), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with pytest.raises(errors.ConformanceError, match=r"computes in less \(aten\._to_copy.* in torch\.float32\)"):
        check(model, x, _rounded)


def test_the_model_is_not_touched(model, x):
    before = copy.deepcopy(model.state_dict())
    attributes = [set(vars(module)) for module in model.modules()]
    check(model, x, _rounded)
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name])
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert not any(module._forward_hooks for module in model.modules())


def test_the_result_says_how_each_law_is_kept(model, x):
    found = check_model(model, x)
    assert str(found).startswith(f"Sequential keeps the laws:\n  {ALL_VISIBLE}: bit for bit\n")
    assert len(found.laws) == 8
    assert len(check_model(model, x, gradients=False, continuity=None).laws) == 5
