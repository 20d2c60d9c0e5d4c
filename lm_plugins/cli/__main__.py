"""``python -m lm_plugins.cli`` is ``lm-plugins``."""

from lm_plugins.cli import main

if __name__ == "__main__":
    main()
