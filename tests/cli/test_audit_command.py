import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from lm_plugins.audit import AuditResult
from lm_plugins.cli.exit_codes import ExitCode

MODEL = "tests.cli.small_models:classifier"
FEW = ("--features", "patches", "--orders", "random", "--fractions", "0.5", "--measures", "missingness", "--removals")


# A model that waits for the signal as soon as a part of the audit is finished.
WAITING = """
import os, time
from tests.cli.small_models import Classifier

class Waiting(Classifier):
    def forward(self, x):
        if os.path.isdir({parts!r}) and os.listdir({parts!r}):
            open({waits!r}, "w").close()
            time.sleep(60)
        return super().forward(x)
"""


@pytest.fixture
def audit(lm_plugins_command, photos, tmp_path):
    """Run a small audit of grey and black."""

    def run(*more, model=MODEL, removals="grey,black"):
        arguments = ("--images", photos, "--model", model, "--out", tmp_path / "out", *FEW, removals, *more)
        return lm_plugins_command("audit", *arguments)

    return run


def files(folder):
    return {one.name for one in folder.iterdir() if one.is_file()}


def test_an_audit_from_beginning_to_end(audit, tmp_path, photos):
    labels = tmp_path / "labels.csv"
    labels.write_text("file,class_name\nred.png,red\ngreen.jpg,green\nblue.png,blue\n")
    code, out, _ = audit("--labels", labels, "--json")
    assert code == ExitCode.DONE
    answer = json.loads(out)
    assert answer["images"] == 3
    assert answer["skipped"] == {}
    assert {row["measure"] for row in answer["summary"]} >= {"accuracy", "agreement", "class_entropy"}
    assert files(tmp_path / "out") == {
        ".lock", "answers.npz", "audit.json", "audit.toml", "examples.json", "report.html", "settings.json", "summary.csv",
        "table.csv", "table.parquet",
    }  # fmt: skip
    provenance = AuditResult.load(tmp_path / "out").provenance
    assert provenance["model_name"] == MODEL
    assert provenance["image_folder"] == "photos"
    assert len(provenance["images_sha256"]) == 64
    assert str(tmp_path) not in json.dumps(provenance)


def test_every_number_is_recomputed_from_the_saved_table(audit, lm_plugins_command, tmp_path):
    audit()
    out = tmp_path / "out"
    report = (out / "report.html").read_text()
    (out / "report.html").unlink()
    (out / "summary.csv").unlink()
    code, text, _ = lm_plugins_command("audit", "--from", out, "--summary")
    assert code == ExitCode.DONE
    assert (out / "report.html").read_text() == report
    assert f"{AuditResult.load(out).summary['mean'].iloc[0]:.3f}" in text


def test_the_config_that_is_written_repeats_the_run(audit, lm_plugins_command, tmp_path):
    audit()
    config = (tmp_path / "out" / "audit.toml").read_text()
    again = tmp_path / "again.toml"
    again.write_text(config.replace(str(tmp_path / "out"), str(tmp_path / "again")))
    code, _, err = lm_plugins_command("audit", "--config", again)
    assert code == ExitCode.DONE, err
    tables = [pd.read_parquet(tmp_path / name / "table.parquet") for name in ("out", "again")]
    pd.testing.assert_frame_equal(*tables)


