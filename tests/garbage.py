"""The invariant put to the test, by the kit that users have too."""

from lm_plugins.testing import overwrite_hidden

__all__ = ["overwrite_hidden"]
