"""Feature masks, coalitions and their evaluation, against loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import lm_plugins as lm
from lm_plugins.errors import InputTypeError, MaskValueError, OptionError, ShapeError
from lm_plugins.features import CoalitionEvaluator, Features, grid, relabelled, superpixels, visible_from

FEATURES = torch.tensor([[0, 0, 1], [2, 2, 1]])


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
def test_grid_equals_loops(height: int, width: int, rows: int, columns: int) -> None:
    mask = grid((height, width), (rows, columns))
    across = -(-width // columns)
    for i in range(height):
        for j in range(width):
            assert mask[i, j] == i // rows * across + j // columns


@settings(max_examples=25)
@given(st.lists(st.integers(-5, 40), min_size=1, max_size=12))
def test_relabelled_keeps_groups_and_order_without_gaps(ids: list[int]) -> None:
    expected = [sorted(set(ids)).index(one) for one in ids]
    assert relabelled(np.array(ids)).tolist() == expected
    assert relabelled(torch.tensor(ids, dtype=torch.float32)).tolist() == expected


@pytest.mark.parametrize("method", ["slic", "quickshift", "felzenszwalb"])
def test_superpixels_of_tensor_array_and_grey_image(method: str) -> None:
    x = torch.zeros(3, 24, 24)
    x[:, :, 12:] = 2.0
    of_tensor = superpixels(x, method)
    assert torch.equal(of_tensor, superpixels(x.permute(1, 2, 0).numpy(), method))
    assert of_tensor.shape == (24, 24)
    assert of_tensor.min() == 0
    assert of_tensor.unique().tolist() == list(range(int(of_tensor.max()) + 1))
    assert superpixels(x[0].numpy(), method).shape == (24, 24)
    assert not set(of_tensor[:, 2].tolist()) & set(of_tensor[:, -3].tolist())


def test_visible_from_equals_loops() -> None:
    coalitions = torch.rand(5, 3) < 0.5
    visible = visible_from(coalitions, FEATURES)
    for k in range(5):
        for i in range(2):
            for j in range(3):
                assert visible[k, i, j] == coalitions[k, FEATURES[i, j]]
    assert torch.equal(visible_from(coalitions.float(), FEATURES.int()), visible)


class Counting:
    """Sums what is visible, and remembers how many images came at once."""

    def __init__(self, fits: int = 10**9) -> None:
        self.batches: list[int] = []
        self.fits = fits

    def __call__(self, x: Tensor, visible: Tensor) -> Tensor:
        if len(visible) > self.fits:
            raise torch.OutOfMemoryError("out of memory")
        self.batches.append(len(visible))
        return (x[:, 0] * visible).sum((1, 2))[:, None]


@pytest.mark.parametrize("batch_size", [1, 2, 3, None])
def test_values_do_not_depend_on_the_batch_size(batch_size: int | None) -> None:
    x = torch.rand(1, 1, 2, 3)
    coalitions = torch.rand(20, 3) < 0.5
    expected = [(x[0, 0] * row[FEATURES]).sum() for row in coalitions]
    forward = Counting()
    values = CoalitionEvaluator(forward, x, FEATURES, batch_size)(coalitions)
    torch.testing.assert_close(values[:, 0], torch.stack(expected))
    assert sum(forward.batches) == len(coalitions.unique(dim=0))


def test_out_of_memory_halves_the_batch_and_says_so() -> None:
    forward = Counting(fits=2)
    evaluate = CoalitionEvaluator(forward, torch.ones(1, 1, 2, 3), FEATURES, batch_size=8)
    every = torch.tensor([[i >> k & 1 for k in range(3)] for i in range(8)])
    with pytest.warns(RuntimeWarning) as warned:
        values = evaluate(every)
    assert [str(one.message) for one in warned] == [
        "a batch of 8 coalitions did not fit into memory; going on with batches of 4.",
        "a batch of 4 coalitions did not fit into memory; going on with batches of 2.",
    ]
    assert forward.batches == [2, 2, 2, 2]
    assert values[:, 0].tolist() == [0, 2, 2, 4, 2, 4, 4, 6]


def test_other_errors_of_the_model_are_not_taken_for_memory() -> None:
    def broken(x: Tensor, visible: Tensor) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        CoalitionEvaluator(broken, torch.ones(1, 1, 2, 3), FEATURES)(torch.ones(1, 3))


def test_layer_masking_evaluates_coalitions_like_masks() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
    masked = lm.LayerMasked(model.eval())
    x, features = torch.rand(1, 3, 8, 8), grid((8, 8), 4)
    coalitions = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1]])
    values = CoalitionEvaluator(masked, x, features, progress=True)(coalitions)
    with torch.inference_mode():
        for value, coalition in zip(values, coalitions, strict=True):
            torch.testing.assert_close(value, masked(x, coalition[features])[0])


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: grid((4, 4), 0), OptionError, "at least 1, got size=\\(4, 4\\) and patch=0"),
        (lambda: superpixels(torch.rand(3, 8, 8), "magic"), OptionError, "'slic', 'quickshift', 'felzenszwalb'"),
        (lambda: superpixels(torch.rand(2, 3, 8, 8)), ShapeError, "one image.*got shape \\(2, 3, 8, 8\\)"),
        (lambda: relabelled(torch.tensor([0.5])), InputTypeError, "whole numbers"),
        (lambda: relabelled(torch.tensor([])), ShapeError, "an empty one of shape \\(0,\\)"),
        (lambda: visible_from(torch.ones(1, 2), FEATURES), ShapeError, "ids from 0 to 2, the coalitions 2 features"),
        (lambda: visible_from(torch.ones(3), FEATURES), ShapeError, "coalitions \\(K, F\\)"),
        (lambda: visible_from(torch.ones(1, 3), FEATURES.float()), InputTypeError, "integer dtype.*relabelled"),
        (lambda: visible_from(torch.full((1, 3), 0.5), FEATURES), MaskValueError, "0 \\(absent\\) and 1"),
        (
            lambda: CoalitionEvaluator(Counting(), torch.ones(2, 1, 2, 3), FEATURES),
            ShapeError,
            "one image \\(1, C, H, W\\)",
        ),
        (
            lambda: CoalitionEvaluator(Counting(), torch.ones(1, 1, 3, 3), FEATURES),
            ShapeError,
            "\\(2, 3\\).*\\(3, 3\\)",
        ),
        (lambda: CoalitionEvaluator(Counting(), torch.ones(1, 1, 2, 3), FEATURES, 0), OptionError, "at least 1.*got 0"),
        (
            lambda: CoalitionEvaluator(lambda x, visible: {"logits": x}, torch.ones(1, 1, 2, 3), FEATURES)(
                torch.ones(1, 3)
            ),
            InputTypeError,
            "got dict.* Choose a part of what the model returns with output=",
        ),
    ],
)
def test_bad_input(call, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


def test_autocast_runs_the_model_in_another_dtype():
    seen = []

    def forward(x, visible):
        result = torch.nn.functional.linear(x.flatten(1), torch.ones(2, 16))
        seen.append(result.dtype)
        return result

    x = torch.rand(1, 1, 4, 4)
    coalitions = torch.eye(4)
    exact = CoalitionEvaluator(forward, x, grid((4, 4), 2))(coalitions)
    rough = CoalitionEvaluator(forward, x, grid((4, 4), 2), autocast=torch.bfloat16)(coalitions)
    assert seen == [torch.float32, torch.bfloat16]
    torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.01)


@pytest.mark.parametrize("batch_size", [0, -3])
def test_batch_sizes_below_one_are_refused(batch_size):
    with pytest.raises(OptionError, match=f"at least 1, or None for an automatic choice; got {batch_size}"):
        CoalitionEvaluator(lambda x, visible: x, torch.rand(1, 1, 4, 4), grid((4, 4), 2), batch_size=batch_size)


@pytest.mark.parametrize("text", ["grid:16", "slic:7", "grid:007"])
def test_features_in_a_word(text):
    features = Features.of(text)
    image = torch.linspace(0, 1, 33).expand(3, 20, 33)
    kind, number = text.split(":")
    expected = (
        grid((20, 33), 16 if number == "16" else 7)
        if kind == "grid"
        else superpixels(image, n_segments=7, start_label=0)
    )
    assert torch.equal(features(image), expected)
    assert Features.of(str(features)) == features


@pytest.mark.parametrize(
    "text", ["grid", "grid:", "grid:0", "slic:-3", "slic:1e3", "Grid:3", "grid:3:4", "grid: 3", "", "grid:1000000"]
)
def test_other_words_are_no_features(text):
    with pytest.raises(OptionError, match=r"neither grid:N .* nor slic:N"):
        Features.of(text)
