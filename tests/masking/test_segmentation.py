"""Models that end in maps: torchvision's segmentation networks, unmodified."""

import pytest
import torch
from torchvision.models import segmentation

import lm_plugins as lm
from lm_plugins.captum import FeatureAblation
from lm_plugins.features import grid
from lm_plugins.testing import check_model

NAMES = ["fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"]


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(0)
    build = getattr(segmentation, request.param)
    return build(weights=None, weights_backbone=None, num_classes=5).eval()


@pytest.mark.slow
def test_the_laws_hold(model: torch.nn.Module) -> None:
    check_model(model, torch.randn(2, 3, 64, 64), gradients=False)


def test_maps_are_ordinary_tensors_with_zero_where_hidden(model: torch.nn.Module) -> None:
    x, visible = torch.randn(1, 3, 96, 96), torch.ones(96, 96, dtype=torch.bool)
    visible[:, 48:] = False
    with torch.no_grad():
        out = lm.LayerMasked(model)(x, visible)["out"]
    assert type(out) is torch.Tensor
    assert out.shape == (1, 5, 96, 96)
    is_zero = (out == 0).all(1)[0]
    assert is_zero[:, 88:].all()  # a map of six positions a side: two of them are computed from visible neighbours
    assert not is_zero[:, :32].any()


def test_captum_explains_a_class_of_the_map() -> None:
    torch.manual_seed(0)
    model = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5).eval()
    explainer = FeatureAblation(model, output=lambda result: result["out"].mean((2, 3)))
    values = explainer.attribute(torch.randn(1, 3, 64, 64), feature_mask=grid((64, 64), 32), target=3)
    assert values.shape == (1, 3, 64, 64)
    assert values.abs().max() > 0
