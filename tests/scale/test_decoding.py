"""Images of every depth and transparency: the right grey, or a refusal that says why."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from lm_plugins.cli.preprocessing import Preprocessing, pixels_of
from lm_plugins.errors import ImageFileError
from lm_plugins.scale.decoding import MAX_ASPECT, eight_bits, read_image

RAMP = np.linspace(0, 1, 40)[None].repeat(32, 0)


def saved(tmp_path, name, array, **settings):
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(tmp_path / name, **settings)
    return tmp_path / name


@pytest.mark.parametrize("name", ["grey.png", "grey.tif"])
def test_sixteen_bits_are_scaled_by_their_depth(tmp_path, name):
    file = saved(tmp_path, name, (RAMP * 65535).round().astype(np.uint16))
    image = read_image(file)
    assert image.mode == "L"
    assert np.abs(np.asarray(image) / 255 - RAMP).max() <= 0.5 / 255 + 1 / 65535


def test_twelve_bits_in_a_tiff_are_scaled_by_their_depth():
    image = Image.fromarray((RAMP * 4095).round().astype(np.uint16))
    assert np.abs(np.asarray(eight_bits(image, white=4095.0)) / 255 - RAMP).max() <= 0.5 / 255 + 1 / 4095


def test_floating_point_is_black_at_0_and_white_at_1(tmp_path):
    image = read_image(saved(tmp_path, "grey.tif", RAMP.astype(np.float32)))
    assert np.abs(np.asarray(image) / 255 - RAMP).max() <= 0.51 / 255


def test_a_tiff_whose_zero_is_white_is_turned_round(tmp_path):
    file = saved(tmp_path, "grey.tif", (RAMP * 65535).astype(np.uint16), tiffinfo={262: 0})
    with Image.open(file) as image:
        assert image.tag_v2[262] == 0
    assert np.abs(np.asarray(read_image(file)) / 255 - (1 - RAMP)).max() <= 0.6 / 255


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        ((RAMP * 255).astype(np.float32), r"values from 0 to 255 where black is 0 and white is 1"),
        ((RAMP - 0.5).astype(np.float32), r"values from -0\.5 to 0\.5"),
        (np.full((32, 40), np.nan, np.float32), r"values from nan to nan"),
        ((RAMP * 2**30).astype(np.int32), r"whole numbers of 32 bits, of which nobody knows which one is white"),
    ],
)
def test_values_that_nobody_can_tell_black_and_white_of_are_refused(tmp_path, array, reason):
    with pytest.raises(ImageFileError, match=rf"odd\.tif: {reason}"):
        read_image(saved(tmp_path, "odd.tif", array))


def half_transparent():
    array = np.zeros((32, 40, 4), np.uint8)
    array[..., 0], array[:, :20, 3] = 255, 255
    return Image.fromarray(array)


@pytest.mark.parametrize(("name", "settings"), [("a.png", {}), ("a.webp", {"lossless": True}), ("a.tif", {})])
def test_what_is_transparent_shows_the_background_in_every_format(tmp_path, name, settings):
    pixels = np.asarray(read_image(saved(tmp_path, name, half_transparent(), **settings)))
    assert (pixels[:, :20] == (255, 0, 0)).all()
    assert (pixels[:, 20:] == 255).all()


def test_the_colour_under_transparency_plays_no_part(tmp_path):
    pictures = []
    for hidden in (0, 77):
        array = np.array(half_transparent())
        array[:, 20:, :3] = hidden
        pictures.append(np.asarray(read_image(saved(tmp_path, "a.png", array))))
    assert np.array_equal(*pictures)


def test_half_transparency_is_the_mean_of_colour_and_background():
    image = Image.new("RGBA", (1, 1), (255, 0, 0, 128))
    assert eight_bits(image).getpixel((0, 0)) == pytest.approx((255, 127, 127), abs=1)
    assert eight_bits(image, background=0).getpixel((0, 0)) == pytest.approx((128, 0, 0), abs=1)


@pytest.mark.parametrize("name", ["p.png", "p.gif"])
def test_a_transparent_colour_of_a_palette_shows_the_background(tmp_path, name):
    image = Image.fromarray((np.arange(40) >= 20).astype(np.uint8)[None].repeat(32, 0))
    image = image.convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    pixels = np.asarray(read_image(saved(tmp_path, name, image, transparency=1)))
    assert (pixels[:, :20] == (255, 0, 0)).all()
    assert (pixels[:, 20:] == 255).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_transparent_grey_level_shows_the_background(tmp_path, dtype):
    array = np.where(np.arange(40) < 20, 10, 200).astype(dtype)[None].repeat(32, 0)
    image = read_image(saved(tmp_path, "key.png", array, transparency=200)).convert("L")
    assert (np.asarray(image)[:, 20:] == 255).all()
    assert (np.asarray(image)[:, :20] < 11).all()


@pytest.mark.parametrize("size", [(30_000, 1), (1, 30_000), (MAX_ASPECT + 1, 1)])
def test_extreme_shapes_are_refused_before_they_are_decoded(tmp_path, size, monkeypatch):
    file = saved(tmp_path, "long.png", Image.new("1", size))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    with pytest.raises(ImageFileError, match=rf"{size[0]} x {size[1]} pixels, more than 20 times as long as wide"):
        read_image(file)


def test_the_longest_shape_that_is_let_through_is_resized_to_a_stated_size(monkeypatch):
    made = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, *more: made.append(size) or resize(self, size, *more))
    assert Preprocessing(256, 224)(Image.new("RGB", (MAX_ASPECT * 10, 10))).shape == (3, 224, 224)
    assert made == [(MAX_ASPECT * 256, 256)]


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    file = saved(tmp_path, "big.png", Image.new("1", (100, 100)))
    monkeypatch.setattr("lm_plugins.scale.decoding.MAX_PIXELS", 9_999)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    with pytest.raises(ImageFileError, match=r"big\.png: 100 x 100 pixels, more than 0 million"):
        read_image(file)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipes_devices_and_folders_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for file in (tmp_path / "pipe.png", tmp_path):
        with pytest.raises(ImageFileError, match="a folder, pipe or device"):
            read_image(file)
    with pytest.raises(ImageFileError, match=r"gone\.png: no such file"):
        read_image(tmp_path / "gone.png")


def test_damaged_files_are_image_file_errors_whatever_their_decoder_raises(tmp_path):
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 255, (32, 40, 3), np.uint8))
    refused = 0
    for suffix in ("png", "gif", "tif", "webp", "jpg", "bmp"):
        file = saved(tmp_path, f"whole.{suffix}", image)
        whole = np.frombuffer(file.read_bytes(), np.uint8)
        for _ in range(25):
            broken = whole.copy()
            broken[random.integers(0, min(len(whole), 400), 8)] = random.integers(0, 255, 8)
            (tmp_path / f"broken.{suffix}").write_bytes(broken.tobytes())
            try:
                read_image(tmp_path / f"broken.{suffix}")
            except ImageFileError:
                refused += 1
    assert refused > 50


def test_pixels_are_those_of_the_picture():
    picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    assert torch.equal(pixels_of(picture)[:, 0, 1] * 255, torch.tensor([3.0, 4.0, 5.0]))
    assert pixels_of(picture.convert("L")).shape == (1, 2, 2)
