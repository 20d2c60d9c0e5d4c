"""`check_rule`: good rules pass, and every way to break a law is found, named and shown small."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lm_plugins as lm
from lm_plugins import errors
from lm_plugins.testing import check_rule
from tests.masking import samples

X = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(1))
WEIGHT = torch.randn(3, 4, 3, 3, generator=torch.Generator().manual_seed(2))

GOOD = {
    "a function": (torch.relu, [X], {}),
    "a method": (torch.Tensor.mul, [X, Y], {}),
    "an operator": (torch.Tensor.__add__, [X, 2.0], {}),
    "in place": (torch.Tensor.add_, [X, Y], {}),
    "a layer": (nn.Conv2d(4, 3, 3, stride=2, padding=1), [X], {}),
    "a layer in place": (nn.ReLU(inplace=True), [X], {}),
    "weights": (F.conv2d, [X, WEIGHT], {"padding": 1}),
    "weights of one pixel": (F.conv2d, [X, WEIGHT[:1, :, :1, :1]], {}),
    "a list": (torch.cat, [[X, Y], 1], {}),
    "names": (F.avg_pool2d, [X], {"kernel_size": 2, "stride": 1}),
    "a reduction": (torch.amax, [X, (2, 3)], {}),
    "several results": (torch.chunk, [X, 2], {"dim": 1}),
    "a question": (torch.Tensor.size, [X], {}),
    "sizes": (torch.Tensor.view, [X, 2, 2, 2, 5, 6], {}),
    "a function of several": (lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (4,)).mean((1, 2)), [X], {}),
    "one image": (nn.MaxPool2d(2), [X[:1]], {}),
    "double precision": (torch.sigmoid, [X.double()], {}),
}


@pytest.mark.parametrize("kind", GOOD)
def test_rules_of_ours_pass(kind):
    function, args, kwargs = GOOD[kind]
    check_rule(function, *args, **kwargs)


@pytest.mark.parametrize("options", samples.OPTIONS, ids=samples.OPTION_NAMES)
def test_under_any_options(options):
    check_rule(nn.Conv2d(4, 3, 3, padding=1), X, options=options)
    check_rule(torch.add, X, Y, options=options)


def _image_mean(values):
    return values.mean((1, 2, 3), keepdim=True)


def _of_the_batch(input):
    """0 with all visible, else the mean over all images."""
    return input.with_hidden(0.0).mean((0, 2, 3), keepdim=True) if input.is_hidden().any() else 0.0


def _stray(input):
    if len(input.values) > 1:
        raise RuntimeError("one image only")
    return input.like(torch.erfinv(input.values))


def _cut_off(input):
    input.values = input.values.nan_to_num(0.0) * 2
    return input.like(torch.erfinv(input.values / 2))


# For torch.erfinv: the law that breaks, the rule, and what the message shows of the example.
BAD = {
    "it raises": ("the rule runs wherever plain torch does", _stray, "RuntimeError: one image only"),
    "another number": ("all visible is plain torch", lambda input: input.like(input.values), "mask"),
    "another dtype": (
        "all visible is plain torch",
        lambda input: input.like(torch.erfinv(input.values).double()),
        "of torch.float64, expected (1, 4, 1, 1) of torch.float32",
    ),
    "hides": (
        "all visible is plain torch",
        lambda input: samples.activation(torch.erfinv(input.values), ~input.visibility.visible.positions),
        "hides positions",
    ),
    "a leak": (
        "hidden values cannot matter",
        lambda input: input.like(torch.erfinv(input.values) + 0 * _image_mean(input.values)),
        "    #.\n",  # one hidden pixel, in an image of two
    ),
    "a leak of NaN only": (
        "hidden values cannot matter",
        lambda input: input.like(torch.erfinv(input.values) + 0 * _image_mean(input.values.clamp(-1, 1))),
        "with nan at hidden positions instead of 0",
    ),
    "a mean of the batch": (
        "an image of a batch is the image alone",
        lambda input: input.like(torch.erfinv(input.values) + _of_the_batch(input)),
        "images of the batch side by side",
    ),
    "no gradient": (
        "gradients of hidden values are zero",
        lambda input: input.like(torch.erfinv(input.values.detach())),
        "the result has lost its gradient",
    ),
    "half a gradient": (
        "gradients of hidden values are zero",
        lambda input: input.like(torch.erfinv((input.values + input.values.detach()) / 2)),
        "the gradient differs from plain torch's",
    ),
    "a name of its own": (
        "a call with positions is the call with keywords",
        lambda x: x.like(torch.erfinv(x.values)),
        "unexpected keyword argument 'input'",
    ),
    "it modifies": ("arguments are not modified", _cut_off, "the activation that it was given has changed"),
}


@pytest.mark.parametrize("how", BAD)
def test_broken_laws_are_found(how):
    law, rule, text = BAD[how]
    with lm.override_rule(torch.erfinv, rule), pytest.raises(errors.ConformanceError) as caught:
        check_rule(torch.erfinv, X.tanh() * 0.9)
    assert law in caught.value.law
    message = str(caught.value)
    assert message.startswith(f"the rule of torch.erfinv breaks a law: {law}")
    assert "smallest failing example" in message
    assert text in message
    assert isinstance(caught.value, AssertionError)


def test_the_example_is_the_smallest_that_fails():
    # A window that looks too far needs three columns to be caught.
    def rule(input):
        return input.like(torch.erfinv(input.values) + 0 * input.values.roll(2, 3) * (input.shape[3] > 2))

    with lm.override_rule(torch.erfinv, rule), pytest.raises(errors.ConformanceError) as caught:
        check_rule(torch.erfinv, X.tanh() * 0.9)
    assert "activation of shape (1, 4, 3, 3)" in str(caught.value)
    assert "    ###\n    #.#\n    ###\n" in str(caught.value)


def test_nothing_visible():
    def nanmean(input, dim, keepdim=False):
        return torch.nanmean(input.with_hidden(torch.nan), dim, keepdim)

    with (
        lm.override_rule(torch.nanmean, nanmean),
        pytest.raises(errors.ConformanceError, match="got nan") as caught,
    ):
        check_rule(torch.nanmean, X, (2, 3))
    assert caught.value.law == "nothing visible gives finite numbers"


def test_the_batch_dimension_is_lost():
    with (
        lm.override_rule(torch.sum, lambda input, dim=None: input.with_hidden(0.0).sum()),
        pytest.raises(errors.ConformanceError, match=r"the result \(\) has no dimension for a batch of 2"),
    ):
        check_rule(torch.sum, X)


def test_a_merge_that_ignores_the_mask_of_its_second_operand():
    def add(input, other, *, alpha=1):
        return input.like(input.values + alpha * other.values)

    with lm.override_rule(torch.add, add), pytest.raises(errors.ConformanceError, match="hidden values cannot matter"):
        check_rule(torch.add, X, Y)


def test_in_place_without_returning_what_was_given():
    with (
        lm.override_rule(torch.relu_, lambda input: input.like(input.values.relu())),
        pytest.raises(errors.ConformanceError, match="works in place here, but the rule does not return"),
    ):
        check_rule(torch.relu_, X)


def test_a_weight_that_is_written_to():
    def mul(input, other):
        return input.like(input.values * other.add_(1).sub_(1).mul_(1 + 1e-7))

    with lm.override_rule(torch.mul, mul), pytest.raises(errors.ConformanceError) as caught:
        check_rule(torch.mul, X, torch.rand(1, 4, 1, 1))
    assert caught.value.law


def test_leaves_samples_and_table_alone():
    x, before = X.clone(), torch.is_grad_enabled()
    check_rule(torch.relu_, x)
    assert torch.equal(x, X)
    assert not x.requires_grad
    assert torch.is_grad_enabled() is before


def test_mistakes():
    with pytest.raises(errors.UnsupportedOperatorError, match=r"no masking rule for torch\.erfinv"):
        check_rule(torch.erfinv, X)
    with pytest.raises(errors.InputTypeError, match=r"at least one sample image.*torch\.relu have none"):
        check_rule(torch.relu, torch.rand(3, 4))
    with pytest.raises(errors.InputTypeError, match="at least one sample image"):
        check_rule(torch.relu, torch.ones(1, 1, 2, 2, dtype=torch.int64))
    with pytest.raises(errors.InputTypeError, match="needs the torch function that the rule is for"):
        check_rule(lm.masking.registered_functions()[torch.relu], X)
    with pytest.raises(errors.InputTypeError, match="needs the torch function that the rule is for"):
        check_rule("relu", X)
