"""The pieces of the speed benchmark do what its tables say; nothing is measured here."""

import json

import pytest
import torch
from torch import nn

import lm_plugins as lm
from benchmarks.speed import explainers, forward, memory, subjects
from benchmarks.speed.__main__ import counted, main
from benchmarks.speed.explainers import OVERHEAD_ROADS, ROADS, Explained, Trivial, samples_of
from benchmarks.speed.figure import draw
from benchmarks.speed.goals import SAMPLED, Goal, goals
from benchmarks.speed.published_style import PublishedStyle, filled
from benchmarks.speed.settings import Settings
from benchmarks.speed.tables import document
from benchmarks.speed.timing import exponent, paired, ratio, summary
from tests.references import filling

CPU = torch.device("cpu")
SETTINGS = Settings(CPU, threads=1, models=("ResNet-50",), rounds=2)


def photographs(count, device, side=224):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)).to(device)


@pytest.fixture
def toy_images(monkeypatch):
    for module in (explainers, forward):
        monkeypatch.setattr(module, "images", photographs)


def test_paired_functions_take_turns():
    calls, steps = [], []
    seconds = paired(
        {name: lambda name=name: calls.append(name) for name in "abc"}, 4, CPU, advance=lambda: steps.append(1)
    )
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert {name: len(one) for name, one in seconds.items()} == {"a": 4, "b": 4, "c": 4}
    assert all(one >= 0 for values in seconds.values() for one in values)
    assert len(steps) == 15


def test_ratios_are_of_the_same_round():
    assert summary([3.0, 1.0, 2.0]) == {"median": 2.0, "lower": 1.5, "upper": 2.5}
    assert ratio([1.0, 20.0, 3.0], [1.0, 10.0, 1.0])["median"] == 2.0  # that of the medians is 3


def test_exponent_of_power_laws():
    sizes = [1, 2, 4, 8]
    assert exponent(sizes, [5.0 * size for size in sizes]) == pytest.approx(1)
    assert exponent(sizes, [0.1 * size**2 for size in sizes]) == pytest.approx(2)


@pytest.mark.parametrize(
    ("relation", "measured", "reached"),
    [("<=", 1.0, True), ("<=", 1.01, False), (">=", 1.0, True), (">=", 0.99, False), ("<=", None, None)],
)
def test_goal(relation, measured, reached):
    assert Goal("what", relation, 1.0, measured).reached is reached


def row(model="ResNet-50", batch=16, prepared=0.9, unprepared=1.1, **changes):
    def over(value):
        return {one: summary([value]) for one in forward.PLAIN}

    seconds = {one: summary([1.0]) for one in (*forward.PLAIN, *forward.MASKED)}
    made = {"model": model, "batch": batch, "features": "patches", "visible": 0.5, "seconds": seconds}
    return made | {"prepared": over(prepared), "unprepared": over(unprepared)} | changes


def test_goals_name_the_worst_case():
    rows = [
        row(),
        row(batch=8, visible=0.1, prepared=1.3),
        row(batch=1, prepared=9.0),
        {"model": "Net", "not covered": "x"},
    ]
    found = {one["what"]: one for one in goals({"forward": rows})}
    assert found["ResNet-50, batch 16, half of the patches: prepared / plain channels-last"]["reached"] is True
    assert found["ResNet-50, batch 16, half of the patches: unprepared / plain channels-last"]["reached"] is False
    worst = found["ResNet-50: prepared / plain channels-last, worst case"]
    assert (worst["measured"], worst["reached"], worst["where"]) == (1.3, False, "batch 8, 10% of the patches visible")
    assert found["Net: prepared / plain channels-last, worst case"]["where"] == "not covered"
    assert found["KernelShap: ours / upstream with grey"]["reached"] is None


def test_goals_of_the_other_sections():
    sections = {
        "reference": {"rows": [{"road": "ours, published options, prepared", "times faster": summary([3.2])}]},
        "explainers": {"rows": [{"explainer": "Lime", "against grey": {road: summary([0.8]) for road in ROADS},
                                 "overhead": {road: summary([0.2]) for road in OVERHEAD_ROADS}}]},
        "memory": {"rows": [{"model": "A", "plain": 10, "unprepared": 11, "prepared": 13}]},
        "growth": {"batch": {"exponent": {"plain": 2.0, "prepared": 1.0}}},
    }  # fmt: skip
    found = {one["what"]: (one["measured"], one["reached"]) for one in goals(sections)}
    assert found["ResNet-50: published-style filling / ours prepared, the same function"] == (3.2, True)
    assert found["Lime: ours / upstream with grey"] == (0.8, True)
    assert found["Lime: ms for each sample outside of the model, masking a trivial one included"] == (0.2, False)
    assert found["Lime: ms for each sample outside of the model, the explainer alone"] == (0.2, False)
    assert found["peak memory: prepared / plain channels-last, worst model"] == (1.3, False)
    assert found["cost against the size of the batch: exponent (1 is linear)"] == (1.0, True)
    assert found["cost against the number of samples: exponent (1 is linear)"] == (None, None)


def test_forward_of_a_toy_model(toy_images):
    model = nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    steps = []
    rows = forward.compared(model, "toy", {2: [("patches", 0.5), ("patches", 0.1)]}, SETTINGS, lambda: steps.append(1))
    assert [(one["batch"], one["visible"]) for one in rows] == [(2, 0.5), (2, 0.1)]
    assert set(rows[0]["seconds"]) == {*forward.PLAIN, *forward.MASKED}
    assert set(rows[0]["prepared"]) == set(forward.PLAIN)
    assert len(steps) == 5 + forward.rounds_for(2, SETTINGS) * 7


