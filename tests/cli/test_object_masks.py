import numpy as np
import pytest
from PIL import Image

from lm_plugins.cli.loading_images import find_images
from lm_plugins.cli.object_masks import read_object_masks
from lm_plugins.cli.preprocessing import Preprocessing
from lm_plugins.errors import ImageFileError, LabelFileError


@pytest.fixture
def images(photos):
    return find_images([photos], Preprocessing(32, 32))


def save_mask(folder, name, array):
    folder.mkdir(exist_ok=True)
    Image.fromarray(array).save(folder / name)


def test_masks_are_cropped_as_their_images(images, tmp_path):
    array = np.zeros((32, 40), np.uint8)
    array[:, 20:] = 255
    save_mask(tmp_path / "masks", "green.png", array)
    blue, green, red = read_object_masks(tmp_path / "masks", images)
    assert blue is None
    assert red is None
    assert green.shape == (32, 32)
    assert not green[:, :16].any()  # the crop begins 4 pixels from the left
    assert green[:, 16:].all()


def test_masks_that_do_not_fit(images, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    with pytest.raises(LabelFileError, match=r"masks holds no mask for any image: looked for blue\.png"):
        read_object_masks(masks, images)
    save_mask(masks, "blue.png", np.zeros((30, 40), np.uint8))
    with pytest.raises(LabelFileError, match=r"blue\.png is \(40, 30\) pixels large, its image \(40, 32\)"):
        read_object_masks(masks, images)
    save_mask(masks, "blue.png", np.zeros((32, 40), np.uint8))
    with pytest.raises(ImageFileError, match="all black or all white"):
        read_object_masks(masks, images)
    (masks / "blue.png").write_text("no image")
    with pytest.raises(ImageFileError, match=r"blue\.png: no image"):
        read_object_masks(masks, images)


def test_the_audit_takes_them(images, photos, tmp_path, lm_plugins_command):
    array = np.zeros((32, 40), np.uint8)
    array[8:20, 10:24] = 255
    for name in ("red.png", "green.png", "blue.png"):
        save_mask(tmp_path / "masks", name, array)
    code, out, err = lm_plugins_command(
        "audit", "--images", photos, "--model", "tests.cli.small_models:classifier", "--out", tmp_path / "out",
        "--removals", "grey", "--measures", "shape_bias", "--objects", tmp_path / "masks", "--summary",
    )  # fmt: skip
    assert code == 0, err
    assert "shape_bias_object" in out
    assert "recommended: none" in out
