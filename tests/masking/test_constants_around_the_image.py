"""Constants that a pad or a transposed convolution puts around the image count wherever the plain model counts them.

An image of which all is visible gives the plain model's answer, whatever is hidden in the other images of its batch.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lm_plugins as lm
from lm_plugins.masking import run_masked
from tests.masking import samples

X = samples.values(3, 2, 6, 6)
VISIBLE = torch.ones(3, 6, 6, dtype=torch.bool)
VISIBLE[1, :3] = False
VISIBLE[2] = False


def padded(y: Tensor) -> Tensor:
    return F.pad(y, (0, 3, 0, 3)).sigmoid()  # constants of 0.5


torch.manual_seed(0)
POINTWISE, SPREAD = nn.Conv2d(2, 2, 1).double(), nn.ConvTranspose2d(2, 2, 2, 2, output_padding=1).double()
HEADS = {
    "mean": lambda y: y.mean((2, 3)),
    "sum": lambda y: y.sum((2, 3)),
    "average to 1": lambda y: F.adaptive_avg_pool2d(y, 1),
    "average to 3": lambda y: F.adaptive_avg_pool2d(y, 3),
    "average pool": lambda y: F.avg_pool2d(y, 3),
    "amax": lambda y: y.amax((2, 3)),
    "variance": lambda y: y.var((2, 3)),
    "deviation and mean": lambda y: torch.cat(torch.std_mean(y, (2, 3)), 1),
    "norm": lambda y: y.norm(dim=(2, 3)),
    "logsumexp": lambda y: y.logsumexp((2, 3)),
    "mean of rows": lambda y: y.mean(3).mean(2),
    "median": lambda y: y.flatten(2).median(-1).values,
    "mean of tokens": lambda y: y.flatten(2).mean(-1),
    "group norm": lambda y: F.group_norm(y, 1).sigmoid().mean((2, 3)),
    "instance norm": lambda y: F.instance_norm(y).sigmoid().mean((2, 3)),
    "layer norm": lambda y: F.layer_norm(y, y.shape[1:]).sigmoid().mean((2, 3)),
    "pointwise": lambda y: POINTWISE(y).mean((2, 3)),
    "transposed": lambda y: SPREAD(y).sigmoid().mean((2, 3)),
}


class Written(nn.Module):
    def __init__(self, head) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(padded(x))


@pytest.mark.parametrize("name", HEADS)
@torch.no_grad()
def test_a_whole_image_is_the_plain_model_in_any_batch(name: str) -> None:
    model = Written(HEADS[name]).eval()
    found, plain = run_masked(model, X, VISIBLE, lm.MaskingOptions()), model(X)
    torch.testing.assert_close(found[0], plain[0])
    for image in range(3):
        alone = run_masked(model, X[image : image + 1], VISIBLE[image : image + 1], lm.MaskingOptions())
        torch.testing.assert_close(found[image], alone[0])
    assert torch.equal(run_masked(model, X, torch.ones_like(VISIBLE), lm.MaskingOptions()), plain)
    assert found.isfinite().all()
