"""Where images may lie."""

import io
import pickle
import tarfile

import fsspec
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lm_plugins.errors import ImageFileError, InputTypeError
from lm_plugins.scale import images_of
from lm_plugins.scale.sources import read
from tests.scale.data_sets import folder_of, picture


def png(seed):
    stream = io.BytesIO()
    picture(seed).save(stream, "png")
    return stream.getvalue()


def arrays(source):
    return [np.asarray(source.read(i)[0]) for i in range(len(source.keys))]


def labels(source):
    return [source.read(i)[1] for i in range(len(source.keys))]


def test_every_source_reads_the_same(tmp_path):
    folder = folder_of(tmp_path / "photographs", 4)
    (folder / "notes.txt").write_text("no image")
    names = ["class0/000.png", "class0/003.png", "class1/001.png", "class2/002.png"]
    order = [0, 3, 1, 2]
    classes = ["class0", "class0", "class1", "class2"]
    pd.DataFrame({"file": names, "label": classes}).to_csv(folder / "list.csv", index=False)
    pd.DataFrame({"image": [png(i) for i in order], "label": classes}).to_parquet(tmp_path / "bytes.parquet")
    pd.DataFrame({"image": [{"bytes": png(i), "path": None} for i in order], "label": classes}).to_parquet(
        tmp_path / "hf.parquet"
    )
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for number, (seed, label) in enumerate(zip(order, classes, strict=True)):
            for suffix, content in ((".png", png(seed)), (".cls", label.encode())):
                member = tarfile.TarInfo(f"{number:03d}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    pairs = [(picture(i), label) for i, label in zip(order, classes, strict=True)]
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/photographs", recursive=True)
    expected = [np.asarray(picture(i)) for i in order]
    for given in (
        folder,
        str(folder / "list.csv"),
        tmp_path / "bytes.parquet",
        tmp_path / "hf.parquet",
        tmp_path / "shard.tar",
        pairs,
        [{"image": image, "label": label} for image, label in pairs],
        "memory://photographs",
        f"file://{folder}",
    ):
        source = images_of(given)
        assert labels(source) == classes, given
        for one, other in zip(arrays(source), expected, strict=True):
            assert np.array_equal(one, other), given
        assert len(set(source.keys)) == 4
        if given is not pairs:
            assert labels(pickle.loads(pickle.dumps(source))) == classes
    memory.rm("/photographs", recursive=True)


def test_data_loaders_and_tensors():
    data = TensorDataset(torch.rand(3, 3, 4, 4), torch.tensor([2, 0, 1]))
    source = images_of(DataLoader(data, 2, shuffle=True))
    assert labels(source) == ["2", "0", "1"]
    assert torch.equal(source.read(1)[0], data[1][0])
    assert labels(images_of([torch.rand(3, 4, 4)])) == [None]


def test_the_same_file_twice(tmp_path):
    folder_of(tmp_path, 1)
    pd.DataFrame({"file": ["class0/000.png"] * 2}).to_csv(tmp_path / "list.csv", index=False)
    source = images_of(tmp_path / "list.csv")
    assert source.keys == ["class0/000.png (row 0)", "class0/000.png (row 1)"]
    assert labels(source) == [None, None]


def test_what_cannot_be_read(tmp_path):
    pd.DataFrame({"file": ["missing.png"]}).to_csv(tmp_path / "list.csv", index=False)
    with pytest.raises(ImageFileError, match=r"missing\.png"):
        images_of(tmp_path / "list.csv").read(0)
    pd.DataFrame({"image": [3]}).to_parquet(tmp_path / "numbers.parquet")
    with pytest.raises(ImageFileError, match="neither a path nor bytes"):
        images_of(tmp_path / "numbers.parquet").read(0)
    with pytest.raises(ImageFileError, match="without image"):
        images_of([{"pixels": 3}]).read(0)

    class Fails:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise KeyError("lost")

    with pytest.raises(ImageFileError, match="KeyError"):
        read(images_of(Fails()), 0)


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("nowhere", None, ImageFileError, "there is no"),
        ("photo.png", b"x", InputTypeError, "lm-plugins explain"),
        ("broken.tar", b"x", ImageFileError, "no archive"),
        ("broken.parquet", b"x", ImageFileError, "cannot be read"),
        ("list.csv", b"path\na.png\n", ImageFileError, "no column file or image"),
        ("empty.csv", b"file\n", ImageFileError, "no image"),
    ],
)
def test_what_is_no_source(tmp_path, name, content, error, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=words):
        images_of(tmp_path / name)


def test_an_empty_folder_and_unknown_addresses(tmp_path):
    with pytest.raises(ImageFileError, match="no image in"):
        images_of(tmp_path)
    with pytest.raises(ImageFileError, match="cannot be opened"):
        images_of("nosuch://bucket/photos")
