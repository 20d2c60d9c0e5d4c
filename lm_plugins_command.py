"""The command ``lm-plugins``. It stands outside of the package, so that Ctrl-C is heard while the package is imported."""

import sys


def main() -> None:
    """Run ``lm-plugins`` with the arguments of this process, and leave with its exit code."""
    try:
        from lm_plugins.cli import main as run

        run()
    except KeyboardInterrupt:
        print("lm-plugins: stopped.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
