"""The reports as text: complete, escaped, and every number that of the table."""

import re
from html import unescape

import numpy as np
import pytest
import torch

from lm_plugins.audit import MEASURES, run_audit
from lm_plugins.features import grid
from lm_plugins.report import Example, audit_report, explanation_report
from lm_plugins.report.curves import charts
from lm_plugins.report.pictures import heat_map, photograph, ranks_picture
from lm_plugins.report.wording import measure_wording
from tests.cli.small_models import Classifier
from tests.report.conftest import audit_result, examples, explained

EVIL = "</script><script>alert(1)</script><img src=//evil.example/x.png>\"'&.png"


def without_data(page):
    return re.sub(r"data:image/[^\"]*", "", page)


def test_nothing_points_outside():
    pages = [
        audit_report(audit_result(), examples()),
        explanation_report([explained()], "occlusion", "slide a window", {"seed": 0}),
    ]
    for page in pages:
        assert re.findall(r"(?:https?:)?//[\w.]+", without_data(page).replace("// ", "")) == []
        assert not re.search(r"<(link|script|img|iframe|object)[^>]*(src|href)=\"(?!data:)", page)


def test_file_names_are_escaped_everywhere():
    pages = [
        audit_report(audit_result(), examples([EVIL]), {EVIL: EVIL}, {EVIL: EVIL}),
        explanation_report([explained(EVIL)], EVIL, EVIL, {EVIL: EVIL}, {EVIL: EVIL}),
    ]
    for page in pages:
        assert "alert(1)</script>" not in page
        assert "<img src=//evil" not in page
        assert EVIL in unescape(page)
        assert len(re.findall(r"<script>", page)) == 1  # the page's own


def test_every_mean_and_interval_of_the_summary_is_in_the_report():
    result = audit_result()
    page = audit_report(result)
    shown = {float(value) for value in re.findall(r'data-value="([-0-9.e]+)"', page)}
    for column in ("mean", "low", "high"):
        for value in result.summary[column]:
            assert value in shown
    for score in result.recommendation.scores.values():
        assert score in shown
    assert result.recommendation.reason in unescape(page)


def test_a_report_without_a_recommendation_and_without_curves():
    result = audit_result()
    table = result.table[result.table["measure"] == "colour_bias"]
    page = audit_report(type(result)(table, result.provenance))
    assert "This audit recommends no removal" in page
    assert "<figure" not in page
    assert "Colour bias" in page


def test_curves_lie_where_their_numbers_say():
    result = audit_result()
    chart = next(one for one in charts(result.summary, ["grey"]) if one.measure.name == "confidence")
    (line,) = chart.lines
    (x0, y0, _), (x1, y1, _), (x2, y2, text) = line.points
    assert x0 < x1 < x2
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.2)  # confidence falls linearly in the fixture
    assert y0 < y1 < y2  # down the page
    ticks = {float(text): place for place, text in chart.y_ticks}
    assert ticks[0.0] > y2
    assert text.startswith("grey, 60% removed: 0.600 (")


@pytest.mark.parametrize("top", [0.003, 0.2, 0.9, 1.0, 3.4, 6.9, 70.0])
def test_charts_of_any_scale_have_a_few_round_ticks_around_the_values(top):
    result = audit_result()
    summary = result.summary[result.summary["measure"] == "confidence"].copy()
    for column in ("mean", "low", "high"):
        summary[column] = np.linspace(0.1, 1.0, len(summary)) * top
    (chart,) = charts(summary, ["grey", "layer_masking"])
    ticks = [float(text) for _, text in chart.y_ticks]
    assert 3 <= len(ticks) <= 11
    assert ticks[0] == 0
    assert ticks[-1] >= top * 0.999
    places = [y for line in chart.lines for _, y, _ in line.points]
    assert min(place for place, _ in chart.y_ticks) - 0.2 <= min(places)


def test_negative_values_have_room():
    result = audit_result()
    summary = result.summary[result.summary["measure"] == "confidence"].copy()
    for column in ("mean", "low", "high"):
        summary[column] -= 0.7
    (chart,) = charts(summary, ["grey", "layer_masking"])
    assert float(chart.y_ticks[0][1]) <= summary["low"].min()


def test_examples_survive_json():
    (one,) = examples()
    assert Example.from_dict(one.as_dict()) == one
    assert [(step.removal, step.fraction) for step in one.steps] == [
        ("grey", 0.3), ("grey", 0.6), ("layer_masking", 0.3), ("layer_masking", 0.6),
    ]  # fmt: skip


def test_pictures():
    assert photograph(torch.rand(3, 8, 8)).startswith("data:image/webp;base64,")
    assert photograph(torch.rand(1, 8, 8), side=4).startswith("data:image/webp;base64,")
    assert heat_map(torch.randn(8, 8), 1.0).startswith("data:image/png;base64,")
    assert ranks_picture(torch.rand(8, 8)).startswith("data:image/png;base64,")


def test_a_heat_map_is_red_blue_and_transparent():
    import base64
    import io

    from PIL import Image

    uri = heat_map(torch.tensor([[1.0, -1.0, 0.0, 9.0]]), 1.0)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))[0]
    assert pixels[0].tolist() == pixels[3].tolist() == [178, 24, 43, 255]
    assert pixels[1].tolist() == [33, 102, 172, 255]
    assert pixels[2, 3] == 0


def test_every_measure_that_the_audit_runs_is_explained():
    result = run_audit(
        Classifier().eval(),
        torch.rand(3, 3, 32, 32),
        removals=("grey", "black"),
        features={"quarters": lambda image: grid((32, 32), 8)},
        orders=("random",),
        fractions=(0.5,),
        measures=tuple(MEASURES),
        regions=[torch.eye(32) == 1] * 3,
        class_similarity=torch.eye(3),
        labels=[0, 1, 2],
        lime_samples=20,
        progress=False,
    )
    found = set(result.summary["measure"])
    assert len(found) >= 12
    assert [name for name in found if not measure_wording(name).meaning] == []
    assert audit_report(result).count("<figure") >= 4
