"""On a GPU: the same numbers, and few values for which Python waits."""

import warnings

import pytest
import torch
import torchvision

import lm_plugins as lm
from lm_plugins.testing import check_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def subject(name):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():  # the head of torchvision's ViT
            torch.nn.init.normal_(parameter, std=0.02)
    side = 224 if "vit" in name or "swin" in name else 96
    visible = torch.rand(2, side // 16, side // 16) < 0.5
    return model, torch.randn(2, 3, side, side), visible.repeat_interleave(16, 1).repeat_interleave(16, 2)


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "densenet121", "vit_b_16", "swin_t"])
def test_computes_the_same(name):
    model, x, visible = subject(name)
    model, x = model.double(), x.double()
    expected = lm.LayerMasked(model)(x, visible)
    got = lm.LayerMasked(model.cuda())(x.cuda(), visible.cuda()).cpu()
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["resnet18", "swin_t"])
def test_keeps_the_laws(name):
    model, x, visible = subject(name)
    assert check_model(model.cuda(), x.cuda(), visible.cuda()).is_bit_for_bit


def waits(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in caught)


def test_the_layers_of_a_transformer_seldom_wait():
    # Every layout of tokens asks where positions are, a hundred times a layer: of numbers that are on the host.
    for layers in (2, 8):
        network = torchvision.models.VisionTransformer(64, 16, layers, 2, 32, 64)
        masked = lm.LayerMasked(network.eval().cuda())
        x, visible = torch.randn(2, 3, 64, 64).cuda(), (torch.rand(2, 4, 4) < 0.5).cuda()
        visible = visible.repeat_interleave(16, 1).repeat_interleave(16, 2)
        with torch.inference_mode():
            masked(x, visible)
            assert waits(lambda masked=masked, x=x, visible=visible: masked(x, visible)) <= 10 + 2 * layers
