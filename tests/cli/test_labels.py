import pytest

from lm_plugins.cli.labels import read_labels
from lm_plugins.errors import LabelFileError

NAMES, CLASSES = ("a.png", "b.png"), ("red", "bright green", "blue")


def labels(tmp_path, text, names=NAMES, classes=CLASSES):
    file = tmp_path / "labels.csv"
    file.write_text(text)
    return read_labels(file, names, classes, 3)


@pytest.mark.parametrize(
    "text",
    [
        "file,class_index\na.png,2\nb.png,1\n",
        "file,class_name\nb.png,bright_green\na.png,blue\nc.png,red\n",
        "file,class_index,class_name\na.png,2,blue\nb.png,1,a name of mine\n",
        "\ufefffile,label\na.png, 2\nb.png,bright green\n",
    ],
)
def test_numbers_and_names(tmp_path, text):
    assert labels(tmp_path, text) == [2, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,class\na.png,1\n", r"needs a column 'file' and one of class_index.*it has name, class"),
        ("", "it has none"),
        ("file,label\na.png,1\n", r"1 of 2 images have no row in labels\.csv: b\.png"),
        ("file,label\nx.png,1\ny.png,2\n", r"2 of 2 images have no row.*in the table: x\.png, y\.png"),
        ("file,label\na.png,3\nb.png,0\n", r"1 labels.*which has 3 \(0 to 2\): a\.png \('3'\)"),
        ("file,label\na.png,-1\nb.png,purple\n", r"2 labels.*b\.png \('purple'\)"),
        ("file,label\na.png,\nb.png,1\n", r"a\.png \(''\)"),
        ("file,label\na.png,0_1\nb.png,1\n", r"1 labels.*a\.png \('0_1'\)"),
        ("file,label\na.png,+1\nb.png,1\n", r"1 labels.*a\.png"),
        ("file,label\na.png,\u0661\nb.png,1\n", r"1 labels.*a\.png"),
        ("file,label\na.png,1.0\nb.png,1\n", r"1 labels.*a\.png \('1.0'\)"),
        ("file,label\na.png,0\na.png,1\nb.png,1\n", r"more than one row for a\.png"),
        ("file,label\na.png,0\nb.png,1\nb.png,1\n", r"more than one row for b\.png"),
        ("file,label\na.png,0,7\nb.png,1\n", r"rows with more or fewer cells than its header \(2\): line 2"),
        ("file,label\na.png,0\nb.png\n", r"rows with more or fewer cells than its header \(2\): line 3"),
        (
            "file,class_index,class_name\na.png,2,blue\nb.png,0,blue\n",
            r"class_index and class_name are different.*b\.png",
        ),
        ("file,label,label\na.png,0,1\nb.png,1,1\n", r"more than one column 'label'"),
    ],
)
def test_labels_that_do_not_match(tmp_path, text, message):
    with pytest.raises(LabelFileError, match=message):
        labels(tmp_path, text)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00file")
    with pytest.raises(LabelFileError, match="cannot be read as a CSV table"):
        read_labels(tmp_path / "labels.csv", NAMES, CLASSES, 3)


def test_a_name_of_several_classes_is_refused(tmp_path):
    with pytest.raises(LabelFileError, match=r"names of several classes: a\.png \('crane' is any of \[0, 2\]\)"):
        labels(tmp_path, "file,class_name\na.png,crane\nb.png,red\n", classes=("crane", "red", "crane"))
