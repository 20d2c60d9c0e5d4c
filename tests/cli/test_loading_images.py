import pytest
import torch
from PIL import Image

from lm_plugins.cli.loading_images import find_images
from lm_plugins.cli.preprocessing import Preprocessing
from lm_plugins.errors import ImageFileError, OptionError
from lm_plugins.scale.decoding import read_image

SMALL = Preprocessing(32, 32)


def test_images_are_found_in_folders_and_read_when_needed(photos):
    (photos / "more").mkdir()
    Image.new("RGB", (50, 40), "white").save(photos / "more" / "white.webp")
    (photos / "notes.txt").write_text("no image")
    found = find_images([photos], SMALL)
    assert found.names == ("blue.png", "green.jpg", "more/white.webp", "red.png")
    assert found[0].shape == (3, 32, 32)
    assert found.skipped == {}
    assert found.report() == ""
    assert [tuple(one.shape) for one in found] == [(3, 32, 32)] * 4


def test_what_cannot_be_read_is_skipped_counted_and_listed(photos):
    whole = (photos / "green.jpg").read_bytes()
    (photos / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "half.png").write_bytes((photos / "red.png").read_bytes()[:300])
    (photos / "text.png").write_text("no image")
    (photos / "empty.gif").touch()
    found = find_images([photos], SMALL)
    assert found.names == ("blue.png", "green.jpg", "red.png")
    assert set(found.skipped) == {"half.jpg", "half.png", "text.png", "empty.gif"}
    assert found.skipped["text.png"] == "no image"
    assert "truncated" in found.skipped["half.jpg"].lower()
    assert "skipped 4 of 7 images:" in found.report()


def test_no_image_and_no_readable_image(tmp_path):
    with pytest.raises(ImageFileError, match=r"no images in .*looked for files that end in \.jpg"):
        find_images([tmp_path], SMALL)
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ImageFileError, match=r"none of the 1 images can be read:\n  a\.png: no image"):
        find_images([tmp_path], SMALL)


def test_an_image_so_large_that_it_may_be_an_attack(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageFileError, match=r"bomb\.png: .*could be decompression bomb"):
        read_image(tmp_path / "bomb.png")


def test_a_limit_draws_the_same_images_for_the_same_seed(photos):
    drawn = [find_images([photos], SMALL, limit=2, seed=seed).names for seed in (0, 0, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    assert all(len(one) == 2 and list(one) == sorted(one) for one in drawn)


def test_a_limit_counts_readable_images(photos):
    for i in range(5):
        (photos / f"broken{i}.png").write_text("no image")
    assert len(find_images([photos], SMALL, limit=3)) == 3


def test_files_of_one_name_stay_apart(photos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (32, 32)).save(other / "red.png")
    found = find_images([photos / "red.png", other / "red.png"], SMALL)
    assert found.names == ("red.png", "red.png (2)")


def test_images_are_turned_upright(tmp_path):
    image = Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (20, 40)


def test_the_digest_depends_on_names_and_contents(photos):
    before = find_images([photos], SMALL).digest()
    assert before == find_images([photos], SMALL).digest()
    Image.new("RGB", (32, 32)).save(photos / "red.png")
    assert before != find_images([photos], SMALL).digest()


def test_preprocessing_crops_the_centre_and_undoes_its_normalisation():
    image = Image.new("RGB", (64, 32), "black")
    image.paste("white", (16, 0, 48, 32))
    x = Preprocessing(32, 32, (0.5,) * 3, (0.25,) * 3)(image)
    assert torch.equal(x, torch.full((3, 32, 32), 2.0))
    assert torch.equal(Preprocessing(32, 32, (0.5,) * 3, (0.25,) * 3).pixels(x), torch.ones(3, 32, 32))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_images_of_any_mode_become_colour_or_grey(mode):
    image = Image.new(mode, (40, 36))
    assert SMALL(image).shape == (3, 32, 32)
    assert Preprocessing(32, 32, (0.5,), (0.5,))(image).shape == (1, 32, 32)


def test_preprocessing_agrees_with_torchvision(photos):
    transforms = pytest.importorskip("torchvision.transforms._presets")
    theirs = transforms.ImageClassification(crop_size=24, resize_size=28)
    image = read_image(photos / "red.png")
    assert (theirs(image) - Preprocessing.of_torchvision(theirs)(image)).abs().max() < 1e-5


def test_options_change_preprocessing():
    changed = Preprocessing(256, 224).changed(size=112, mean=(0.1,) * 3)
    assert (changed.resize, changed.size, changed.mean) == (128, 112, (0.1,) * 3)
    with pytest.raises(OptionError, match="1 or 3 numbers"):
        SMALL.changed(mean=(0.5, 0.5))
    with pytest.raises(OptionError, match="std above 0"):
        SMALL.changed(std=(0.0,) * 3)
