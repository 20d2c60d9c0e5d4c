"""What the table of architectures keeps from an earlier run."""

import json
from dataclasses import asdict

import pytest

coverage = pytest.importorskip("benchmarks.coverage", reason="it asks timm and torchvision for their models")


@pytest.fixture
def resumed(monkeypatch, tmp_path):
    """Run the benchmark on two models that are not there; returns the names of those that were checked."""
    store = tmp_path / "coverage.json"
    names = ("kept", "fails")

    def run(versions):
        checked = []

        def check(row):
            checked.append(row.model)
            row.all_visible = row.pixels = row.hidden = row.batch = 0.0
            row.nothing, row.change = row.model == "kept", 1.0
            return row

        rows = [coverage.Row("timm", "m", "f", name) for name in names]
        monkeypatch.setattr(coverage, "timm_rows", lambda *_: rows)
        monkeypatch.setattr(coverage, "torchvision_rows", lambda *_: [])
        monkeypatch.setattr(coverage, "check", check)
        monkeypatch.setattr(coverage, "versions", lambda: versions)
        monkeypatch.setattr("sys.argv", ["coverage.py", "--out", str(store), "--resume"])
        with pytest.raises(SystemExit) as end:
            coverage.main()
        return checked, end.value.code

    run.store = store
    return run


def test_rows_of_the_same_versions_are_kept_where_every_law_holds(resumed):
    assert resumed({"torch": "1"}) == (["kept", "fails"], True)
    assert resumed({"torch": "1"}) == (["fails"], True)


def test_rows_of_other_versions_are_refused(resumed, capsys):
    resumed({"torch": "1", "timm": "2"})
    before = resumed.store.read_text()
    assert resumed({"torch": "3", "timm": "2"}) == ([], 2)
    assert "rows of other versions (torch was 1, is 3): take another file" in capsys.readouterr().err
    assert resumed.store.read_text() == before


def test_rows_without_versions_are_refused(resumed):
    resumed.store.write_text(json.dumps({"rows": [{**asdict(coverage.Row("timm", "m", "f", "kept")), "holds": True}]}))
    assert resumed({"torch": "1"}) == ([], 2)
