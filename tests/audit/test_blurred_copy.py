"""RISE's blurred copy, against SciPy's Gaussian, and why it is no removal."""

import numpy as np
import pytest
import torch
from torch import nn

from lm_plugins.audit import BlurredCopy, insertion, run_audit
from lm_plugins.errors import NonFiniteError, OptionError
from lm_plugins.features import grid
from lm_plugins.removal import Blur


@pytest.mark.parametrize(("size", "sigma"), [(11, 5.0), (3, 5.0), (7, 0.6)])
def test_the_kernel_is_a_gaussian_reflected_into_its_window(size, sigma):
    ndimage = pytest.importorskip("scipy.ndimage")
    spot = np.zeros((size, size))
    spot[size // 2, size // 2] = 1.0
    x = torch.zeros(1, 2, 3 * size, 3 * size, dtype=torch.float64)
    x[:, :, size + size // 2, size + size // 2] = torch.tensor([1.0, -2.0])
    copy = BlurredCopy(size, sigma).replaced(x, torch.zeros(1, 3 * size, 3 * size, dtype=torch.bool))
    middle = slice(size, 2 * size)
    expected = torch.from_numpy(ndimage.gaussian_filter(spot, sigma))
    torch.testing.assert_close(copy[0, 0, middle, middle], expected)
    torch.testing.assert_close(copy[0, 1], -2 * copy[0, 0])
    assert float(copy[0, 0].sum()) == pytest.approx(1.0)
    assert float(copy[0, 0, :size].abs().max()) == 0


def test_insertion_goes_from_the_copy_to_the_image():
    x = torch.rand(1, 1, 16, 16)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(1)).eval()
    curve = insertion(BlurredCopy()(model), x, x, target=1, steps=4)
    copy = BlurredCopy().replaced(x, torch.zeros(1, 16, 16, dtype=torch.bool))
    torch.testing.assert_close(curve.scores[0, [0, -1]], torch.cat([model(copy), model(x)])[:, 1].detach())
    other = insertion(Blur(5.0)(model), x, x, target=1, steps=4)
    assert not torch.allclose(other.scores, curve.scores)


def test_an_audit_finds_that_it_removes_nothing():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4)).eval()
    result = run_audit(
        model, torch.randn(3, 3, 16, 16), removals={"copy": BlurredCopy(), "blur": "blur"}, orders=("random",),
        features={"blocks": lambda image: grid((16, 16), 4)}, fractions=(0.5,), progress=False,
    )  # fmt: skip
    hidden = result.table[result.table["measure"] == "hidden_pixels"].groupby("removal")["value"].max()
    assert hidden["copy"] > 1e-3 > hidden["blur"]
    assert result.recommendation.removal == "blur"


def test_bad_values():
    for size in (10, 1, 5.0):
        with pytest.raises(OptionError, match="odd number of at least 3"):
            BlurredCopy(size)
    with pytest.raises(OptionError, match="above 0"):
        BlurredCopy(sigma=0.0)
    x = torch.zeros(1, 1, 16, 16)
    x[0, 0, 3, 3] = torch.inf
    visible = torch.ones(1, 16, 16, dtype=torch.bool)
    visible[0, 3, 3] = False
    with pytest.raises(NonFiniteError):
        BlurredCopy()(nn.Flatten().eval())(x, visible)
