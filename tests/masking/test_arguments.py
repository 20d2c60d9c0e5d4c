"""What models take beside one image by position: keywords, further tensors, and several images with a mask each."""

import pytest
import torch
from torch import Tensor, nn

import lm_plugins as lm
from lm_plugins.errors import InputTypeError, MaskValueError, ShapeError, UnsupportedOperatorError, VerificationError

G = torch.Generator().manual_seed(0)
X, Y = torch.rand(2, 3, 16, 16, generator=G).double(), torch.rand(2, 3, 16, 16, generator=G).double()
VISIBLE, OTHER = torch.rand(2, 16, 16, generator=G) < 0.5, torch.rand(2, 16, 16, generator=G) < 0.5


def body() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).double().eval()  # fmt: skip


class ByKeyword(nn.Module):
    """As the models of transformers: pixels are one of several keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()

    def forward(
        self, pixel_values: Tensor | None = None, scale: Tensor | float = 1.0, more: bool = False
    ) -> dict[str, Tensor]:
        features = self.body(pixel_values) * scale
        return {"features": features + 1 if more else features}


class Siamese(nn.Module):
    """Compares two images by one network; `late` joins maps, not features."""

    def __init__(self, late: bool = True) -> None:
        super().__init__()
        self.body, self.late = body(), late

    def forward(self, one: Tensor, other: Tensor, scale: float = 1.0) -> Tensor:
        if self.late:
            return (self.body(one) - self.body(other)).abs() * scale
        return (self.body[:5](one) + self.body[:5](other)).mean((2, 3)) * scale


def test_an_image_by_keyword() -> None:
    model = ByKeyword().eval()
    masked, expected = lm.LayerMasked(model), lm.LayerMasked(model.body)(X, VISIBLE)
    torch.testing.assert_close(masked(pixel_values=X, visible=VISIBLE)["features"], expected)
    torch.testing.assert_close(
        masked(visible=VISIBLE, scale=2.0, pixel_values=X, more=True)["features"], 2 * expected + 1
    )
    painted = X.masked_fill(~VISIBLE[:, None], lm.MASKED)
    torch.testing.assert_close(masked(pixel_values=painted)["features"], expected)
    torch.testing.assert_close(masked(X, VISIBLE, scale=torch.full((2, 1), 2.0))["features"], 2 * expected)
    assert torch.equal(masked(pixel_values=X)["features"], model(X)["features"])


def test_two_images_with_a_mask_each() -> None:
    model = Siamese().eval()
    masked, alone = lm.LayerMasked(model), lm.LayerMasked(model.body)
    expected = (alone(X, VISIBLE) - alone(Y, OTHER)).abs()
    torch.testing.assert_close(masked((X, Y), (VISIBLE, OTHER)), expected)
    torch.testing.assert_close(masked((X, Y), (VISIBLE, OTHER), 3.0), 3 * expected)
    one_hidden = (alone(X) - alone(Y, OTHER)).abs()
    torch.testing.assert_close(masked((X, Y), (torch.ones_like(VISIBLE), OTHER)), one_hidden)
    painted = X.masked_fill(~VISIBLE[:, None], lm.MASKED), Y.masked_fill(~OTHER[:, None], lm.MASKED)
    torch.testing.assert_close(masked(painted), expected)
    assert torch.equal(masked((X, Y)), model(X, Y))


@pytest.mark.parametrize("late", [True, False])
def test_the_laws_hold_for_both_images(late: bool) -> None:
    masked = lm.LayerMasked(Siamese(late).eval())
    result = masked((X, Y), (VISIBLE, OTHER))
    garbage = X.masked_fill(~VISIBLE[:, None], torch.nan), Y.masked_fill(~OTHER[:, None], 1e30)
    assert torch.equal(masked(garbage, (VISIBLE, OTHER)), result)
    for i in range(2):
        alone = masked((X[i : i + 1], Y[i : i + 1]), (VISIBLE[i : i + 1], OTHER[i : i + 1]))
        torch.testing.assert_close(alone, result[i : i + 1])
    one, other = X.clone().requires_grad_(), Y.clone().requires_grad_()
    masked((one, other), (VISIBLE, OTHER)).sum().backward()
    for image, visible in ((one, VISIBLE), (other, OTHER)):
        assert not image.grad.masked_select(~visible[:, None]).any()
        assert image.grad.abs().sum() > 0


def test_maps_of_two_images_merge_where_both_are_visible() -> None:
    masked = lm.LayerMasked(Siamese(late=False).eval())
    empty = masked((X, Y), (torch.zeros_like(VISIBLE), torch.zeros_like(OTHER)))
    torch.testing.assert_close(empty, masked((2 * X, Y + 1), (torch.zeros_like(VISIBLE), torch.zeros_like(OTHER))))
    assert empty.isfinite().all()


class Blind(nn.Module):
    """Steps outside of torch with its second image."""

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return one.mean((2, 3)) + (0.0 if type(other) is not Tensor else other.mean((2, 3)))


def test_the_second_image_is_verified_too() -> None:
    with pytest.raises(VerificationError):
        lm.LayerMasked(Blind().eval())((X, Y), (VISIBLE, OTHER))


class Unsupported(nn.Module):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return one.mean((2, 3)) + torch.erfinv(other / 9).mean((2, 3))


def test_what_is_missing_is_named_with_two_images() -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"(?s)Missing in this model.*torch\.erfinv, called in"):
        lm.LayerMasked(Unsupported().eval())((X, Y), (VISIBLE, OTHER))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda m: m(), InputTypeError, "by one keyword; got 0 of them among no keywords"),
        (lambda m: m(scale=2.0), InputTypeError, "got 0 of them among scale"),
        (lambda m: m(pixel_values=X, more=X), InputTypeError, "got 2 of them among pixel_values, more"),
        (lambda m: m((X, Y), VISIBLE), ShapeError, "2 images need a tuple of as many masks"),
        (lambda m: m((X, Y), (VISIBLE,)), ShapeError, "2 images need a tuple of as many masks.*got 1"),
        (lambda m: m((), ()), ShapeError, "0 images"),
        (lambda m: m((X, Y[:1]), (VISIBLE, OTHER[:1])), ShapeError, "batches of one size"),
        (lambda m: m((X, Y[0]), (VISIBLE, OTHER)), ShapeError, r"\(N, C, H, W\)"),
        (lambda m: m((X, Y.int()), (VISIBLE, OTHER)), InputTypeError, "floating"),
        (lambda m: m((X, Y), (VISIBLE, OTHER * 2)), MaskValueError, "it also holds 2"),
    ],
)
def test_mistakes_are_named(call, error, text: str) -> None:
    with pytest.raises(error, match=text):
        call(lm.LayerMasked(ByKeyword().eval()))
