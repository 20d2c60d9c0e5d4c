"""Every removal: one call, visible pixels as they are, hidden pixels without influence."""

import builtins

import pytest
import torch
from torch import Tensor, nn

import lm_plugins as lm
from lm_plugins.errors import InputTypeError, MissingDependencyError, OptionError, ShapeError
from lm_plugins.removal import Blur, Colour, Inpainting, LayerMasking, PixelRemoval

PAINTS = [Colour(), Colour((0.1, 0.2, 0.3)), Blur(2.0), Inpainting(), Inpainting("ns")]
REMOVALS = [LayerMasking(), LayerMasking(lm.published("resnet50")), *PAINTS]


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(2, 3, 24, 20)


@pytest.fixture
def visible() -> Tensor:
    return (torch.rand(2, 6, 5) < 0.5).repeat_interleave(4, 1).repeat_interleave(4, 2)


@pytest.mark.parametrize("removal", REMOVALS, ids=repr)
def test_hidden_pixels_cannot_matter(removal, model: nn.Module, x: Tensor, visible: Tensor) -> None:
    forward = removal(model)
    expected = forward(x, visible)
    assert expected.isfinite().all()
    for value in (0.0, 1e30, torch.inf, torch.nan):
        assert torch.equal(forward(x.masked_fill(~visible[:, None], value), visible), expected)


@pytest.mark.parametrize("removal", REMOVALS, ids=repr)
def test_all_visible_is_the_plain_model(removal, model: nn.Module, x: Tensor) -> None:
    assert torch.equal(removal(model)(x, torch.ones(24, 20)), model(x))


@pytest.mark.parametrize("removal", REMOVALS, ids=repr)
def test_nothing_visible_does_not_depend_on_the_image(removal, model: nn.Module, x: Tensor) -> None:
    outputs = removal(model)(x, torch.zeros(24, 20))
    assert outputs.isfinite().all()
    assert torch.equal(outputs, removal(model)(x + 1, torch.zeros(24, 20)))


@pytest.mark.parametrize("removal", PAINTS, ids=repr)
def test_visible_pixels_stay(removal: PixelRemoval, x: Tensor, visible: Tensor) -> None:
    replaced = removal.replaced(x, visible)
    assert torch.equal(replaced.movedim(1, -1)[visible], x.movedim(1, -1)[visible])
    assert not torch.equal(replaced, x)


def test_blur_is_a_gaussian_mean_of_visible_pixels(x: Tensor, visible: Tensor) -> None:
    replaced = Blur(2.0).replaced(x.double(), visible)
    image, row, column = (int(one) for one in (~visible).nonzero()[0])
    rows, columns = torch.arange(24)[:, None], torch.arange(20)
    near = (rows - row).abs().le(8) & (columns - column).abs().le(8)
    weights = torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 8.0).double() * visible[image] * near
    expected = (x[image].double() * weights).sum((1, 2)) / weights.sum()
    torch.testing.assert_close(replaced[image, :, row, column], expected)


def test_inpainting_continues_a_gradient() -> None:
    x = torch.linspace(-2, 2, 32).expand(1, 3, 32, 32).contiguous()
    visible = torch.ones(1, 32, 32, dtype=torch.bool)
    visible[:, 12:18, 12:18] = False
    assert (Inpainting().replaced(x, visible) - x).abs().max() < 0.25


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda x: Colour((1.0, 2.0)).replaced(x, torch.ones(2, 24, 20) > 0),
            OptionError,
            "one a channel \\(3\\), got 2",
        ),
        (lambda x: Blur(0.0), OptionError, "above 0, got 0.0"),
        (lambda x: Inpainting("magic"), OptionError, "'telea' or 'ns', got 'magic'"),
        (lambda x: Inpainting(radius=-1), OptionError, "above 0, got -1"),
        (
            lambda x: Inpainting().replaced(x[:, :2], torch.ones(2, 24, 20) > 0),
            InputTypeError,
            "1 or 3 channels, got 2",
        ),
        (lambda x: Colour()(nn.Identity())(x, torch.ones(5, 5)), ShapeError, "\\(5, 5\\).*\\(2, 3, 24, 20\\)"),
    ],
)
def test_bad_input(call, error: type[Exception], text: str, x: Tensor) -> None:
    with pytest.raises(error, match=text):
        call(x)


def test_missing_opencv_names_the_extra(monkeypatch: pytest.MonkeyPatch, x: Tensor, visible: Tensor) -> None:
    real = builtins.__import__

    def without_opencv(name: str, *args: object) -> object:
        if name == "cv2":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_opencv)
    with pytest.raises(MissingDependencyError, match="lm_plugins\\[inpainting\\]"):
        Inpainting().replaced(x, visible)
