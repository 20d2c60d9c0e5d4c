"""Every removal: one call, visible pixels as they are, hidden pixels without influence."""

import builtins

import pytest
import torch
from torch import Tensor, nn

import lm_plugins as lm
from lm_plugins.errors import InputTypeError, MissingDependencyError, OptionError, ShapeError
from lm_plugins.removal import (
    REMOVALS as NAMED,
)
from lm_plugins.removal import (
    Blur,
    Colour,
    ImageMean,
    Inpainting,
    LayerMasking,
    NoisyLinear,
    PixelColour,
    PixelRemoval,
    RandomColour,
    as_removal,
)

PAINTS = [
    Colour(),
    Colour((0.1, 0.2, 0.3)),
    ImageMean(),
    RandomColour(),
    RandomColour(per="pixel"),
    Blur(2.0),
    Inpainting(),
    Inpainting("ns"),
    NoisyLinear(),
]
REMOVALS = [LayerMasking(), LayerMasking(lm.published("resnet50")), PixelColour(), PixelColour(1.0), *PAINTS]


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


@pytest.mark.parametrize("removal", REMOVALS, ids=repr)
def test_a_batch_is_its_parts(removal, model: nn.Module, x: Tensor, visible: Tensor) -> None:
    forward = removal(model)
    together = forward(x, visible)
    for i in range(len(x)):
        torch.testing.assert_close(forward(x[i : i + 1], visible[i : i + 1])[0], together[i], atol=1e-6, rtol=1e-5)


def test_noisy_linear_solves_for_the_weighted_means(x: Tensor, visible: Tensor) -> None:
    imputed = NoisyLinear(noise=0.0).replaced(x.double(), visible)
    weights = torch.tensor([[1.0, 2.0, 1.0], [2.0, 0.0, 2.0], [1.0, 2.0, 1.0]]).double().expand(3, 1, 3, 3)
    total = torch.nn.functional.conv2d(imputed, weights, padding=1, groups=3)
    share = torch.nn.functional.conv2d(torch.ones_like(imputed), weights, padding=1, groups=3)
    hidden = ~visible[:, None].expand_as(imputed)
    torch.testing.assert_close(imputed[hidden], (total / share)[hidden])


def test_noise_is_of_the_given_strength(x: Tensor, visible: Tensor) -> None:
    noise = NoisyLinear(noise=0.5, seed=3).replaced(x, visible) - NoisyLinear(noise=0.0).replaced(x, visible)
    assert 0.4 < noise[~visible[:, None].expand_as(noise)].std() < 0.6
    assert torch.equal(NoisyLinear(seed=3).replaced(x, visible), NoisyLinear(seed=3).replaced(x, visible))
    assert not torch.equal(NoisyLinear(seed=3).replaced(x, visible), NoisyLinear(seed=4).replaced(x, visible))


def test_colours(model: nn.Module, x: Tensor, visible: Tensor) -> None:
    black = (torch.tensor([0.0, 0.0, 0.0]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(torch.tensor(PixelColour().colour(model).value), black)
    model.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}  # as timm's models have it
    assert PixelColour().colour(model).value == (-2.0, -2.0, -2.0)
    assert PixelColour(0.5, mean=0.25, std=0.125).colour(model).value == (2.0,)
    mean = Colour.mean_of([x, x[0] + 1]).value
    torch.testing.assert_close(torch.tensor(mean), torch.cat([x, x[:1] + 1]).mean((0, 2, 3)))
    for image, mask, painted in zip(x, visible, ImageMean().replaced(x, visible), strict=True):
        expected = image[:, mask].mean(1, keepdim=True)
        torch.testing.assert_close(painted[:, ~mask], expected.expand_as(painted[:, ~mask]))
    one = RandomColour(seed=1).replaced(x, visible)
    assert len(one[:, 0][~visible].unique()) == 1  # for every image the same
    assert len(RandomColour(per="pixel").replaced(x, visible)[:, 0][~visible].unique()) > 100


def test_every_name_is_a_removal(model: nn.Module, x: Tensor, visible: Tensor) -> None:
    for name in NAMED:
        assert as_removal(name)(model)(x, visible).shape == (2, 4)
    assert as_removal(None) == LayerMasking()
    assert as_removal(blur := Blur(3.0)) is blur


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda x: Colour((1.0, 2.0)).replaced(x, torch.ones(2, 24, 20) > 0),
            OptionError,
            "one a channel \\(3\\), got 2",
        ),
        (lambda x: Colour(torch.nan).replaced(x, torch.ones(2, 24, 20) > 0), OptionError, "finite, got nan"),
        (lambda x: Colour.mean_of([]), InputTypeError, "no image"),
        (lambda x: Colour.mean_of([x[0, 0]]), InputTypeError, "got \\(24, 20\\)"),
        (lambda x: PixelColour(255), OptionError, "in \\[0, 1\\], got 255"),
        (lambda x: PixelColour(std=0.0), OptionError, "above 0, got 0.0"),
        (lambda x: RandomColour(per="channel"), OptionError, "'image' or 'pixel', got 'channel'"),
        (lambda x: NoisyLinear(noise=-1.0), OptionError, "at least 0, got -1.0"),
        (lambda x: as_removal("gray"), OptionError, "no removal is called 'gray'; there are layer_masking, grey"),
        (lambda x: as_removal(Blur), InputTypeError, "did you mean Blur\\(\\)"),
        (lambda x: as_removal(3), InputTypeError, "an object such as .* got 3"),
        (lambda x: Blur(0.0), OptionError, "above 0, got 0.0"),
        (lambda x: Inpainting("magic"), OptionError, "'telea' or 'ns', got 'magic'"),
        (lambda x: Inpainting(radius=-1), OptionError, "above 0, got -1"),
        (
            lambda x: Inpainting().replaced(x[:, :2], torch.ones(2, 24, 20) > 0),
            InputTypeError,
            "1 or 3 channels, got 2",
        ),
        (lambda x: Colour()(nn.Identity().eval())(x, torch.ones(5, 5)), ShapeError, "\\(5, 5\\).*\\(2, 3, 24, 20\\)"),
    ],
)
def test_bad_input(call, error: type[Exception], text: str, x: Tensor) -> None:
    with pytest.raises(error, match=text):
        call(x)


@pytest.mark.parametrize(
    ("removal", "package", "extra"),
    [(Inpainting(), "cv2", "inpainting"), (NoisyLinear(), "scipy.sparse", "imputation")],
)
def test_a_missing_package_names_the_extra(
    removal: PixelRemoval, package: str, extra: str, monkeypatch: pytest.MonkeyPatch, x: Tensor, visible: Tensor
) -> None:
    real = builtins.__import__

    def without_it(name: str, *args: object) -> object:
        if name == package:
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_it)
    with pytest.raises(MissingDependencyError, match=f"lm_plugins\\[{extra}\\]"):
        removal.replaced(x, visible)
