"""The sentinel reaches the model as it was painted, or an error says that it was changed on the way."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import lm_plugins as lm
from lm_plugins.errors import MaskValueError
from lm_plugins.masking.sentinel import unpainted
from tests.masking import samples


def photograph(n=2, size=32, seed=0):
    """Smooth images with some noise, in the range of ImageNet's normalisation."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 5, 5, generator=generator)
    image = F.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    image = (image + 0.05 * torch.rand(n, 3, size, size, generator=generator)).clamp(0, 1)
    return (image - 0.45) / 0.225


def painted(x, visible):
    return torch.where(visible[:, None], x, lm.MASKED)


def patches(n=2, size=32, side=8, share=0.5, seed=0):
    few = torch.rand(n, size // side, size // side, generator=torch.Generator().manual_seed(seed)) < share
    few[:, 0, 0], few[:, 1, 1] = False, True
    return few.repeat_interleave(side, 1).repeat_interleave(side, 2)


CHANGES = {
    "bilinear": lambda x: F.interpolate(x, (48, 48), mode="bilinear"),
    "bicubic, smaller": lambda x: F.interpolate(x, (24, 24), mode="bicubic", antialias=True),
    "blurred": lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "rounded": lambda x: x.round(decimals=2),
    "computed with": lambda x: (x / 0.3) * 0.3 + 1e-6,
}
NORMALISATIONS = {
    "alike": lambda x: (x - 0.45) / 0.225,
    "by channel": lambda x: (
        (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    ),
}
MESSAGE = r"after they were painted\. The sentinel has to reach .*LayerMasked\(model\)\(x, visible\)"


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("seed", range(5))
def test_what_was_changed_after_painting_is_refused(change, seed):
    x, visible = photograph(seed=seed), patches(seed=seed)
    with pytest.raises(MaskValueError, match=MESSAGE):
        unpainted(CHANGES[change](painted(x, visible)))


@pytest.mark.parametrize("change", NORMALISATIONS)
@pytest.mark.parametrize("seed", range(5))
def test_what_was_normalised_after_painting_is_refused(change, seed):
    x, visible = photograph(seed=seed) * 0.225 + 0.45, patches(seed=seed)
    with pytest.raises(MaskValueError, match=MESSAGE):
        unpainted(NORMALISATIONS[change](painted(x, visible)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("side", [1, 2, 8, 16])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_what_was_painted_last_is_believed(dtype, side, share):
    x, visible = photograph(n=4).to(dtype), patches(4, side=side, share=share, seed=3)
    assert torch.equal(unpainted(painted(x, visible)), visible)
    # Nearest neighbours, cuts and flips make no blends.
    assert torch.equal(unpainted(painted(x, visible).flip(-1)[..., 3:]), visible.flip(-1)[..., 3:])
    larger = F.interpolate(painted(x, visible), scale_factor=2.0, mode="nearest")
    assert torch.equal(unpainted(larger), visible.repeat_interleave(2, 1).repeat_interleave(2, 2))


@given(seed=st.integers(0, 10**6), low=st.floats(-3, 0), high=st.floats(0.5, 3), density=st.floats(0.05, 0.95))
@settings(max_examples=100, deadline=None)
def test_random_images_under_random_masks_are_believed(seed, low, high, density):
    generator = torch.Generator().manual_seed(seed)
    x = low + (high - low) * torch.rand(2, 3, 12, 14, generator=generator)
    visible = samples.region(2, 12, 14, density=density, seed=seed)
    assert torch.equal(unpainted(painted(x, visible)), visible)


@pytest.mark.parametrize(
    "make",
    [
        lambda: photograph(),
        lambda: torch.zeros(2, 3, 16, 16),
        lambda: torch.where(patches(), photograph()[:, 0], -2.1)[:, None].expand(-1, 3, -1, -1),  # black bars
        lambda: torch.cat([torch.full((1, 1, 16, 16), -1024.0), torch.full((1, 1, 16, 16), 1024.0)], 3),  # X-rays
        lambda: 255 * torch.rand(1, 3, 16, 16),
        lambda: torch.where(
            torch.rand(1, 1, 16, 16) < 0.5, -1.0, 0.3 * torch.rand(1, 1, 16, 16)
        ),  # depths, some unknown
        lambda: torch.full((1, 3, 16, 16), lm.MASKED),
    ],
)
def test_images_without_paint_are_left_alone(make):
    x = make()
    visible = unpainted(x)
    assert bool(visible.all()) or bool((x == lm.MASKED).all())


def test_what_cannot_be_told_is_documented():
    # Hidden pixels that are few, or images that reach below the sentinel.
    x, visible = photograph(1), torch.ones(1, 32, 32, dtype=torch.bool)
    visible[:, 3, 3] = False
    assert bool(unpainted(NORMALISATIONS["alike"](painted(x, visible))).all())
    assert bool(unpainted(2 * painted(x, patches(1))).all())
    assert "cannot be told from an image" in " ".join((unpainted.__doc__ or "").split())
