"""Make ``import torchvision`` work in a virtual environment where its compiled operators do not load.

torchvision's wheel carries operators compiled against one build of torch. Beside another build (say, a CPU build of
torch and a torchvision that expects CUDA) they do not load, and the import stops with
``operator torchvision::nms does not exist``. That is a fault of the environment, not of torchvision or of this
library, so it is mended in the environment: ``make`` runs this script when, and only when, the import fails.

What it does: in the virtual environment's own copy of ``torchvision/_meta_registrations.py``, the shape functions of
operators that are not there are no longer registered. Models, transforms and datasets then work in full;
``torchvision.ops`` functions that need a compiled operator still raise torchvision's own error when called.

It changes nothing where the import works, nothing outside a virtual environment, and nothing a second time.
Reinstalling torchvision undoes it.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

SYMPTOM = re.compile(r"operator torchvision::\w+ does not exist")
REGISTRATION = re.compile(r'^@torch\.library\.register_fake\((?=["\']torchvision::)', re.MULTILINE)
HELPER_NAME = "_register_fake_if_loaded"
HELPER = f"""\
# Added by mend_torchvision.py, because the compiled operators do not load in this virtual environment.
def {HELPER_NAME}(op_name):
    def wrapper(fn):
        if torchvision.extension._has_ops():
            return torch.library.register_fake(op_name)(fn)
        return fn

    return wrapper


"""


def import_error() -> str:
    """What ``import torchvision`` says in a fresh interpreter; empty when it works."""
    result = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    return result.stderr.strip() or "(no message)" if result.returncode else ""


def write(path: Path, text: str) -> None:
    """Replace the file as a whole, so that an interrupted run, or a hard link into a package cache, does no harm."""
    scratch = path.with_name(f"{path.name}.mending")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def main() -> str:
    """Mend the installed torchvision where that is needed, and say what was done.

    Raises:
        SystemExit: The import fails for a reason that this script does not know how to mend, or it runs outside a
            virtual environment.
    """
    error = import_error()
    if not error:
        return "torchvision imports: nothing to mend"
    if not SYMPTOM.search(error):
        sys.exit(f"{error}\n`import torchvision` fails, and not for want of its compiled operators: left as it is")
    if sys.prefix == sys.base_prefix:
        sys.exit("this Python is not a virtual environment: torchvision left as it is")

    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        sys.exit("torchvision is not installed")
    path = Path(package.origin).with_name("_meta_registrations.py")
    original = path.read_text(encoding="utf-8")
    first = REGISTRATION.search(original)
    if first is None or HELPER_NAME in original:
        sys.exit(f"{error}\nno unguarded registration found in {path}: left as it is")

    guarded, count = REGISTRATION.subn(f"@{HELPER_NAME}(", original)
    write(path, guarded[: first.start()] + HELPER + guarded[first.start() :])
    error = import_error()
    if error:
        write(path, original)
        sys.exit(f"{error}\nguarding {count} registrations did not help: {path} restored")
    return (
        f"torchvision's compiled operators do not load beside this torch: guarded {count} registrations in {path}. "
        "It imports now; only torchvision.ops functions with a compiled kernel stay unavailable."
    )


if __name__ == "__main__":
    print(main())
