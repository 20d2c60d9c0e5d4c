"""The command line: ``lm-plugins audit``, ``explain``, ``models``, ``methods``, ``removals`` and ``coverage``."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run ``lm-plugins`` with the arguments of this process, and leave with its exit code."""
    try:
        from lm_plugins.cli.program import run
    except ImportError as error:
        sys.exit(f"lm-plugins needs more packages ({error}): pip install 'lm_plugins[cli]'.")
    sys.exit(run())
