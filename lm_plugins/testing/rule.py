"""A rule put to the test: `check_rule`."""

from collections.abc import Callable
from typing import Any

import torch

from lm_plugins.errors import ConformanceError
from lm_plugins.masking import MaskingOptions
from lm_plugins.testing.case import cases
from lm_plugins.testing.rule_laws import LAWS

__all__ = ["check_rule"]


def check_rule(
    function: Callable[..., Any], *samples: Any, options: MaskingOptions | None = None, **named_samples: Any
) -> None:
    """Check that the rule of a torch function keeps the laws of layer masking.

    The function is called on crops of the sample images, the smallest first, with several masks each: so the first
    example that breaks a law is a small one.

    - All visible is plain torch, bit for bit.
    - Hidden values cannot matter, whatever they are: 1e30, infinities, NaN.
    - Nothing visible gives finite numbers.
    - An image of a batch is the image alone.
    - Gradients of hidden values are zero, those of visible ones exist and, with all visible, are plain torch's.
    - A call with positions is the call with keywords.
    - Arguments are not modified, except by functions that work in place.

    Args:
        function: The torch function, a method such as ``torch.Tensor.relu``, a layer, or a function of yours that calls
            torch functions. Not the rule.
        samples: What it is called with. Every floating-point tensor with four dimensions and the batch, height and width
            of the first one becomes an activation, in lists too; everything else is passed as it is. Two images of
            about 8 x 8 pixels suffice.
        options: The semantics; by default those of `lm_plugins.MaskingOptions`.
        named_samples: What it is called with by name.

    Raises:
        ConformanceError: A law is broken. The message says which, and shows the smallest failing example.
        UnsupportedOperatorError: The function has no rule, or calls one that has none.
        InputTypeError: There is no image among the samples, or the rule itself was passed.

    Example:
        >>> import torch
        >>> from lm_plugins.testing import check_rule
        >>> x = torch.randn(2, 3, 8, 8)
        >>> check_rule(torch.relu, x)
        >>> check_rule(torch.nn.functional.conv2d, x, torch.randn(4, 3, 3, 3), padding=1)
        >>> check_rule(torch.nn.MaxPool2d(2), x)
    """
    for case in cases(function, samples, named_samples, MaskingOptions() if options is None else options):
        for law in LAWS:
            with torch.no_grad():
                problem = law.check(case)
            if problem is not None:
                raise ConformanceError(
                    law.name,
                    f"the rule of {case.name} breaks a law: {law.name}.\n"
                    f"The smallest failing example:\n{case.describe()}\n"
                    f"  {problem}\n{law.advice}",
                )
