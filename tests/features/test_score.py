import pytest
import torch

from lm_plugins.checks import targets_for
from lm_plugins.errors import InputTypeError, NonFiniteError, OptionError, ProbabilityError, ShapeError
from lm_plugins.features.score import selected
from lm_plugins.outputs.words import as_probabilities


@pytest.mark.parametrize(
    ("target", "count", "expected"),
    [
        (3, 2, [3, 3]),
        (None, 2, [None, None]),
        ((1, 2), 2, [(1, 2), (1, 2)]),
        ([4, 5], 2, [4, 5]),
        ([(1, 2), (3, 4)], 2, [(1, 2), (3, 4)]),
        (torch.tensor(3), 2, [3, 3]),
        (torch.tensor([3]), 2, [3, 3]),
        (torch.tensor([3, 4]), 2, [3, 4]),
    ],
)
def test_targets(target, count, expected):
    assert targets_for(target, count) == expected


def test_selection_is_differentiable_and_takes_any_form():
    output = torch.rand(2, 3, 4, requires_grad=True)
    chosen = selected(output, [(0, 1), (2, -1)])
    torch.testing.assert_close(chosen, torch.stack([output[0, 0, 1], output[1, 2, 3]]))
    chosen.sum().backward()
    assert int((output.grad != 0).sum()) == 2
    assert selected(torch.ones(3), [None] * 3).shape == (3,)
    assert selected(torch.ones(3, 1), [None] * 3).shape == (3,)
    assert selected(torch.ones(3), [0] * 3).shape == (3,)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: targets_for(1.0, 1), InputTypeError, "got 1.0"),
        (lambda: targets_for(True, 1), InputTypeError, "got True"),
        (lambda: targets_for(torch.ones(2), 2), InputTypeError, "a tensor of torch.float32"),
        (lambda: targets_for([1, 2], 3), OptionError, "2 classes for 3 images"),
        (
            lambda: selected(torch.ones(2, 3), [0, 3]),
            OptionError,
            "target is 3, the model has 3 outputs: choose 0 to 2",
        ),
        (lambda: selected(torch.ones(2, 3), [0, -4]), OptionError, "target is -4"),
        (lambda: selected(torch.ones(2, 3), [None, 0]), OptionError, "choose one, such as target=0"),
        (lambda: selected(torch.ones(2, 3, 3), [0, 0]), OptionError, "pass 2 indices"),
        (lambda: as_probabilities(torch.tensor([2.0]), "probabilities"), ProbabilityError, "from 2 to 2"),
        (lambda: as_probabilities(torch.tensor([torch.nan]), "regression"), NonFiniteError, "returns NaN"),
        (lambda: as_probabilities(torch.ones(2, 1), "logits"), ShapeError, "output='single_logit'"),
        (lambda: as_probabilities(torch.ones(2), "logits"), ShapeError, r"got shape \(2,\)"),
        (lambda: as_probabilities(torch.ones(2), "odds"), OptionError, "got 'odds'"),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_probabilities_are_left_alone():
    probabilities = torch.tensor([[0.2, 0.8], [1.0 + 1e-6, 0.0]])
    assert as_probabilities(probabilities, "probabilities") is probabilities
    assert as_probabilities(probabilities * 9, "regression").max() > 1
