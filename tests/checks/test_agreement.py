"""Model, images and mask that do not fit in device, dtype or channels: errors that say which is where, and what to do."""

import pytest
import torch
from torch import nn

import lm_plugins as lm
from lm_plugins import errors
from lm_plugins.removal import as_removal

VISIBLE = torch.rand(8, 10, generator=torch.Generator().manual_seed(0)) > 0.5


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 10)


@pytest.mark.parametrize(
    ("what", "where"),
    [
        ("the model", "the model on meta, the images on cpu, visible on cpu"),
        ("the images", "the model on cpu, the images on meta, visible on cpu"),
        ("visible", "the model on cpu, the images on cpu, visible on meta"),
    ],
)
def test_the_meta_device(what, where, x):
    model, visible = network(), VISIBLE
    if what == "the model":
        model = model.to("meta")
    elif what == "the images":
        x = x.to("meta")
    else:
        visible = visible.to("meta")
    with pytest.raises(errors.InputTypeError) as caught:
        lm.LayerMasked(model)(x, visible)
    assert f"got {where}" in str(caught.value)
    assert f"load {what} on the device" in str(caught.value)
    if what == "the model":
        with pytest.raises(errors.InputTypeError, match="the model on meta, the images on cpu"):
            lm.LayerMasked(model)(x)


@pytest.mark.parametrize("hidden", [False, True])
def test_devices(hidden, x):
    class Elsewhere(nn.Module):
        """Behaves as a model on another device does, without needing one."""

        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()
            self.register_buffer("table", torch.zeros(1, device="meta"))

        def forward(self, x):
            raise RuntimeError("Expected all tensors to be on the same device")

    message = r"the images are on cpu, the model on meta: .*x\.to\('meta'\) or model\.to\('cpu'\).*Expected all tensors"
    with pytest.raises(errors.InputTypeError, match=message):
        lm.LayerMasked(Elsewhere().eval())(x, VISIBLE if hidden else None)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize(("images", "weights"), [("float32", "bfloat16"), ("float64", "float32")])
def test_dtypes(images, weights, hidden, x):
    model = network().to(getattr(torch, weights))
    x = x.to(getattr(torch, images))
    message = rf"the images are torch\.{images}, the model torch\.{weights}: .*x\.to\(torch\.{weights}\).*autocast"
    with pytest.raises(errors.InputTypeError, match=message) as caught:
        lm.LayerMasked(model)(x, VISIBLE if hidden else None)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_dtypes_that_fit(x):
    for dtype in (torch.float64, torch.bfloat16):
        assert lm.LayerMasked(network().to(dtype))(x.to(dtype), VISIBLE).dtype == dtype

    class Converting(nn.Module):
        """A model that converts its images itself may differ from them."""

        def __init__(self):
            super().__init__()
            self.body = network().double()

        def forward(self, x):
            return self.body(x.double())

    assert lm.LayerMasked(Converting().eval())(x, VISIBLE).dtype == torch.float64


def test_errors_of_the_model_itself_pass(x):
    class Failing(nn.Module):
        def forward(self, x):
            raise RuntimeError("on purpose")

    for visible in (None, VISIBLE):
        with pytest.raises(RuntimeError, match=r"^on purpose$"):
            lm.LayerMasked(nn.Sequential(network()[0], Failing()).eval())(x, visible)


@pytest.mark.parametrize("removal", ["layer_masking", "grey"])
@pytest.mark.parametrize("taken", [1, 3])
def test_channels(taken, removal, x):
    model = nn.Sequential(nn.Conv2d(taken, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images = x if taken == 1 else x[:, :1]
    message = rf"the images have {images.shape[1]} channels.*first takes {taken}\. .*image \(H, W, 1\).*Torch: Given"
    with pytest.raises(errors.ShapeError, match=message):
        as_removal(removal)(model)(images, VISIBLE)


def test_channels_that_the_model_takes_are_not_blamed(x):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(5, 4, 3)).eval()
    with pytest.raises(RuntimeError, match="to have 5 channels") as caught:
        as_removal("grey")(model)(x, VISIBLE)
    assert not isinstance(caught.value, errors.LMPluginsError)
