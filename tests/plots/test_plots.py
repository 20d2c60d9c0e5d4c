"""Plots show the numbers that they are given, on the axis that they are given."""

import matplotlib as mpl
import numpy as np
import pytest
import torch

mpl.use("Agg")
from matplotlib import pyplot as plt

from lm_plugins.audit import AuditResult
from lm_plugins.audit.tables import COLUMNS, pd
from lm_plugins.errors import NonFiniteError, OptionError, ShapeError
from lm_plugins.plots import attribution_overlay, compare_removals, missingness_curves
from lm_plugins.plots.axes import styles


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture
def result() -> AuditResult:
    rows = [
        (measure, removal, "patches", "random", fraction, image, float(value), 0)
        for measure in ("agreement", "accuracy")
        for removal, values in {"layer_masking": (1, 1, 1), "grey": (1, 1, 0), "<mine>": (1, 0, 0)}.items()
        for fraction, value in zip((0.0, 0.3, 0.6), values, strict=True)
        for image in ("a", "b")
    ]
    return AuditResult(pd.DataFrame(rows, columns=list(COLUMNS)))


@pytest.mark.parametrize(
    "draw",
    [
        missingness_curves,
        compare_removals,
        lambda result, ax=None: attribution_overlay(torch.rand(3, 4, 4), torch.randn(4, 4), ax=ax),
    ],
)
def test_draws_on_the_given_axis_or_its_own(draw, result):
    fig, ax = draw(result)
    assert ax.figure is fig
    figure, axes = plt.subplots(1, 2)
    found = draw(result, ax=axes[1])
    assert found == (figure, axes[1])
    assert not axes[0].has_data()
    figure.canvas.draw()


def test_curves_are_those_of_the_summary(result):
    _, ax = missingness_curves(result, "accuracy")
    curves = result.curves("accuracy")
    assert {line.get_label() for line in ax.lines} == {"layer masking", "grey", "<mine>"}
    for line in ax.lines:
        name = line.get_label().replace(" ", "_")
        assert line.get_xdata().tolist() == [0.0, 0.3, 0.6]
        assert line.get_ydata().tolist() == curves.loc[name, [0.0, 0.3, 0.6]].tolist()
    assert ax.get_xlabel() == "removed fraction of patches, random"
    with pytest.raises(OptionError, match="no confidence/patches/random"):
        missingness_curves(result, "confidence")


def test_bars_are_the_scores_and_say_which_is_recommended(result):
    _, ax = compare_removals(result)
    assert [bar.get_width() for bar in ax.patches] == [1.0, 0.5, 0.0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["layer masking (recommended)", "grey", "<mine>"]
    _, ax = compare_removals(result, "accuracy")
    assert [bar.get_width() for bar in ax.patches] == [1.0, 0.5, 0.0]
    with pytest.raises(OptionError, match="no magic"):
        compare_removals(result, "magic")


def test_a_removal_looks_the_same_in_every_plot():
    assert styles(["grey", "mine"])["grey"] == styles(["blur", "grey"])["grey"]
    colours = [one["color"] for one in styles(["layer_masking", "grey", "black", "blur", "mine"]).values()]
    assert len(set(colours)) == 5


def test_overlays_are_symmetric_around_zero_and_share_a_limit():
    attribution = torch.tensor([[4.0, -1.0], [0.0, 2.0]])
    _, ax = attribution_overlay(torch.rand(3, 2, 2), attribution, limit=2.0, opacity=0.5)
    drawn = ax.images[-1]
    assert drawn.get_clim() == (-2.0, 2.0)
    assert drawn.get_array().tolist() == attribution.tolist()
    assert np.asarray(drawn.get_alpha()).tolist() == [[0.5, 0.25], [0.0, 0.5]]
    _, ax = attribution_overlay(torch.rand(3, 2, 2), torch.zeros(2, 2))  # nothing to show is no error
    low, high = ax.images[-1].get_clim()
    assert low == -high < 0


def test_overlays_of_every_layout_are_the_same():
    image, attribution = torch.rand(3, 5, 4), torch.randn(1, 3, 5, 4)
    _, first = attribution_overlay(image, attribution)
    _, second = attribution_overlay(image.movedim(0, -1).numpy(), attribution[0].sum(0).numpy())
    for i in (0, 1):
        np.testing.assert_allclose(first.images[i].get_array(), second.images[i].get_array(), atol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: attribution_overlay(torch.rand(3, 4, 4), torch.rand(2, 2)), ShapeError, r"\(2, 2\).*\(4, 4\)"),
        (lambda: attribution_overlay(torch.rand(4), torch.rand(2, 2)), ShapeError, r"got shape \(4,\)"),
        (lambda: attribution_overlay(torch.rand(2, 2), torch.full((2, 2), torch.nan)), NonFiniteError, "NaN"),
        (lambda: attribution_overlay(torch.rand(2, 2), torch.rand(2, 2), limit=0), OptionError, "above 0"),
        (lambda: attribution_overlay(torch.rand(2, 2), torch.rand(2, 2), opacity=2), OptionError, r"\[0, 1\]"),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()
