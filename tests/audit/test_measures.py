"""Measures against their definitions, and by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lm_plugins.audit import (
    Curve,
    bbox,
    confidence_in_top,
    deletion,
    drop_in_confidence,
    energy_pointing_game,
    increase_in_confidence,
    insertion,
    mask_l1,
    measured_cost,
    pointing_game,
    top_iou,
    top_pixels,
)
from lm_plugins.errors import InputTypeError, NonFiniteError, OptionError, ProbabilityError, ShapeError
from lm_plugins.removal import LayerMasking, as_removal
from tests.references import measures


@st.composite
def maps_and_regions(draw):
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    count = draw(st.integers(1, 3))
    # Few different values, so that there are ties.
    values = st.lists(st.integers(-3, 6), min_size=count * height * width, max_size=count * height * width)
    maps = torch.tensor(draw(values), dtype=torch.float64).reshape(count, height, width)
    region = torch.tensor(draw(values)).reshape(count, height, width) > 1
    return maps, region


@given(maps_and_regions(), st.sampled_from([0.0, 0.15, 0.2, 0.5, 1.0]))
def test_measures_equal_their_definitions(given_maps, share):
    maps, region = given_maps
    for i, (grid, truth) in enumerate(zip(maps.tolist(), region.tolist(), strict=True)):
        assert float(energy_pointing_game(maps, region)[i]) == pytest.approx(measures.energy_pointing_game(grid, truth))
        assert float(top_iou(maps, region, share)[i]) == pytest.approx(measures.top_iou(grid, truth, share))
        assert float(bbox(maps, region)[i]) == pytest.approx(measures.bbox(grid, truth))
        assert float(mask_l1(maps, region)[i]) == pytest.approx(measures.mask_l1(grid, truth))
        kept = {(r, c) for r, c in measures.cells(grid) if top_pixels(maps, share)[i, r, c]}
        assert kept == measures.top(grid, int(share * maps[0].numel() + 1e-9))


def test_forms_of_maps_and_regions():
    maps = torch.rand(2, 3, 4, 5)
    region = torch.rand(2, 1, 4, 5) < 0.5
    expected = energy_pointing_game(maps.sum(1), region[:, 0])
    torch.testing.assert_close(energy_pointing_game(maps, region), expected)
    torch.testing.assert_close(energy_pointing_game(maps, region.int()), expected)
    assert top_iou(maps[0, 0], region[0, 0]).shape == (1,)
    assert bbox(maps, torch.ones(4, 5)).tolist() == [1.0, 1.0]


def test_pointing_game_counts_ties_against_the_map():
    region = torch.tensor([[1, 0], [0, 0]])
    assert pointing_game(torch.tensor([[2.0, 1.0], [0.0, 0.0]]), region).tolist() == [True]
    assert pointing_game(torch.tensor([[2.0, 2.0], [0.0, 0.0]]), region).tolist() == [False]
    assert pointing_game(torch.zeros(2, 2), region).tolist() == [False]


def test_of_100_pixels_15_are_kept():
    for size, expected in (((10, 10), 15), ((224, 224), 7526)):
        maps = torch.randperm(size[0] * size[1]).double().reshape(size)
        assert int(top_pixels(maps).sum()) == expected
    assert not top_pixels(torch.ones(4, 4)).any()
    assert int(top_pixels(torch.arange(100.0).reshape(10, 10), 0.29).sum()) == 29
    assert top_pixels(torch.arange(4.0).reshape(2, 2), 1.0).all()


def test_drop_and_increase_by_hand():
    before, after = torch.tensor([0.5, 0.8, 0.4, 0.0]), torch.tensor([0.25, 0.9, 0.4, 0.3])
    torch.testing.assert_close(drop_in_confidence(before, after), torch.tensor([50.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(increase_in_confidence(before, after), torch.tensor([0.0, 100.0, 0.0, 100.0]))


@pytest.fixture
def model():
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    return net.double().eval()


def test_confidence_in_top_zeroes_the_rest(model):
    x, maps = torch.randn(3, 2, 10, 8).double(), torch.rand(3, 1, 10, 8).double()
    before, after = confidence_in_top(as_removal("grey")(model), x, maps, [0, 1, 2], 0.25, "logits")
    for i in range(3):
        limit = maps[i].flatten().sort(descending=True).values[20]
        kept = x[i] * (maps[i] > limit)
        torch.testing.assert_close(before[i], model(x[i : i + 1]).softmax(1)[0, i])
        torch.testing.assert_close(after[i], model(kept[None]).softmax(1)[0, i])


@pytest.mark.parametrize("removal", ["grey", None])
@pytest.mark.parametrize("steps", [1, 5, 7, 80])
def test_insertion_and_deletion_equal_their_definition(model, removal, steps):
    x, maps = torch.randn(2, 2, 10, 8).double(), torch.randint(0, 9, (2, 10, 8)).double()
    forward = as_removal(removal)(model)

    def score(image, visible_pixels):
        visible = torch.zeros(1, 10, 8, dtype=torch.bool)
        for i, j in visible_pixels:
            visible[0, i, j] = True
        return float(forward(image[None], visible).softmax(1)[0, 1].detach())

    for measure, is_insertion in ((deletion, False), (insertion, True)):
        found = measure(forward, x, maps, 1, steps, "logits", batch_size=3)
        assert found.scores.shape == (2, steps + 1)
        assert found.share[0] == 0
        assert found.share[-1] == 1
        for i in range(2):
            expected = measures.curve(score, x[i], maps[i].tolist(), steps, is_insertion)
            assert found.scores[i].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_area_is_that_of_trapezoids():
    curve = Curve(torch.tensor([0.0, 0.5, 1.0]).double(), torch.tensor([[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]]))
    torch.testing.assert_close(curve.auc, torch.tensor([0.5, 1.0]))


def test_a_good_order_beats_a_bad_one():
    """A model that looks at one row: deleting it first is the fastest way down."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(64, 1, bias=False))
    nn.init.ones_(net[0].weight)
    with torch.no_grad():
        net[2].weight.zero_()[0, :8] = 1 / 8
    x = torch.ones(1, 1, 8, 8)
    good = torch.zeros(8, 8)
    good[0] = 1
    forward = as_removal("grey")(net.eval())
    assert float(deletion(forward, x, good, 0).auc) < 0.1 < 0.9 < float(deletion(forward, x, -good, 0).auc)
    assert float(insertion(forward, x, good, 0).auc) > 0.9 > 0.1 > float(insertion(forward, x, -good, 0).auc)


