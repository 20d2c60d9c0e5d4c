"""Laws of RISE."""

import pytest
import torch

from lm_plugins.attribution import RISE, random_masks
from lm_plugins.errors import OptionError, ProbabilityError


def test_a_linear_model_has_a_known_answer():
    """For a weighted sum of pixels, S is the expected sum given that a pixel is visible."""
    weights = torch.zeros(8, 8, dtype=torch.float64)
    weights[2, 3], weights[6, 6] = 0.5, 0.1
    rise = RISE(lambda x: (x[:, 0] * weights).sum((1, 2)), removal="grey")
    x = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    result, error = rise.attribute(x, n_masks=6000, cells=4, seed=0, return_standard_error=True)
    # The pixel itself adds its weight times E[M^2] / p; the far one is independent of it and adds weight * p.
    masks = torch.cat(list(random_masks((8, 8), 6000, cells=4, seed=99))).double()
    expected = ((masks * weights).sum((1, 2))[:, None, None] * masks).mean(0) / 0.5
    assert ((result[0, 0] - expected).abs() < 6 * error[0, 0] + 1e-3).all()
    assert (result[0, 0, 2, 3] > result[0, 0, 6, 0]).all()


def test_all_visible_gives_the_score_everywhere(model, x):
    result = RISE(model, output="logits").attribute(x, target=1, n_masks=3, probability=1.0)
    expected = model(x).softmax(1)[:, 1]
    torch.testing.assert_close(result, expected[:, None, None, None].expand(-1, 1, 20, 16))


def test_seed_batches_and_images(model, x):
    settings = {"target": 1, "n_masks": 30, "cells": 4}
    whole = RISE(model, output="logits").attribute(x, seed=4, **settings)
    again = RISE(model, output="logits", batch_size=4).attribute(x, seed=4, **settings)
    torch.testing.assert_close(again, whole)
    alone = RISE(model, output="logits").attribute(x[1:], seed=4, **settings)
    torch.testing.assert_close(alone, whole[1:])
    other = RISE(model, output="logits").attribute(x, seed=5, **settings)
    assert not torch.allclose(other, whole)
    torch.manual_seed(1)
    first = RISE(model, output="logits").attribute(x, **settings)
    torch.manual_seed(1)
    torch.testing.assert_close(RISE(model, output="logits").attribute(x, **settings), first)


@pytest.mark.parametrize("coverage", ["expected", "observed"])
def test_the_standard_error_is_the_spread_of_repetitions(model, x, coverage):
    rise = RISE(model, coverage=coverage, output="logits")
    maps, errors = zip(
        *(
            rise.attribute(x[:1], target=1, n_masks=40, cells=4, seed=seed, return_standard_error=True)
            for seed in range(40)
        ),
        strict=True,
    )
    spread = torch.cat(maps).std(0)
    ratio = torch.cat(errors).mean(0) / spread
    assert 0.9 < float(ratio.mean()) < 1.1


@pytest.mark.parametrize("removal", [None, "image_mean", "black"])
def test_every_removal_runs(model, x, removal):
    rise = RISE(model, removal=removal, thresholds=(0.3, 0.6), output="logits")
    result, error = rise.attribute(x, target=1, n_masks=20, return_standard_error=True)
    assert result.isfinite().all()
    assert (error >= 0).all()
    assert 0 <= float(result.min()) <= float(result.max()) < 2


@pytest.mark.parametrize("removal", ["grey", "image_mean"])
def test_observed_coverage_is_the_mean_score_of_the_masks_that_show_a_pixel(x, removal):
    """A score that does not depend on the image has no noise; with the expected coverage it has that of the masks."""
    ones = RISE(lambda x: x[:, 0, 0, 0] * 0 + 0.7, removal, coverage="observed")
    values, error = ones.attribute(x, n_masks=50, seed=1, return_standard_error=True)
    torch.testing.assert_close(values, torch.full_like(values, 0.7))
    assert float(error.max()) < 1e-6
    masks = torch.cat(list(random_masks((20, 16), 50, seed=1))).double()
    seen = masks if removal == "grey" else masks.gt(0.5).double()
    expected = RISE(lambda x: x[:, 0, 0, 0] * 0 + 1, removal, coverage="expected").attribute(x, n_masks=50, seed=1)
    torch.testing.assert_close(expected[0, 0], seen.mean(0) / (0.5 if removal == "grey" else seen.mean()))


def test_observed_coverage_by_hand(model, x):
    masks = torch.cat(list(random_masks((20, 16), 30, cells=4, seed=2))).double()
    with torch.no_grad():
        scores = torch.stack([model(x[:1] * mask).softmax(1)[0, 1] for mask in masks])
    rise = RISE(model, "grey", coverage="observed", output="logits")
    values, _ = rise.attribute(x[:1], 1, n_masks=30, cells=4, seed=2, return_standard_error=True)
    torch.testing.assert_close(values[0, 0], (scores[:, None, None] * masks).sum(0) / masks.sum(0))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"n_masks": 0}, "n_masks is at least 1, got 0"),
        ({"n_masks": 1, "return_standard_error": True}, "n_masks is at least 2, got 1"),
        ({"cells": 0}, "cells is a whole number of at least 1"),
        ({"probability": 0.0}, "probability is above 0 and at most 1, got 0.0"),
    ],
)
def test_bad_options(model, x, settings, text):
    with pytest.raises(OptionError, match=text):
        RISE(model, output="logits").attribute(x, target=1, **settings)


def test_an_unknown_coverage(model):
    with pytest.raises(OptionError, match="'expected', 'observed' or None, got 'full'"):
        RISE(model, coverage="full")


def test_logits_in_place_of_probabilities_are_said(model, x):
    with pytest.raises(ProbabilityError, match=r"returns values from .*output='logits'"):
        RISE(model).attribute(x, target=1, n_masks=2)


def test_masks_that_show_nothing_are_said(model, x):
    with pytest.raises(OptionError, match="show nothing of the image"):
        RISE(model, removal=None, output="logits").attribute(x, target=1, n_masks=1, probability=1e-9, seed=0)


def test_progress(model, x, capsys):
    RISE(model, output="logits").attribute(x, target=1, n_masks=5, show_progress=True)
    assert "10/10" in capsys.readouterr().err
