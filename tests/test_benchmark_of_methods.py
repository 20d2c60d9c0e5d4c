"""What the comparison of explanation methods keeps from an earlier run."""

import importlib
import json
from pathlib import Path

import pytest


@pytest.fixture
def methods(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("methods")


def test_rows_of_another_model_are_refused(methods, tmp_path):
    store, about = tmp_path / "methods.json", {"model": "lite0", "answer": [0.5]}
    assert methods.kept_rows(store, about) == []
    store.write_text(json.dumps({"about": about, "rows": [{"image": "a"}]}))
    assert methods.kept_rows(store, about) == [{"image": "a"}]
    with pytest.raises(SystemExit, match=r"model was lite0, is lite1.*--out"):
        methods.kept_rows(store, {**about, "model": "lite1"})
    with pytest.raises(SystemExit, match=r"answer was \[0.5\], is \[0.6\]"):
        methods.kept_rows(store, {**about, "answer": [0.6]})


def test_the_table_has_medians_of_seconds_and_names_what_is_inserted_into(methods):
    rows = [
        {"image": str(i), "method": "m", "seconds": one, "insertion": 0.5, "insertion, blurred copy": 0.25, "passes": 3}
        for i, one in enumerate((1.0, 2.0, 30.0))
    ]  # fmt: skip
    head, _, line = methods.table(rows).splitlines()
    assert head == "| method | images | seconds, median | insertion, grey ↑ | insertion, blurred copy ↑ | images run |"
    assert line == "| m | 3 | 2.0 | 0.500 | 0.250 | 3 |"
