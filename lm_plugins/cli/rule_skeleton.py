"""Rules to start from, for the functions of a model that have none."""

from textwrap import fill, indent

import torch

from lm_plugins.masking.coverage import Coverage
from lm_plugins.masking.registry import function_name, spellings

__all__ = ["rule_skeleton"]

_HEAD = '''"""Masking rules. Import this module before you use the model; docs/writing_a_rule.md says how to write them.

A rule keeps one promise: it never lets a value at a hidden position reach a visible one.
"""

import torch

import lm_plugins as lm
'''

_RULE = '''

# Called in {paths}.
@lm.register_rule({functions})
def {name}(input, *args, **kwargs):
    """Say what it does."""
    # A function of one position changes values only:
    #     return input.like({first}(input.values, *args, **kwargs))
    # One that reads several positions replaces hidden values first:
    #     visible = input.visibility.visible
    #     return {first}(input.with_hidden(0.0, visible), *args, **kwargs)
    raise NotImplementedError("edit the rule of {first}")
'''

_EXTENDED = '''

# Called in {paths}.
{reason}
{name}_before = registered_functions()[{first}]


@lm.register_rule({first}, overwrite=True)
def {name}(input, *args, **kwargs):
    """Say what it does."""
    # Handle that call here, and leave all others to the rule that is there.
    return {name}_before(input, *args, **kwargs)
'''


def rule_skeleton(found: Coverage) -> str:
    """A Python module with a rule to edit for each function that is missing.

    Args:
        found: The coverage of a model.

    Returns:
        Its text. Until it is edited, a rule says so when it is called.

    Example:
        >>> import torch
        >>> import lm_plugins as lm
        >>> from lm_plugins.cli.rule_skeleton import rule_skeleton
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.LPPool3d(2, 2)).eval()
        >>> text = rule_skeleton(lm.coverage(model, torch.rand(1, 3, 8, 8)))
        >>> "@lm.register_rule(torch.nn.functional.lp_pool3d" in text
        True
    """
    parts = [_HEAD + ("from lm_plugins.masking.registry import registered_functions\n" if found.reasons else "")]
    taken: dict[str, int] = {}
    for public, paths in found.missing.items():
        name = public.rsplit(".", 1)[-1].strip("_")
        taken[name] = taken.get(name, 0) + 1
        name += "" if taken[name] == 1 else f"_{taken[name]}"
        called = ", ".join(paths)
        if public in found.reasons:
            reason = fill(f"It has a rule that does not cover this call: {found.reasons[public]}", 118)
            parts.append(_EXTENDED.format(paths=called, reason=indent(reason, "# "), first=public, name=name))
        else:
            functions = ", ".join(_spelled(public))
            parts.append(_RULE.format(paths=called, functions=functions, first=public, name=name))
    return "".join(parts)


def _spelled(public: str) -> list[str]:
    """The names of all spellings of a function in torch that could be called in its place."""
    try:
        names = [function_name(one) for one in spellings(public.rsplit(".", 1)[-1].rstrip("_"))]
    except Exception:  # functions outside of torch's public places have one spelling only
        return [public]
    usable = [name for name in dict.fromkeys([public, *names]) if _exists(name)]
    return usable or [public]


def _exists(name: str) -> bool:
    value: object = torch
    for part in name.split(".")[1:]:
        value = getattr(value, part, None)
    return name.startswith("torch.") and callable(value)
