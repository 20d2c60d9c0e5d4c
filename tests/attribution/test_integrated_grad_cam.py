"""Laws of Integrated Grad-CAM."""

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from lm_plugins.attribution import OFFICIAL_DEMO, IntegratedGradCam
from lm_plugins.errors import InputTypeError, LayerError, OptionError, ShapeError
from tests.references import explanation


@pytest.mark.parametrize("relu", [True, False])
def test_one_step_at_the_input_is_grad_cam(model, x, relu):
    for layer in (model[1], model[5], model[8]):
        expected = LayerGradCam(model, layer).attribute(x, target=2, relu_attributions=relu)
        settings = {"n_steps": 1, "method": "riemann_right", "relu": "per_step" if relu else None}
        # Without subtraction the activation of the baseline counts as zero.
        ours = IntegratedGradCam(model, layer).attribute(x, target=2, subtract_baseline=False, **settings)
        torch.testing.assert_close(ours, expected)


def test_one_step_where_the_baseline_activates_nothing(x):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    model = model.double().eval()
    ours = IntegratedGradCam(model, "1").attribute(x, target=1, n_steps=1, relu=None)
    torch.testing.assert_close(ours, LayerGradCam(model, model[1]).attribute(x, target=1))


@pytest.mark.parametrize("method", ["riemann_left", "riemann_right", "riemann_trapezoid"])
def test_the_path_integral_is_complete_for_a_model_linear_after_the_layer(model, x, method):
    # After the last ReLU come an average and a linear layer.
    cam = IntegratedGradCam(model, "8")
    total = cam.attribute(
        x, target=1, baselines=0.3, n_steps=3, method=method, relu=None, integral="riemann_stieltjes"
    ).sum((1, 2, 3))
    with torch.no_grad():
        difference = model(x)[:, 1] - model(torch.full_like(x, 0.3))[:, 1]
    torch.testing.assert_close(total, difference)


def test_the_path_integral_becomes_complete_with_many_steps(model, x):
    cam = IntegratedGradCam(model, "1")
    with torch.no_grad():
        difference = model(x)[:, 1] - model(torch.zeros_like(x))[:, 1]
    errors = []
    for steps in (4, 400):
        maps = cam.attribute(
            x, 1, n_steps=steps, method="riemann_trapezoid", relu=None, integral="riemann_stieltjes",
            internal_batch_size=64,
        )  # fmt: skip
        errors.append(float((maps.sum((1, 2, 3)) - difference).abs().max()))
    assert errors[1] < 0.02 * float(difference.abs().max())
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    "method", ["riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid", "gausslegendre"]
)
def test_all_rules_tend_to_one_integral(model, x, method):
    cam = IntegratedGradCam(model, "5")
    fine = cam.attribute(x, target=0, n_steps=300, method="riemann_middle")
    torch.testing.assert_close(cam.attribute(x, target=0, n_steps=150, method=method), fine, atol=0.02, rtol=0.05)


def test_the_demo_sums_the_left_rule_without_subtraction(model, x):
    assert OFFICIAL_DEMO["n_steps"] == 50
    ours = IntegratedGradCam(model, "8").attribute(x[:1], target=1, **{**OFFICIAL_DEMO, "n_steps": 4})
    total = 0
    for i in range(4):
        maps, gradients = explanation.maps_and_gradients(model, model[8], x[:1] * i / 4, lambda output: output[0, 1])
        total = total + sum(gradients[k].mean() * maps[k] for k in range(len(maps))).clamp(min=0)
    torch.testing.assert_close(ours[0, 0], total)


def test_batches_arguments_and_interpolation(model, x):
    cam = IntegratedGradCam(model, "5")
    whole = cam.attribute(x, target=[0, 1], n_steps=7)
    for size in (1, 4, 100):
        torch.testing.assert_close(cam.attribute(x, target=[0, 1], n_steps=7, internal_batch_size=size), whole)
    torch.testing.assert_close(cam.attribute(x[1:], target=1, n_steps=7), whole[1:])
    assert cam.interpolate(whole, (20, 16), "bilinear").shape == (2, 1, 20, 16)
    scaled = IntegratedGradCam(
        lambda x, scale: {"out": model(x) * scale[:, None]}, model[5], lambda found: found["out"]
    )
    scale = torch.tensor([2.0, 3.0], dtype=torch.float64)
    both = scaled.attribute(x, target=[0, 1], additional_forward_args=scale, n_steps=7, internal_batch_size=3)
    torch.testing.assert_close(both, whole * scale[:, None, None, None])


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"n_steps": 0}, OptionError, "n_steps is a whole number of at least 1, got 0"),
        ({"method": "simpson"}, OptionError, "method is one of 'riemann_left'.*got 'simpson'"),
        ({"method": "riemann_trapezoid", "n_steps": 1}, OptionError, "needs at least 2 steps"),
        ({"relu": "always"}, OptionError, "'per_step', 'final' or None, got 'always'"),
        ({"integral": "lebesgue"}, OptionError, "'riemann_stieltjes'; got 'lebesgue'"),
        ({"integral": "riemann_stieltjes", "method": "gausslegendre"}, OptionError, "Riemann-Stieltjes sum takes"),
        ({"internal_batch_size": 0}, OptionError, "at least 1, or None; got 0"),
        ({"baselines": "black"}, InputTypeError, "number, a tensor or None, got str"),
        ({"baselines": torch.zeros(5)}, ShapeError, r"\(5,\), which does not broadcast"),
    ],
)
def test_bad_options(model, x, settings, error, text):
    with pytest.raises(error, match=text):
        IntegratedGradCam(model, "8").attribute(x, target=0, **settings)


def test_a_function_needs_the_module_itself(model):
    with pytest.raises(LayerError, match="pass the module itself"):
        IntegratedGradCam(lambda x: model(x), "8")
