"""Pages to look through, and how far two removals agree."""

import re

import pytest
import torch
from PIL import Image

from lm_plugins import scale
from lm_plugins.errors import ImageFileError, OptionError
from tests.scale.data_sets import folder_of
from tests.scale.test_explaining import explain


def test_pages(tmp_path):
    folder = folder_of(tmp_path / "<b>photographs</b>", 7)
    (folder / "class0" / "bad.png").write_bytes(b"no")
    results = explain(folder, tmp_path / "out")
    index = scale.write_gallery(results, folder, tmp_path / "gallery", ["cat", "<dog>", "bird"], 3, show_progress=False)
    pages = sorted((tmp_path / "gallery").glob("page_*.html"))
    assert len(pages) == 3
    texts = [page.read_text() for page in pages]
    shown = [name for text in texts for name in re.findall(r'src="([^"]+)"', text)]
    assert len(shown) == 7
    for name in shown:
        with Image.open(tmp_path / "gallery" / name) as image:
            assert image.size == (256, 128)
    first = index.read_text()
    assert "bad.png" in first
    assert "<dog>" not in first + "".join(texts)
    assert "http" not in first + "".join(texts)
    assert all(len(text) < 10_000 for text in texts)


def test_mistakes(tmp_path):
    folder = folder_of(tmp_path / "photographs", 3)
    results = explain(folder, tmp_path / "out")
    with pytest.raises(OptionError, match="3 images were explained, and these are 1"):
        scale.write_gallery(results, [1], tmp_path / "gallery")
    with pytest.raises(OptionError, match="per_page"):
        scale.write_gallery(results, folder, tmp_path / "gallery", per_page=0)
    tensors = [torch.randn(3, 24, 24)]
    results = explain(tensors, tmp_path / "tensors", preprocess=None)
    with pytest.raises(ImageFileError, match="no picture"):
        scale.write_gallery(results, tensors, tmp_path / "gallery", show_progress=False)


def test_agreement(tmp_path):
    folder = folder_of(tmp_path / "photographs", 4)
    one = explain(folder, tmp_path / "a")
    other = explain(folder, tmp_path / "b", removal="grey")
    assert one.agreement(one).tolist() == pytest.approx([1.0] * 4)
    found = one.agreement(other)
    assert found.is_monotonic_increasing
    assert set(found.index) == {0, 1, 2, 3}
    assert found.iloc[0] < 1
    few = explain(folder_of(tmp_path / "few", 2), tmp_path / "c")
    with pytest.raises(OptionError, match="other names"):
        one.agreement(few)