def test_cost_counts_images_and_leaves_nothing(model):
    x = torch.rand(3, 2, 5, 5).double()
    with measured_cost(model) as cost:
        model(x)
        model(x[:1])
    assert (cost.images, cost.calls) == (4, 2)
    assert cost.seconds > 0
    with pytest.raises(RuntimeError, match="expected input"), measured_cost(model):
        model(torch.rand(1, 5, 4, 4).double())
    assert not model._forward_pre_hooks
    with measured_cost(model) as masked:
        LayerMasking()(model)(x, torch.rand(5, 5) < 0.5)
    assert masked.images == 3 + 2  # the engine is checked on one image, in a pass of its own and one of the model's


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda m, x: top_pixels(x.numpy()), InputTypeError, "an attribution is a torch.Tensor, got ndarray"),
        (lambda m, x: top_pixels(x[0, 0, 0]), ShapeError, r"got shape \(8,\)"),
        (lambda m, x: top_pixels(x / 0), NonFiniteError, "holds NaN or infinity"),
        (lambda m, x: top_pixels(x, 15), OptionError, r"share is in \[0, 1\], got 15"),
        (
            lambda m, x: bbox(x, torch.ones(3, 3)),
            ShapeError,
            r"the region has shape \(3, 3\), the attribution \(2, 10, 8\)",
        ),
        (lambda m, x: bbox(x, torch.rand(10, 8)), InputTypeError, "0 .outside. and 1"),
        (lambda m, x: bbox(x, [[1]]), InputTypeError, "got list"),
        (lambda m, x: drop_in_confidence(torch.ones(2), torch.ones(3)), ShapeError, r"got \(2,\) and \(3,\)"),
        (lambda m, x: increase_in_confidence(torch.ones(2) * 3, torch.ones(2)), ProbabilityError, "values from 3 to 3"),
        (lambda m, x: confidence_in_top(m, x, x[:, :, :3], 0), ShapeError, r"interpolate it to \(10, 8\)"),
        (lambda m, x: confidence_in_top(as_removal("grey")(m), 99 * x, x, 0), ProbabilityError, "output='logits'"),
        (lambda m, x: deletion(m, x, x[:, :, :3], 0), ShapeError, r"interpolate it to \(10, 8\)"),
        (lambda m, x: deletion(m, x, x, 0, steps=0), OptionError, "steps is from 1 to 80"),
        (lambda m, x: insertion(m, x, x, 0, steps=81), OptionError, "got 81"),
        (lambda m, x: insertion(as_removal("grey")(m), x, x, 5, output="logits"), OptionError, "target is 5"),
        (lambda m, x: measured_cost(lambda x: x).__enter__(), InputTypeError, "got function"),
    ],
)
def test_bad_input(model, call, error, text):
    with pytest.raises(error, match=text):
        call(model, torch.randn(2, 2, 10, 8).double())
