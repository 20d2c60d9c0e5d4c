"""Images, pixel masks and targets: what is not of their form is refused, and the message says who asked."""

import pytest
import torch

from lm_plugins.checks import check_finite, check_images, check_target
from lm_plugins.errors import InputTypeError, NonFiniteError, OptionError, ShapeError


@pytest.mark.parametrize(
    ("x", "layout", "error", "text"),
    [
        (
            torch.ones(3, 4, 4),
            "(N, C, H, W)",
            ShapeError,
            r"got shape \(3, 4, 4\); add the batch dimension with x\[None\]",
        ),
        (torch.ones(4, 4), "(N, C, H, W)", ShapeError, r"got shape \(4, 4\); pass a batch of images"),
        (torch.ones(0, 3, 4, 4), "(N, C, H, W)", ShapeError, "the batch is empty: pass at least one image"),
        (torch.ones(1, 3, 4, 4), "(C, H, W)", ShapeError, r" \(C, H, W\), got .*; pass one image"),
        (torch.ones(3, 0, 4), "(C, H, W)", ShapeError, "the image is empty"),
        (torch.ones(4, 4, 3), "(N, H, W, C)", ShapeError, r" \(N, H, W, C\), got"),
        ([[1.0]], "(N, C, H, W)", InputTypeError, "got list; convert arrays with torch.as_tensor"),
        (torch.ones(1, 3, 4, 4).byte(), "(N, C, H, W)", InputTypeError, r"got torch.uint8.*x\.float\(\) / 255"),
        (torch.ones(1, 3, 4, 4) * 1j, "(N, C, H, W)", InputTypeError, "got torch.complex64"),
    ],
)
def test_what_is_no_image_is_refused_in_the_name_of_who_asks(x, layout, error, text):
    with pytest.raises(error, match=f"^the test needs images.*{text}"):
        check_images(x, "the test", layout)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_of_every_floating_point_type_are_taken(dtype):
    check_images(torch.ones(2, 3, 4, 4, dtype=dtype), "the test")
    # The sum of these is beyond the largest float16, which makes none of them infinite.
    assert check_finite(torch.full((2, 3, 64, 64), 100.0, dtype=dtype), "the test")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_only_visible_pixels_have_to_be_finite(value):
    x = torch.ones(2, 3, 4, 4)
    x[1, 2, 3, 0] = value
    visible = torch.ones(2, 4, 4, dtype=torch.bool)
    for mask in (None, visible):
        with pytest.raises(NonFiniteError, match=r"^the test needs finite.*1 visible.*image 1, row 3, column 0"):
            check_finite(x, "the test", mask)
    visible[1, 3, 0] = False
    assert not check_finite(x, "the test", visible)
    with pytest.raises(NonFiniteError, match="3 visible pixels"):
        check_finite(x[1:].expand(3, -1, -1, -1), "the test")


def test_a_sum_that_overflows_is_no_pixel_that_does():
    x = torch.full((1, 1, 2, 2), torch.finfo(torch.float64).max, dtype=torch.float64)
    assert not check_finite(x, "the test")  # not known to be, and nothing is refused


@pytest.mark.parametrize(
    ("target", "shape", "text"),
    [
        (3, (3,), "target is 3, the model has 3 outputs: choose 0 to 2"),
        (-4, (3,), "target is -4"),
        ((1, 4), (2, 3), r"target is \(1, 4\), the model has outputs of shape \(2, 3\): choose 0 to 1, 0 to 2"),
        (1, (2, 3), "pass 2 indices"),
        (None, (3,), "target is missing: the model has 3 outputs; choose one, such as target=0"),
        (None, (2, 3), r"such as target=\(0, 0\)"),
        (0, (), "one number for each image: there is nothing to choose from"),
    ],
)
def test_targets_that_choose_no_number_are_refused(target, shape, text):
    with pytest.raises(OptionError, match=text):
        check_target(target, shape)


def test_targets_that_choose_one():
    assert check_target(-1, (3,)) == (-1,)
    assert check_target(None, (1,)) == (0,)
    assert check_target(None, ()) == ()
    assert check_target((1, 2), (2, 3)) == (1, 2)
    # A method that explains all outputs that are left.
    assert check_target(None, (3,), is_whole=False) == ()
    assert check_target(1, (2, 3), is_whole=False) == (1,)