def test_forward_says_what_is_not_covered(toy_images):
    class Unknown(nn.Module):
        def forward(self, x):
            return torch.fft.fft2(x).real.mean((2, 3))

    rows = forward.compared(Unknown().eval(), "toy", {1: [("patches", 0.5)]}, SETTINGS, lambda: None)
    assert list(rows[0]) == ["model", "not covered"]


@pytest.mark.parametrize("settings", [SETTINGS, Settings(CPU, 1, tuple(subjects.MODELS), quick=True)])
def test_progress_bars_know_their_length(settings):
    for name in ("forward", "reference", "explainers", "memory", "growth"):
        assert counted(name, settings) > 0


def test_share_of_features_that_is_visible():
    visible = subjects.visible_part("patches", 0.25, 3, CPU, seed=0)
    assert visible.shape == (3, 224, 224)
    assert visible.float().mean((1, 2)).tolist() == [0.25] * 3
    assert not torch.equal(visible[0], visible[1])


def test_random_weights_keep_activations_in_range():
    model = subjects.random_weights(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), seed=0)
    again = subjects.random_weights(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), seed=0)
    output = model(torch.randn(2, 3, 16, 16))
    assert not model.training
    assert 0.1 < float(output.detach().std()) < 10
    assert torch.equal(model[0].weight, again[0].weight)


def test_published_filling_is_that_of_the_slow_reference():
    values, known = torch.randn(1, 2, 5, 6, dtype=torch.float64), torch.rand(1, 5, 6) < 0.4
    expected, _ = filling.fill(values * known[:, None], known, epsilon=1e-5, count=2)
    torch.testing.assert_close(filled(values, known[:, None].double(), 2), expected)


def test_published_style_computes_the_published_function():
    from torchvision.models.resnet import Bottleneck, ResNet

    model = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=5).eval().double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    visible = torch.rand(2, 8, 8).lt(0.5).repeat_interleave(8, 1).repeat_interleave(8, 2)
    with torch.inference_mode():
        got = PublishedStyle(model)(x, visible)
        expected = lm.LayerMasked(model, lm.published("resnet50"))(x, visible)
        everything = PublishedStyle(model)(x, torch.ones_like(visible))
        plain = model(x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(everything, plain, rtol=1e-6, atol=1e-8)
    assert not torch.allclose(got, plain, rtol=1e-2)


# SHAP compiles for half a minute before it starts.
@pytest.mark.parametrize(
    "name",
    [
        *("KernelShap", "Lime", "lime_image"),
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("FeatureAblation", "Occlusion", "SHAP Partition")),
    ],
)
@pytest.mark.filterwarnings("ignore")  # upstream's own
def test_every_explainer_runs_on_all_roads(name, toy_images):
    explained = Explained(Trivial().eval(), {name: 8}, SETTINGS)
    found = {road: explained.run(name, road) for road in {*ROADS, *OVERHEAD_ROADS}}
    assert None not in found.values()
    if name in ("FeatureAblation", "Occlusion", "KernelShap"):
        # The samples are the same ones, so that the explanations are.
        torch.testing.assert_close(found["ours"], found["upstream, sentinel"], rtol=1e-3, atol=1e-4)
        assert not torch.allclose(found["ours"], found["upstream, grey"], rtol=1e-3, atol=1e-4)


def test_explainers_of_a_full_run():
    assert set(SAMPLED) <= set(samples_of(SETTINGS))
    assert set(samples_of(Settings(CPU, 1, (), quick=True))) <= set(samples_of(SETTINGS))


@pytest.mark.skipif(not memory._CLEAR.exists(), reason="needs the high-water mark of Linux")
def test_peak_counts_what_is_allocated_and_freed():
    size = 64 * 2**20
    assert 0.9 * size < memory.peak(lambda: torch.ones(size // 4).sum(), CPU) < 1.2 * size


def test_tables_and_figure_of_an_earlier_run(tmp_path, capsys):
    sections = {
        "forward": [row(), {"model": "Net", "not covered": "no rule"}],
        "memory": {"batch": 8, "rows": [{"model": "A", "plain": 2**20, "unprepared": 2**21, "prepared": 2**20}]},
    }
    record = {
        "command": "python -m benchmarks.speed", "date": "2026-01-01", "minutes": 1.0, "versions": {"python": "3"},
        "machine": {"processor": "CPU", "cores": 2, "threads": 1, "load before": 0.1},
        "settings": {"quick": False}, "sections": sections, "goals": goals(sections),
    }  # fmt: skip
    text = document(record)
    assert "GPU: not measured" in text
    assert "not covered: no rule" in text
    assert "| A | 1 | 2 | 1 | 2.00 | 1.00 |" in text
    (tmp_path / "given.json").write_text(json.dumps(record))
    main(["--tables", str(tmp_path / "given.json"), "--out", str(tmp_path)])
    assert text in capsys.readouterr().out
    assert (tmp_path / "speed.md").read_text() == text
    assert (tmp_path / "speed.png").stat().st_size > 10_000
    draw({}, tmp_path / "nothing.png")
    assert not (tmp_path / "nothing.png").exists()


@pytest.mark.parametrize("wrong", [["--only", "a,z"], ["--models", "ResNet-51"]])
def test_mistakes_on_the_command_line(wrong, capsys):
    with pytest.raises(SystemExit):
        main(wrong)
    assert wrong[1][-1] in capsys.readouterr().err