def test_quick_changes_what_was_not_said(lm_plugins_command, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    code, out, err = lm_plugins_command(
        "audit", "--images", photos, "--model", MODEL, "--removals", "grey", "--fractions", "0.5", "--quick", "--json"
    )
    assert code == ExitCode.DONE, err
    answer = json.loads(out)
    assert Path(answer["folder"]) == Path("audit-quick")
    assert {row["fraction"] for row in answer["summary"]} == {0.0, 0.5}
    assert {row["order"] for row in answer["summary"]} == {"random"}


def test_broken_images_are_skipped_and_listed_in_the_report(audit, photos, tmp_path):
    (photos / "broken.png").write_text("no image")
    code, _, err = audit()
    assert code == ExitCode.DONE
    assert "skipped 1 of 4 images:\n  broken.png: no image" in err
    report = (tmp_path / "out" / "report.html").read_text()
    assert "<code>broken.png</code>: no image" in report


def test_names_with_html_are_escaped(audit, photos, tmp_path):
    name = "<img src=x onerror=alert(1)>&quot;.png"
    Image.new("RGB", (32, 32)).save(photos / name)
    (photos / "<script>alert(2)<_script>.png").write_text("no image")
    code, _, _ = audit("--examples", "5")
    assert code == ExitCode.DONE
    report = (tmp_path / "out" / "report.html").read_text()
    assert "<img src=x" not in report
    assert "<script>alert" not in report
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;quot;.png" in report


def test_an_uncovered_model_goes_on_with_the_other_removals(audit, tmp_path):
    code, out, err = audit(model="tests.cli.small_models:uncovered", removals="layer_masking,grey")
    assert code == ExitCode.DONE
    assert "layer_masking was left out" in err
    assert "torch.erfinv" in err
    assert "recommended: grey" in out
    report = (tmp_path / "out" / "report.html").read_text()
    assert "<strong>layer_masking</strong> was left out" in report


def test_an_audit_goes_on_where_it_was_stopped(audit, tmp_path, monkeypatch):
    from lm_plugins.audit import checkpoints

    calls = []
    save = checkpoints.Checkpoints.save

    def stop_after_two(self, rows, *key):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(key)
        save(self, rows, *key)

    monkeypatch.setattr(checkpoints.Checkpoints, "save", stop_after_two)
    code, _, err = audit()
    assert code == ExitCode.INTERRUPTED == 130
    assert "The same command goes on where it stopped" in err
    assert not (tmp_path / "out" / "audit.json").exists()
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 2

    def count(self, rows, *key):
        calls.append(key)
        save(self, rows, *key)

    monkeypatch.setattr(checkpoints.Checkpoints, "save", count)
    code, _, _ = audit()
    assert code == ExitCode.DONE
    assert len(calls) == 6  # three images with two removals, none of them twice


@contextmanager
def process_of_its_own(tmp_path, *arguments):
    """The program in a process that hears Ctrl-C, whatever this one was started with, and that does not outlive the test."""
    # A handler becomes the default in a new process; what is ignored, as in a script's background, stays ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"},
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(file, process):
    for _ in range(600):
        if file.exists() or process.poll() is not None:
            return
        time.sleep(0.1)


@pytest.mark.slow
def test_ctrl_c_in_a_process_of_its_own(photos, tmp_path):
    parts, waits = tmp_path / "out" / "parts", tmp_path / "waits"
    (tmp_path / "waiting_net.py").write_text(WAITING.format(parts=str(parts), waits=str(waits)))
    arguments = ["--images", photos, "--model", "waiting_net:Waiting", "--out", tmp_path / "out", *FEW, "grey,black"]
    with process_of_its_own(tmp_path, "-m", "lm_plugins.cli", "audit", *arguments) as process:
        wait_for(waits, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED, err
    assert "goes on where it stopped" in err
    assert list(parts.iterdir())
    assert not (tmp_path / "out" / "audit.json").exists()


# A file that is half written when the signal comes.
HALF_WRITTEN = """
import pathlib, time
from tests.cli.small_models import Classifier

write_text = pathlib.Path.write_text

def half(self, text, *args, **kwargs):
    if "audit.json" not in self.name:
        return write_text(self, text, *args, **kwargs)
    write_text(self, text[: len(text) // 2], *args, **kwargs)
    open({waits!r}, "w").close()
    time.sleep(60)

pathlib.Path.write_text = half
"""


@pytest.mark.slow
def test_being_terminated_leaves_nothing_half_written(photos, tmp_path):
    waits = tmp_path / "waits"
    (tmp_path / "half_net.py").write_text(HALF_WRITTEN.format(waits=str(waits)))
    arguments = ["--images", photos, "--model", "half_net:Classifier", "--out", tmp_path / "out", *FEW, "grey"]
    with process_of_its_own(tmp_path, "-m", "lm_plugins.cli", "audit", *arguments) as process:
        wait_for(waits, process)
        assert [one for one in files(tmp_path / "out") if one.endswith(".partial")]
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.TERMINATED, err
    assert "goes on where it stopped" in err
    assert not [one for one in files(tmp_path / "out") if one.endswith(".partial")]
    assert "audit.json" not in files(tmp_path / "out")


def test_ctrl_c_while_importing_is_no_traceback(tmp_path):
    (tmp_path / "torch.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    with process_of_its_own(tmp_path, "-m", "lm_plugins_command", "removals") as process:
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (ExitCode.INTERRUPTED, "lm-plugins: stopped.\n")


def test_a_full_disk_leaves_nothing_half_written(audit, tmp_path, monkeypatch):
    real = Path.write_text

    def full(self, text, *args, **kwargs):
        if "report.html" in self.name:
            real(self, text[: len(text) // 2], *args, **kwargs)
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return real(self, text, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    code, _, err = audit()
    assert code == ExitCode.OUTPUT
    assert "No space left on device" in err
    assert "nothing half-written is" in err
    assert not any("report" in one for one in files(tmp_path / "out"))
    monkeypatch.setattr(Path, "write_text", real)
    assert audit()[0] == ExitCode.DONE


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_computed(audit, tmp_path, monkeypatch):
    (tmp_path / "out").write_text("a file where the folder should be")
    monkeypatch.setattr("lm_plugins.cli.parameters.load_model", None)
    code, _, err = audit()
    # click itself sees that it is a file
    assert code == ExitCode.USAGE
    assert "is a file" in err
    (tmp_path / "out").unlink()

    def refused(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refused)
    code, _, err = audit()
    assert code == ExitCode.OUTPUT
    assert "cannot be written to (Permission denied)" in err


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--removals", "gray"], 2, "no removal is called 'gray'; there are layer_masking, grey.* Did you mean grey"),
        (["--model", "resnet"], 2, "no model is called 'resnet'"),
        (["--measures", "beauty"], 2, "no measure is called 'beauty'; there are missingness"),
        (["--fractions", "a"], 2, "'a' is not a number"),
        (["--fractions", "0.5,2"], 2, r"fractions are in .*got .0.5, 2.0."),
        (["--device", "abacus"], 2, "device 'abacus' cannot be used"),
        (["--model", "tests.cli.small_models:spatial"], 2, r"\(N, classes\)"),
        (["--from", "."], 2, "holds no finished audit"),
    ],
)
def test_wrong_options(audit, arguments, code, text, monkeypatch, tmp_path):
    import re

    found, _, err = audit(*arguments)
    assert found == code
    assert re.search(text, " ".join(err.split())), err


def test_images_are_needed(lm_plugins_command, tmp_path):
    code, _, err = lm_plugins_command("audit")
    assert (code, "--images DIR" in err) == (ExitCode.USAGE, True)
    code, _, err = lm_plugins_command("audit", "--images", tmp_path, "--model", MODEL, "--out", tmp_path / "out")
    assert (code, "no images in" in err) == (ExitCode.INPUT, True)


def test_labels_that_do_not_match(audit, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("file,label\nred.png,0\n")
    code, _, err = audit("--labels", labels)
    assert code == ExitCode.INPUT
    assert "2 of 3 images have no row in labels.csv: blue.png, green.jpg." in err


def test_a_malicious_checkpoint(audit, tmp_path):
    import torch

    from tests.cli.test_loading_models import Malicious

    torch.save(Malicious(), tmp_path / "evil.pt")
    code, _, err = audit("--checkpoint", tmp_path / "evil.pt")
    assert code == ExitCode.INPUT
    assert "evil.pt is refused" in err


def test_other_settings_in_the_same_folder(audit):
    assert audit()[0] == ExitCode.DONE
    code, _, err = audit("--seed", "1")
    assert code == ExitCode.USAGE
    assert "other settings" in err
    assert "--no-resume" in err
    assert "resume=" not in err
    assert audit("--seed", "1", "--no-resume")[0] == ExitCode.DONE


ODD = {"settings.json": [b"x", b"[]", b"3", "{}".encode("utf-16")]}
ODD["audit.json"] = [b"x", b"[]", b"null", b"{}", b'{"rows": 6, "provenance": [1]}', "{}".encode("utf-16")]
ODD["examples.json"] = [
    b"x",
    b"[]",
    b"{}",
    b'{"examples": [{"a": 1}], "skipped": {}}',
    b'{"examples": [], "skipped": 3}',
]
ODD["table.parquet"] = [b"", b"x" * 100, "cut", "columns", "types", "gaps"]


def odd_table(file, what):
    table = pd.read_parquet(file)
    changed = {
        "columns": table.drop(columns="value"),
        "types": table.assign(value="x", fraction="y"),
        "gaps": table.assign(value=float("nan")),
    }
    if what in changed:
        changed[what].to_parquet(file, index=False)
    else:
        file.write_bytes(file.read_bytes()[:200])


def test_a_damaged_folder_is_said(audit, lm_plugins_command, tmp_path):
    assert audit(removals="grey")[0] == ExitCode.DONE
    out = tmp_path / "out"
    for name, contents in ODD.items():
        whole = (out / name).read_bytes()
        for content in contents:
            (out / name).write_bytes(whole)
            if isinstance(content, str):
                odd_table(out / name, content)
            else:
                (out / name).write_bytes(content)
            is_resumed = name == "settings.json"
            code, _, err = (
                audit(removals="grey") if is_resumed else lm_plugins_command("audit", "--from", out, "--summary")
            )
            assert code == ExitCode.USAGE, (name, content, err)
            assert "Traceback" not in err
            assert "un it again" in err or "run the audit again" in err or "--no-resume" in err, (name, content, err)
        (out / name).write_bytes(whole)
    assert audit("--no-resume", removals="grey")[0] == ExitCode.DONE


ODD_NAMES = [b"caf\xe9.png", b"\x1b[31mred\x1b]0;title\x07.png", b"line\nbreak.png"]


def test_names_that_are_no_text_or_that_a_terminal_obeys(audit, lm_plugins_command, photos, tmp_path):
    for name in ODD_NAMES:
        shutil.copy(photos / "red.png", photos / os.fsdecode(name))
    (photos / os.fsdecode(b"\x1b[32mbad\xff.png")).write_text("no image")
    code, out, err = audit("--json", removals="grey")
    assert code == ExitCode.DONE, err
    answer = json.loads(out)
    assert answer["images"] == 6
    assert answer["skipped"] == {r"\x1b[32mbad\xff.png": "no image"}
    names = set(AuditResult.load(tmp_path / "out").table["image"])
    assert {r"caf\xe9.png", r"\x1b[31mred\x1b]0;title\x07.png", r"line\nbreak.png"} <= names
    code, out, more = lm_plugins_command(
        "explain", photos, "--model", MODEL, "--removal", "grey", "--features", "grid:16", "--figures", "png", "--out",
        tmp_path / "explained",
    )  # fmt: skip
    assert code == ExitCode.DONE, more
    assert r"caf\xe9.png: red" in out
    assert r"\x1b[32mbad\xff.png: no image" in more
    assert "\x1b[3" not in out + err + more


def test_a_folder_that_is_no_text_is_audited(audit, photos, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(photos, folder)
    code, _, err = audit("--images", folder, removals="grey")
    assert code == ExitCode.DONE, err
    assert AuditResult.load(tmp_path / "out").provenance["image_folder"] == r"caf\xe9"
    assert "# images is not UTF-8" in (tmp_path / "out" / "audit.toml").read_text(encoding="utf-8")


def test_escape_codes_in_messages_do_not_reach_the_terminal(audit, lm_plugins_command, tmp_path):
    labels = tmp_path / "l\x1b[31m.csv"
    labels.write_text("a\n")
    _, _, err = audit("--labels", labels)
    assert r"l\x1b[31m.csv needs a column" in err
    _, _, err = lm_plugins_command("explain", tmp_path / "no\x1b[31m.png", "--model", MODEL)
    assert "\x1b" not in err
    assert "does not exist" in err


def test_a_model_that_leaves_or_prints(audit):
    code, _, err = audit(model="tests.cli.small_models:Leaving")
    assert (code, "left the program with sys.exit(0)" in err) == (ExitCode.INPUT, True)
    code, out, _ = audit("--json", model="tests.cli.small_models:Talkative", removals="grey")
    assert (code, json.loads(out)["images"]) == (ExitCode.DONE, 3)


def test_an_audit_takes_no_detections(audit):
    code, _, err = audit("--output", "detection")
    assert code != ExitCode.DONE
    assert "--output detection is for `lm-plugins explain`" in " ".join(err.split())
