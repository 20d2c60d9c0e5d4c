"""On a GPU, Python must not wait for numbers: no operation whose shape or flow depends on a value may be called."""

import pytest
import torch
import torchvision
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

import lm_plugins as lm
from lm_plugins.masking import run_masked
from lm_plugins.testing import as_on_accelerator

MODELS = (
    "resnet18 resnet50 vgg11 densenet121 mobilenet_v3_small efficientnet_b0 convnext_tiny googlenet inception_v3 "
    "squeezenet1_1 shufflenet_v2_x0_5 mnasnet0_5 regnet_y_400mf alexnet"
).split()


@pytest.fixture
def elsewhere():
    """Regions that pretend to be on another device."""
    with as_on_accelerator():
        yield


@pytest.mark.parametrize("name", MODELS)
def test_no_layer_waits_for_the_device(name, elsewhere):
    lazily = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, weights=None, **lazily).eval()
    # Fake tensors have shapes and no values: reading one is an error.
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        output = run_masked(model, torch.randn(2, 3, 96, 96), torch.rand(2, 96, 96) < 0.5, lm.MaskingOptions())
    assert output.shape == (2, 1000)


def test_fake_tensors_notice_the_road_for_the_host():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1)).eval()
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.inference_mode(),
        pytest.raises((DataDependentOutputException, DynamicOutputShapeException)),
    ):
        run_masked(model, torch.randn(2, 3, 32, 32), torch.rand(2, 32, 32) < 0.5, lm.MaskingOptions())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "convnext_tiny"])
def test_a_gpu_computes_the_same(name):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    x, visible = torch.randn(2, 3, 96, 96), (torch.rand(2, 6, 6) < 0.5)
    visible = visible.repeat_interleave(16, 1).repeat_interleave(16, 2)
    with torch.inference_mode():
        expected = lm.LayerMasked(model)(x, visible)
        got = lm.LayerMasked(model.cuda())(x.cuda(), visible.cuda()).cpu()
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-2 * expected.abs().max().item())
