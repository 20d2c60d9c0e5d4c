"""CAMs and gradient methods of other libraries on a masked image: right where it is visible, zero where it is hidden."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum import attr
from torch import Tensor, nn

import lm_plugins as lm
from lm_plugins.errors import MaskValueError, UnsupportedOperatorError

X = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
VISIBLE = torch.ones(2, 16, 16, dtype=torch.bool)
VISIBLE[0, :8, :8] = False
VISIBLE[1, 6:, 4:12] = False
PAINTED = X.masked_fill(~VISIBLE[:, None], lm.MASKED)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip


def maps_and_gradients(model: nn.Sequential, target: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """By hand: the maps of the last ReLU, the gradients of the target, and what is visible there."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Tensor, output: Tensor) -> None:
        output.requires_grad_() if not output.requires_grad else None
        output.retain_grad()
        kept.append(output)

    handle = model[4].register_forward_hook(keep)
    lm.LayerMasked(model, verify=False)(X, VISIBLE)[:, target].sum().backward()
    handle.remove()
    region = kept[0].visibility.visible.positions
    return kept[0].ordinary().detach(), kept[0].grad.masked_fill(~region[:, None], 0.0), region


# ---- Captum ----------------------------------------------------------------------------------------------------------------

LAYERS = {
    "LayerActivation": {}, "LayerGradCam": {"target": 1}, "LayerGradientXActivation": {"target": 1},
    "LayerConductance": {"target": 1, "n_steps": 4}, "LayerIntegratedGradients": {"target": 1, "n_steps": 4},
    "InternalInfluence": {"target": 1, "n_steps": 4}, "LayerFeatureAblation": {"target": 1}, "LayerDeepLift": {"target": 1},
}  # fmt: skip
INPUTS = {
    "Saliency": {}, "InputXGradient": {}, "IntegratedGradients": {"n_steps": 4}, "DeepLift": {}, "GuidedBackprop": {},
    "Deconvolution": {},
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_captums_layer_methods(name: str) -> None:
    model = network()
    region = maps_and_gradients(model)[2]
    method = getattr(attr, name)(lm.LayerMasked(model), model[4])
    found = method.attribute(X, additional_forward_args=VISIBLE, **LAYERS[name])
    found = found[0] if isinstance(found, tuple) else found
    assert found.shape[-2:] == (8, 8)
    assert not found.masked_select(~region[:, None]).any()
    assert found.abs().amax((1, 2, 3)).min() > 0


def test_captums_grad_cam_is_the_formula() -> None:
    model = network()
    maps, gradients, region = maps_and_gradients(model)
    found = attr.LayerGradCam(lm.LayerMasked(model), model[4]).attribute(X, 1, additional_forward_args=VISIBLE)
    expected = (gradients.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True)
    torch.testing.assert_close(found, expected)
    painted = attr.LayerGradCam(lm.LayerMasked(model), model[4]).attribute(PAINTED, 1)
    torch.testing.assert_close(painted, expected)
    assert not expected.masked_select(~region[:, None]).any()


@pytest.mark.filterwarnings("ignore:Setting")
@pytest.mark.parametrize("name", INPUTS)
def test_captums_gradients_of_pixels(name: str) -> None:
    method = getattr(attr, name)(lm.LayerMasked(network()))
    found = method.attribute(X.clone().requires_grad_(), target=1, additional_forward_args=VISIBLE, **INPUTS[name])
    assert not found.masked_select(~VISIBLE[:, None]).any()
    assert found.abs().amax((1, 2, 3)).min() > 0
    other = X.masked_fill(~VISIBLE[:, None], 0.5)
    again = method.attribute(other.requires_grad_(), target=1, additional_forward_args=VISIBLE, **INPUTS[name])
    torch.testing.assert_close(again, found)  # hidden pixels do not matter


def test_noise_goes_with_a_mask_and_is_refused_on_paint() -> None:
    tunnel = attr.NoiseTunnel(attr.Saliency(lm.LayerMasked(network())))
    torch.manual_seed(0)
    found = tunnel.attribute(
        X.clone().requires_grad_(), nt_samples=3, stdevs=0.1, target=1, additional_forward_args=VISIBLE
    )
    assert not found.masked_select(~VISIBLE[:, None]).any()
    for stdevs in (0.1, 1.0):
        with pytest.raises(MaskValueError, match=r"as if noise was added|almost equal"):
            tunnel.attribute(PAINTED.clone().requires_grad_(), nt_samples=3, stdevs=stdevs, target=1)


@pytest.mark.parametrize("name", ["IntegratedGradients", "GradientShap"])
def test_paths_from_a_baseline_take_a_mask_and_refuse_paint(name: str) -> None:
    method, more = getattr(attr, name)(lm.LayerMasked(network())), {"baselines": torch.zeros(1, 3, 16, 16)}
    found = method.attribute(X, target=1, additional_forward_args=VISIBLE, **more)
    assert not found.masked_select(~VISIBLE[:, None]).any()
    with pytest.raises(MaskValueError, match="pass the mask itself"):
        method.attribute(PAINTED, target=1, **more)


# ---- pytorch-grad-cam ------------------------------------------------------------------------------------------------------

cams = pytest.importorskip("pytorch_grad_cam", reason="pip install grad-cam")
CAMS = (
    "GradCAM HiResCAM ScoreCAM GradCAMPlusPlus XGradCAM EigenCAM LayerCAM RandomCAM GradCAMElementWise KPCA_CAM ShapleyCAM "
    "FinerCAM"
).split()


def targets() -> list[object]:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    return [ClassifierOutputTarget(1)] * 2


# ScoreCAM darkens images by its maps, down to 0.
@pytest.mark.filterwarnings("ignore:.*exactly 0, and none equals:lm_plugins.errors.ExplanationWarning")
@pytest.mark.parametrize("name", CAMS)
def test_cams_are_zero_where_nothing_is_visible(name: str) -> None:
    model = network()
    region = maps_and_gradients(model)[2]
    with getattr(cams, name)(model=lm.LayerMasked(model), target_layers=[model[4]]) as cam:
        found = torch.from_numpy(cam(input_tensor=PAINTED, targets=targets()))
    assert found.shape == (2, 16, 16)
    # Resized from 8 x 8: what is hidden, and not beside what is visible, is 0.
    hidden = F.interpolate((~region)[:, None].float(), size=(16, 16), mode="bilinear")[:, 0] == 1
    assert hidden.any()
    assert found[hidden].abs().max() < 1e-6
    assert found.amax() > 0.9


def test_grad_cam_is_the_formula() -> None:
    from pytorch_grad_cam.utils.image import scale_cam_image

    model = network()
    maps, gradients, _ = maps_and_gradients(model)
    with cams.GradCAM(model=lm.LayerMasked(model), target_layers=[model[4]]) as cam:
        found = cam(input_tensor=PAINTED, targets=targets())
    expected = (gradients.mean((2, 3), keepdim=True) * maps).sum(1).clamp(min=0)
    np.testing.assert_allclose(found, scale_cam_image(scale_cam_image(expected.numpy(), (16, 16))), atol=1e-5)


def test_ablation_cam_says_what_to_do() -> None:
    model = network()
    with (
        cams.AblationCAM(model=lm.LayerMasked(model), target_layers=[model[4]]) as cam,
        pytest.raises(UnsupportedOperatorError, match=r"replays activations.*LayerFeatureAblation"),
    ):
        cam(input_tensor=PAINTED, targets=targets())


@pytest.mark.filterwarnings("ignore:__array_wrap__")
def test_road_agrees_with_noisy_linear_imputation() -> None:
    """ROAD's imputation without noise is our removal without noise."""
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    from lm_plugins.removal import NoisyLinear

    theirs = NoisyLinearImputer(noise=0.0)(X[0], VISIBLE[0].float())
    seen: list[Tensor] = []
    ours = NoisyLinear(noise=0.0)(_Watching(seen).eval())
    ours(X[:1], VISIBLE[:1])
    torch.testing.assert_close(seen[-1][0].float(), theirs.float(), atol=1e-4, rtol=1e-4)


class _Watching(nn.Module):
    def __init__(self, seen: list[Tensor]) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x.mean((2, 3))
