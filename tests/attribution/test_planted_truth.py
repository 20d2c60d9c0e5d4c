"""A network whose evidence sits in one known place: every method has to point there."""

import pytest
import torch
from torch import nn

from lm_plugins.attribution import RISE, SISE, AdaSISE, IntegratedGradCam
from lm_plugins.audit import energy_pointing_game, pointing_game

IMAGES, SIZE, PATCH = 20, 48, 12


@pytest.fixture(scope="module")
def planted():
    """Images of grey noise with a red patch (class 1) and a blue one (class 2), and where the red one is."""
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + 0.1 * torch.randn(IMAGES, 3, SIZE, SIZE, generator=generator)
    region = torch.zeros(IMAGES, SIZE, SIZE, dtype=torch.bool)
    for i in range(IMAGES):
        column = int(torch.randint(SIZE - PATCH, (), generator=generator))
        for top, colour in ((0, (1.0, 0.0, 0.0)), (SIZE // 2, (0.0, 0.0, 1.0))):
            row = top + int(torch.randint(SIZE // 2 - PATCH, (), generator=generator))
            where = (slice(row, row + PATCH), slice(column, column + PATCH))
            x[i][:, where[0], where[1]] = torch.tensor(colour)[:, None, None]
            if top == 0:
                region[i][where] = True
    return x, region


@pytest.fixture(scope="module")
def model():
    """Maps of red, of blue and of brightness; their means make the logits of nothing, red and blue."""
    first, second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
    net = nn.Sequential(
        first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)
    )
    with torch.no_grad():
        for layer in (first, second, net[-1]):
            layer.weight.zero_()
            layer.bias.zero_()
        for k, colours in enumerate(((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (0.3, 0.3, 0.3))):
            first.weight[k] = torch.tensor(colours)[:, None, None] / 9
            second.weight[k, k] = 1 / 9
        net[-1].weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [120.0, 0.0, 0.0], [0.0, 120.0, 0.0]]))
        net[-1].bias[0] = 3.0
    return net.eval()


METHODS = {
    "integrated grad-cam": lambda m, x: IntegratedGradCam(m, "4").attribute(x, 1, n_steps=8),
    "path integral": lambda m, x: IntegratedGradCam(m, "4").attribute(x, 1, n_steps=8, integral="riemann_stieltjes"),
    "sise": lambda m, x: SISE(m, output="logits", removal="grey").attribute(x, 1),
    "sise, hard": lambda m, x: SISE(m, output="logits", fusion="hard").attribute(x, 1),
    "sise, layer masking": lambda m, x: SISE(m, output="logits", removal=None).attribute(x, 1),
    "ada-sise": lambda m, x: AdaSISE(m, output="logits").attribute(x, 1),
    "rise": lambda m, x: RISE(m, output="logits", batch_size=64).attribute(x, 1, n_masks=150, seed=0),
    "rise, layer masking": lambda m, x: RISE(m, None, output="logits", batch_size=64).attribute(
        x, 1, n_masks=150, seed=0
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_points_at_the_evidence(name, model, planted):
    x, region = planted
    assert (model(x).softmax(1)[:, 1] > 0.4).all()
    attribution = METHODS[name](model, x)
    attribution = nn.functional.interpolate(attribution, (SIZE, SIZE), mode="bilinear")
    assert pointing_game(attribution, region).float().mean() >= 0.95
    if not name.startswith("rise"):  # its maps are not 0 where nothing is
        assert energy_pointing_game(attribution, region).mean() > 0.7


def test_the_other_patch_is_no_evidence(model, planted):
    """The same, with the classes changed: the game can be lost."""
    x, region = planted
    for attribution in (
        nn.functional.interpolate(IntegratedGradCam(model, "4").attribute(x, 2), (SIZE, SIZE), mode="bilinear"),
        SISE(model, output="logits").attribute(x, 2),
    ):
        assert pointing_game(attribution, region).float().mean() < 0.05
