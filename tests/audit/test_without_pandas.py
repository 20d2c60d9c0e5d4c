"""The measures need torch only; whoever asks for the audit itself is told what is missing."""

import subprocess
import sys

CODE = """
import sys
for name in ("pandas", "pyarrow", "tqdm", "matplotlib", "captum", "skimage", "nltk"):
    sys.modules[name] = None
from lm_plugins import audit
print(round(audit.class_entropy([0, 1]), 4))
try:
    audit.run_audit
except ImportError as error:
    print(error)
"""


def test_measures_work_without_pandas():
    result = subprocess.run([sys.executable, "-W", "error", "-c", CODE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "0.6931",
        "the audit needs pandas and pyarrow: pip install 'lm_plugins[audit]'.",
    ]
