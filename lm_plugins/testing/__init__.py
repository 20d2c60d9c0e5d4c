"""The conformance kit: does a rule, or a whole model, keep the laws of layer masking?

For rules of your own and for the models that you rely on. It needs no test runner: a broken law is a
`lm_plugins.errors.ConformanceError`, which is an ``AssertionError``.
"""

from lm_plugins.testing.conformance import Kept, ModelConformance
from lm_plugins.testing.garbage import overwrite_hidden
from lm_plugins.testing.model import check_model
from lm_plugins.testing.rule import check_rule

__all__ = ["Kept", "ModelConformance", "check_model", "check_rule", "overwrite_hidden"]
