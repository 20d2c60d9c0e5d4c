"""The inference copy: the same function, fewer layers, and a model that is not touched."""

import copy

import pytest
import torch
from torch import Tensor, nn

import lm_plugins as lm
from lm_plugins.errors import ShapeError, TrainingModeError


def randomized(model: nn.Module) -> nn.Module:
    """Statistics that are not those of a fresh batch norm."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval()


class Net(nn.Module):
    """One foldable pair, one whose convolution is seen by something else, one called twice, one with shared weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.seen, self.seen_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.twice, self.twice_norm = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.one, self.other, self.shared_norm = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x)).relu()
        between = self.seen(x)
        x = self.seen_norm(between) + between
        for _ in range(2):
            x = self.twice_norm(self.twice(x)).relu()
        return self.shared_norm(self.one(x) + self.other(x)).mean((2, 3))


@pytest.fixture
def visible() -> Tensor:
    return (torch.rand(2, 4, 4) < 0.5).repeat_interleave(4, 1).repeat_interleave(4, 2)


def test_folds_what_nothing_else_sees(visible: Tensor) -> None:
    model = randomized(Net()).double()
    x = torch.randn(2, 3, 16, 16).double()
    before = copy.deepcopy(model.state_dict())
    ready = lm.LayerMasked(model).prepare(x)
    assert isinstance(ready.model.stem_norm, nn.Identity)
    for name in ("seen_norm", "twice_norm", "shared_norm"):
        assert isinstance(getattr(ready.model, name), nn.BatchNorm2d)
    for shown in (visible, torch.ones(16, 16), torch.zeros(16, 16)):
        torch.testing.assert_close(ready(x, shown), lm.LayerMasked(model)(x, shown), atol=1e-10, rtol=1e-8)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in ready.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_hooks_go_on_seeing_what_they_saw(visible: Tensor) -> None:
    model, seen = randomized(Net()), []
    model.stem_norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    ready = lm.LayerMasked(model).prepare(torch.randn(1, 3, 16, 16))
    assert isinstance(ready.model.stem_norm, nn.BatchNorm2d)
    ready(torch.randn(2, 3, 16, 16), visible)  # the first call is verified, by further passes
    seen.clear()
    ready(torch.randn(2, 3, 16, 16), visible)
    assert len(seen) == 1


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "densenet121", "convnext_tiny", "shufflenet_v2_x0_5"]
)
def test_real_architectures(name: str) -> None:
    from torchvision import models

    torch.manual_seed(0)
    model = randomized(models.get_model(name, num_classes=5)).double()
    x = torch.randn(2, 3, 64, 64).double()
    shown = (torch.rand(2, 4, 4) < 0.5).repeat_interleave(16, 1).repeat_interleave(16, 2)
    expected = lm.LayerMasked(model)(x, shown)
    found = lm.LayerMasked(model).prepare(x)(x, shown)
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_a_model_that_reads_its_own_weights_is_left_whole(visible: Tensor) -> None:
    class Nosy(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.stem.weight.norm()

    model = randomized(Nosy())
    x = torch.randn(2, 3, 16, 16)
    with pytest.warns(RuntimeWarning, match="prepared without"):
        ready = lm.LayerMasked(model).prepare(x)
    assert torch.allclose(ready(x, visible), lm.LayerMasked(model)(x, visible), rtol=1e-4)


def test_half_precision(visible: Tensor) -> None:
    model = randomized(Net())
    x = torch.randn(2, 3, 16, 16)
    ready = lm.LayerMasked(model).prepare(x, dtype=torch.bfloat16)
    found = ready(x.bfloat16(), visible)
    assert found.dtype == torch.bfloat16
    expected = lm.LayerMasked(model)(x, visible)
    assert (found.float() - expected).abs().max() < 0.1 * expected.abs().max()


def test_bad_input() -> None:
    with pytest.raises(TrainingModeError, match=r"model\.eval\(\) first"):
        lm.LayerMasked(Net()).prepare(torch.randn(1, 3, 16, 16))
    with pytest.raises(ShapeError, match="got shape \\(3, 16, 16\\)"):
        lm.LayerMasked(Net().eval()).prepare(torch.randn(3, 16, 16))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_the_laws_hold_for_the_copy(name: str) -> None:
    from torchvision import models

    from lm_plugins.testing import check_model

    torch.manual_seed(0)
    model = randomized(models.get_model(name, num_classes=5))
    x = torch.randn(2, 3, 64, 64)
    check_model(lm.LayerMasked(model).prepare(x).model, x, gradients=False)
