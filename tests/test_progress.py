"""The progress bar: one for all, silent where nobody asked."""

import subprocess
import sys

from lm_plugins.progress import progress


def test_it_counts_to_the_end(capsys):
    with progress(5, "masks", show=True) as done:
        done(2)
        done.skip(2)
        done()
    shown = capsys.readouterr().err
    assert "masks: 100%" in shown
    assert "5/5" in shown


def test_what_was_done_before_says_nothing_about_the_speed():
    with progress(100, "parts", show=True) as done:
        done.skip(98)
        done(1)
        assert done._bar.n == 99
        assert done._bar.n - done._bar.initial == 1


def test_nothing_is_shown_where_nobody_asked(capsys):
    with progress(5, "masks", show=False) as done:
        done(2)
        done.skip()
    assert capsys.readouterr() == ("", "")


def test_without_tqdm_a_bar_says_what_to_install_and_none_needs_nothing():
    code = """
import sys
sys.modules["tqdm"] = sys.modules["tqdm.auto"] = None
from lm_plugins.progress import progress
with progress(1, "masks", show=False) as done:
    done()
try:
    with progress(1, "masks", show=True):
        pass
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "a progress bar needs tqdm: pip install tqdm.\n"
