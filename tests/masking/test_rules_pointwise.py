"""Functions of one position, and questions about a tensor: every one in the table."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lm_plugins.masking import MaskedActivation, registered_functions
from lm_plugins.masking.registry import function_name, is_in_place
from tests.masking import samples

ARGUMENTS = {
    "_threshold": (0.1, 0.2),
    "threshold": (0.1, 0.2),
    "prelu": (torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64),),
    "clamp": (-0.5, 0.5),
    "clip": (-0.5, 0.5),
    "clamp_min": (0.1,),
    "clamp_max": (0.1,),
    "pow": (2,),
    "float_power": (2,),
    "__pow__": (2,),
    "__ipow__": (2,),
    "__rpow__": (2,),
    "dropout": (0.5, False),
    "dropout2d": (0.5, False),
    "alpha_dropout": (0.5, False),
    "feature_dropout": (0.5, False),
    "feature_alpha_dropout": (0.5, False),
    "to": (torch.float32,),
    "type_as": (torch.zeros((), dtype=torch.float32),),
    "requires_grad_": (False,),
    "fill_": (0.5,),
}

# One needs a GPU; the other takes no maps (N, C, H, W). Those of conditions and constants are tested with the comparisons.
LEFT_OUT = (
    *("cuda", "dropout1d"),
    *("bitwise_not", "bitwise_not_", "__invert__", "zeros_like", "ones_like", "full_like", "empty_like"),
)


def table(*files):
    """The functions whose rules live in these files."""
    functions = [
        function
        for function, rule in registered_functions().items()
        if rule.__module__.split(".")[-1] in files and function.__name__ not in LEFT_OUT
    ]
    return sorted(functions, key=lambda function: (function_name(function), str(function)))


def call(function, x):
    """Call a function, or a method as models do: on the activation itself, for it is no subclass of a tensor."""
    name = function.__name__
    arguments = ARGUMENTS.get(name, ARGUMENTS.get(name.strip("_"), ()))
    if function_name(function).startswith("torch.Tensor."):
        return getattr(x, name)(*arguments)
    return function(x, *arguments)


def positive(x):
    """Inside of the domain of logarithms and of inverse functions."""
    return x.abs().clamp(0.05, 0.95)


@pytest.mark.parametrize("function", table("pointwise"), ids=function_name)
# Some names are aliases that torch wants to get rid of; models still use them.
@pytest.mark.filterwarnings("ignore:nn.functional.*is deprecated:UserWarning")
def test_changes_values_only(function):
    x, visible = positive(samples.values()), samples.region()
    given = samples.activation(x.clone(), visible)
    result = call(function, given)
    expected = call(function, x.clone())
    assert isinstance(result, MaskedActivation)
    assert result.dims == given.dims
    assert result.visibility is given.visibility
    assert result.dtype == expected.dtype
    samples.assert_equal_where_computed(result, expected)
    if is_in_place(function) and function.__name__ != "requires_grad_":
        assert result is given
    elif function.__name__ != "__ipow__":
        samples.assert_equal_where_computed(given, x)


IN_PLACE = [nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid]


@pytest.mark.parametrize("layer", IN_PLACE)
def test_layers_in_place_and_not(layer):
    x = samples.values()
    given = samples.activation(x.clone())
    result = layer(inplace=True)(given)
    assert result is given
    samples.assert_equal_where_computed(result, layer()(x))
    untouched = samples.activation(x.clone())
    layer()(untouched)
    samples.assert_equal_where_computed(untouched, x)


def test_every_spelling_of_relu():
    x = samples.values()
    for call in (
        torch.relu,
        torch.relu_,
        F.relu,
        F.relu_,
        lambda a: F.relu(a, inplace=True),
        lambda a: F.relu(input=a),
        lambda a: a.relu(),
        lambda a: a.relu_(),
        lambda a: a.clamp(min=0),
        lambda a: torch.clamp(a, 0, None),
        lambda a: torch.clamp(input=a, min=0.0),
        nn.ReLU(),
    ):
        samples.assert_equal_where_computed(call(samples.activation(x.clone())), x.relu())


def test_powers():
    x = positive(samples.values())
    given = samples.activation(x)
    for result, expected in (
        (given**2, x**2),
        (2.0**given, 2.0**x),
        (given.pow(3), x.pow(3)),
        (torch.pow(2.0, given), torch.pow(2.0, x)),
        (-given, -x),
        (abs(given), x),
        (torch.tensor(2.0).double() ** given, 2.0**x),
    ):
        samples.assert_equal_where_computed(result, expected)


# ---- questions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", table("queries"), ids=function_name)
def test_answers_for_the_values(function):
    given = samples.activation(samples.values().requires_grad_())
    if function is torch.autograd.grad:
        assert torch.equal(
            function(given.mean((1, 2, 3)).sum(), given)[0], function(given.mean((1, 2, 3)).sum(), given.values)[0]
        )
    elif function is torch.Tensor.register_hook:
        seen = []
        function(given, seen.append)
        given.mean((1, 2, 3)).sum().backward()
        assert torch.equal(seen[0], torch.autograd.grad(given.mean((1, 2, 3)).sum(), given.values)[0])
    elif function in (torch.detach_, torch.Tensor.detach_):
        before = given.values
        assert function(given) is given
        assert not given.requires_grad
        assert given.values.data_ptr() == before.data_ptr()
    elif function is torch.Tensor.retain_grad:
        function(given)
        given.mean((1, 2, 3)).sum().backward()
        assert torch.equal(given.grad, given.values.grad)
    elif function.__name__.startswith("new_"):
        arguments = {"new_full": ((2, 3), 1.0), "new_tensor": ([1.0, 2.0],)}.get(function.__name__, ((2, 3),))
        got, expected = function(given, *arguments), function(given.values, *arguments)
        assert type(got) is torch.Tensor
        assert (got.shape, got.dtype, got.device) == (expected.shape, expected.dtype, expected.device)
    else:
        given.retain_grad()
        assert function(given) == function(given.values)


def test_attributes_that_models_read():
    given = samples.activation()
    assert given.shape == (2, 4, 6, 7)
    assert (given.ndim, given.dtype, given.device.type) == (4, torch.float64, "cpu")
    assert given.size() == given.shape
    assert (given.size(1), given.size(dim=-1), len(given), given.dim()) == (4, 7, 2, 4)
    assert not given.requires_grad
    assert not given.is_cuda
    assert "N=2, C=4, H=6, W=7" in repr(given)
    n, c, h, w = given.shape
    assert (n, c, h, w) == (2, 4, 6, 7)


def test_what_is_no_attribute_of_a_tensor_is_none_of_ours():
    given = samples.activation()
    assert not hasattr(given, "no_such_thing")
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = given.no_such_thing
