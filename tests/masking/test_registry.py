"""The rule table: registering fails loudly, and leaves the table as it was."""

import numpy as np
import pytest
import torch
from torch import nn

import lm_plugins as lm
from lm_plugins import errors
from lm_plugins.masking import observing, registered_functions
from lm_plugins.masking.registry import is_in_place, spellings

VISIBLE = torch.rand(8, 10, generator=torch.Generator().manual_seed(0)) > 0.5


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 10)


def test_rule_registered_twice():
    before = registered_functions()
    with pytest.raises(
        errors.DuplicateRuleError, match=r"torch\.relu already has a masking rule\. Pass overwrite=True"
    ):
        lm.register_rule(torch.erfinv, torch.relu)(lambda input: input)
    assert registered_functions() == before


@pytest.mark.parametrize("function", [len, nn.ReLU, nn.ReLU(), np.sum, "relu", torch.zeros, print, 3, []])
def test_rule_for_what_is_no_function_of_torch(function):
    before = registered_functions()
    with pytest.raises(errors.RuleError, match=r"is not a torch function that can be overridden.*coverage\(model, x\)"):
        lm.register_rule(function)
    assert registered_functions() == before


def test_rule_for_nothing():
    with pytest.raises(errors.RuleError, match="needs the torch functions that the rule is for"):
        lm.register_rule()
    with pytest.raises(errors.RuleError, match=r"torch\.erfinv has no masking rule"):
        lm.unregister_rule(torch.erfinv)
    before = registered_functions()
    with pytest.raises(errors.RuleError):
        lm.unregister_rule(torch.relu, torch.erfinv)
    assert registered_functions() == before  # all or nothing


def test_a_registered_rule_makes_a_model_run_and_can_be_taken_back(x):
    class Model(nn.Module):
        def forward(self, x):
            return torch.erfinv(x.tanh()).mean((2, 3))

    masked = lm.LayerMasked(Model().eval())
    before = registered_functions()

    @lm.register_rule(torch.erfinv)
    def erfinv(input):
        return input.like(torch.erfinv(input.values))

    try:
        expected = torch.stack([torch.erfinv(one.tanh())[:, VISIBLE].mean(1) for one in x])
        torch.testing.assert_close(masked(x, VISIBLE), expected)

        @lm.register_rule(torch.erfinv, overwrite=True)
        def zero(input):
            return input.like(0 * input.values)

        with pytest.raises(errors.VerificationError, match="with every pixel visible"):
            masked(x, VISIBLE)
        assert (lm.LayerMasked(masked.model, verify=False)(x, VISIBLE) == 0).all()
    finally:
        lm.unregister_rule(torch.erfinv)
    assert registered_functions() == before
    with pytest.raises(errors.UnsupportedOperatorError, match="erfinv"):
        masked(x, VISIBLE)


def test_register_rule_returns_the_rule_unchanged():
    def rule(input):
        return input

    try:
        assert lm.register_rule(torch.erfinv, torch.Tensor.erfinv)(rule) is rule
        assert registered_functions()[torch.erfinv] is registered_functions()[torch.Tensor.erfinv] is rule
    finally:
        lm.unregister_rule(torch.erfinv, torch.Tensor.erfinv)


def test_the_table_that_is_handed_out_is_a_copy():
    registered_functions().clear()
    assert torch.relu in registered_functions()


def test_spellings():
    assert {torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_, nn.functional.relu} <= {*spellings("relu")}
    with pytest.raises(errors.RuleError, match="no function 'no_such_thing'"):
        spellings("no_such_thing")


def test_what_is_in_place():
    assert all(is_in_place(one) for one in (torch.relu_, torch.Tensor.add_, torch.Tensor.__iadd__))
    assert not any(is_in_place(one) for one in (torch.relu, torch.Tensor.__add__, torch.Tensor.__invert__))


def test_observers_see_every_call_and_leave_when_done(x):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).eval()
    masked, seen = lm.LayerMasked(model), []
    expected = masked(x, VISIBLE)

    def observer(function, args, kwargs, act):
        seen.append(function)
        return act()

    with observing(observer):
        assert torch.equal(masked(x, VISIBLE), expected)
    assert nn.functional.relu in seen
    count = len(seen)
    with pytest.raises(ZeroDivisionError), observing(observer):
        raise ZeroDivisionError
    masked(x, VISIBLE)
    assert len(seen) == count


# ---- rules for tokens --------------------------------------------------------------------------------------------------


def test_rules_for_tokens_have_a_table_of_their_own(x):
    model = nn.Sequential(nn.Flatten(2), Inverse()).eval()
    before = registered_functions(), registered_functions(tokens=True)
    with pytest.raises(errors.UnsupportedOperatorError, match=r"no masking rule for torch\.erfinv"):
        lm.LayerMasked(model)(x, VISIBLE)

    @lm.register_rule(torch.erfinv, tokens=True)
    def erfinv(input):
        return input.like(torch.erfinv(input.values))

    try:
        expected = torch.erfinv(torch.tanh(x.flatten(2))).masked_fill(~VISIBLE.flatten(), 0.0)
        torch.testing.assert_close(lm.LayerMasked(model)(x, VISIBLE), expected)
        assert registered_functions() == before[0]
        with pytest.raises(errors.DuplicateRuleError, match=r"torch\.erfinv already has"):
            lm.register_rule(torch.erfinv, tokens=True)
        with pytest.raises(errors.RuleError, match="no masking rule that could be taken out"):
            lm.unregister_rule(torch.erfinv)
    finally:
        lm.unregister_rule(torch.erfinv, tokens=True)
    assert registered_functions(tokens=True) == before[1]


def test_a_rule_for_tokens_serves_maps_that_have_none(x):
    @lm.register_rule(torch.erfinv, tokens=True)
    def erfinv(input):
        return input.like(torch.erfinv(input.values)).simplified()

    try:
        expected = torch.erfinv(torch.tanh(x)).masked_fill(~VISIBLE, 0.0)
        torch.testing.assert_close(lm.LayerMasked(Inverse().eval())(x, VISIBLE), expected)
    finally:
        lm.unregister_rule(torch.erfinv, tokens=True)


class Inverse(nn.Module):
    def forward(self, x):
        return torch.erfinv(torch.tanh(x))
