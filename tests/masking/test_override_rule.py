"""`override_rule`: another rule within a block, and the table as it was afterwards."""

import threading

import pytest
import torch
from torch import nn

import lm_plugins as lm
from lm_plugins import errors
from lm_plugins.masking import registered_functions

VISIBLE = torch.eye(4, dtype=torch.bool)
relu = nn.functional.relu


@pytest.fixture
def masked():
    return lm.LayerMasked(nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), verify=False)


def times(factor):
    return lambda input, inplace=False: input.like(input.values * factor)


def test_holds_within_the_block_only(masked):
    x, before = torch.ones(1, 1, 4, 4), registered_functions()
    with lm.override_rule(relu, times(3)):
        assert masked(x, VISIBLE) == 3
        with lm.override_rule(relu, times(5)):
            assert masked(x, VISIBLE) == 5
        assert masked(x, VISIBLE) == 3
    assert masked(x, VISIBLE) == 1
    assert registered_functions() == before


def test_ends_after_an_exception(masked):
    with pytest.raises(ZeroDivisionError), lm.override_rule(relu, times(3)):
        raise ZeroDivisionError
    assert masked(torch.ones(1, 1, 4, 4), VISIBLE) == 1


def test_without_a_rule_and_for_what_has_none(masked):
    x = torch.ones(1, 1, 4, 4)
    with lm.override_rule(relu), pytest.raises(errors.UnsupportedOperatorError, match=r"no masking rule for .*\.relu"):
        masked(x, VISIBLE)
    with lm.override_rule(relu):
        assert "torch.nn.functional.relu" in lm.coverage(masked.model, x).missing

    class Model(nn.Module):
        def forward(self, x):
            return torch.erfinv(x).mean((2, 3))

    with lm.override_rule([torch.erfinv, torch.Tensor.erfinv], lambda input: input.like(input.values)):
        assert lm.LayerMasked(Model().eval(), verify=False)(x, VISIBLE) == 1
    with pytest.raises(errors.UnsupportedOperatorError, match="erfinv"):
        lm.LayerMasked(Model().eval())(x, VISIBLE)


def test_another_thread_sees_the_table(masked):
    seen = []
    with lm.override_rule(relu, times(3)):
        thread = threading.Thread(target=lambda: seen.append(masked(torch.ones(1, 1, 4, 4), VISIBLE)))
        thread.start()
        thread.join()
        assert masked(torch.ones(1, 1, 4, 4), VISIBLE) == 3
    assert seen == [1]


@pytest.mark.parametrize("function", [len, nn.ReLU, "relu"])
def test_what_is_no_function_of_torch(function):
    message = "is not a torch function that can be overridden"
    with pytest.raises(errors.RuleError, match=message), lm.override_rule(function, times(1)):
        pass


@pytest.mark.parametrize(("functions", "rule"), [([], times(1)), (relu, 3)])
def test_nothing_to_override(functions, rule):
    message = "needs one torch function or several, and a rule or None"
    with pytest.raises(errors.RuleError, match=message), lm.override_rule(functions, rule):
        pass
