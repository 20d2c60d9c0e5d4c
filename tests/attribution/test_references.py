"""Every method against its definition, written down as loops."""

import pytest
import torch

from lm_plugins.attribution import RISE, SISE, AdaSISE, IntegratedGradCam, random_masks
from lm_plugins.removal import Colour
from tests.references import explanation

LAYERS = ["1", "5", "8"]


def layers_of(model, names=LAYERS):
    return [model.get_submodule(name) for name in names]


@pytest.mark.parametrize(
    ("fusion", "factor", "weight"), [("soft", 1.0, 1.0), ("soft", 1.5, 0.4), ("hard", 1.5, 1.0), ("simple", 1.0, 1.6)]
)
@pytest.mark.parametrize(("method", "adaptive"), [(SISE, False), (AdaSISE, True)])
@pytest.mark.parametrize("black", [0.0, -1.5])
def test_sise(model, x, method, adaptive, fusion, factor, weight, black):
    ours = method(
        model, removal=Colour(black), fusion=fusion, otsu_factor=factor, weight=weight, output="logits", batch_size=5
    )
    assert ours.layers_for(x) == LAYERS
    result = ours.attribute(x, target=[1, 3])
    for i, target in enumerate((1, 3)):
        expected, _ = explanation.sise(
            model, layers_of(model), x[i : i + 1], target, black, 0.0, adaptive, fusion, factor, weight
        )
        torch.testing.assert_close(result[i, 0], expected, atol=1e-5, rtol=0)
        assert float(expected.std()) > 0.01


def test_sise_with_mu(model, x):
    result = SISE(model, removal="grey", mu=0.5, output="logits").attribute(x[:1], target=1)
    expected, fewer = explanation.sise(model, layers_of(model), x[:1], 1, mu=0.5)
    _, all_of_them = explanation.sise(model, layers_of(model), x[:1], 1)
    assert 0 < fewer < all_of_them
    torch.testing.assert_close(result[0, 0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("relu", ["per_step", "final", None])
@pytest.mark.parametrize("subtract", [True, False])
def test_integrated_grad_cam(model, x, relu, subtract):
    for name in LAYERS:
        cam = IntegratedGradCam(model, name)
        result = cam.attribute(
            x, target=torch.tensor([1, 3]), baselines=-0.5, n_steps=5, relu=relu, subtract_baseline=subtract,
            internal_batch_size=3,
        )  # fmt: skip
        for i, target in enumerate((1, 3)):
            expected = explanation.integrated_grad_cam(
                model, model.get_submodule(name), x[i : i + 1], target, 5, -0.5, subtract, relu
            )
            torch.testing.assert_close(result[i, 0], expected, atol=1e-5, rtol=0)


def test_rise(model, x):
    masks = torch.cat(list(random_masks((20, 16), 40, cells=3, probability=0.4, seed=5))).double()
    result, error = RISE(model, removal="grey", output="logits", batch_size=7).attribute(
        x, target=[0, 2], n_masks=40, cells=3, probability=0.4, seed=5, return_standard_error=True
    )
    for i, target in enumerate((0, 2)):
        expected, expected_error = explanation.rise(model, masks, x[i : i + 1], target, 0.4)
        torch.testing.assert_close(result[i, 0], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(error[i, 0], expected_error, atol=1e-5, rtol=0)


def test_random_masks():
    masks = torch.cat(list(random_masks((13, 17), 6, cells=4, probability=0.5, seed=3, batch_size=4)))
    generator = torch.Generator().manual_seed(3)
    grids = (torch.rand(6, 4, 4, generator=generator) < 0.5).double()
    down = torch.randint(4, (6,), generator=generator).tolist()
    across = torch.randint(5, (6,), generator=generator).tolist()
    for mask, grid, i, j in zip(masks, grids, down, across, strict=True):
        torch.testing.assert_close(mask, explanation.rise_mask(grid, i, j, (13, 17)), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "adaptive"), [(SISE, False), (AdaSISE, True)])
def test_sise_on_efficientnet(efficientnet, photograph, method, adaptive):
    names = ["_blocks.2", "_blocks.4"]
    result = method(efficientnet, names, removal="grey", output="logits").attribute(photograph, target=967)
    expected, passes = explanation.sise(
        efficientnet, layers_of(efficientnet, names), photograph, 967, adaptive=adaptive
    )
    assert passes > 5
    torch.testing.assert_close(result[0, 0], expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_rise_and_integrated_grad_cam_on_efficientnet(efficientnet, photograph):
    masks = torch.cat(list(random_masks((224, 224), 12, seed=1))).double()
    result = RISE(efficientnet, output="logits").attribute(photograph, target=967, n_masks=12, seed=1)
    expected, _ = explanation.rise(efficientnet, masks, photograph, 967, 0.5)
    torch.testing.assert_close(result[0, 0], expected, atol=1e-5, rtol=0)
    cam = IntegratedGradCam(efficientnet, "_swish").attribute(photograph, target=967, n_steps=6)
    expected = explanation.integrated_grad_cam(efficientnet, efficientnet._swish, photograph, 967, 6)
    assert float(expected.max()) > 0.1
    torch.testing.assert_close(cam[0, 0], expected, atol=1e-5, rtol=0)
