"""Rules from other packages: those that announce themselves under an entry point are loaded by themselves."""

import warnings
from importlib.metadata import EntryPoint, entry_points

from lm_plugins.errors import PluginWarning
from lm_plugins.masking.registry import adding_only

__all__ = ["GROUP", "load_plugins"]

#: The group of entry points.
GROUP = "lm_plugins.rules"


def load_plugins() -> None:
    """Load every entry point of the group `GROUP`: a module that registers rules, or a function that does when called.

    A plug-in may add rules, not replace any, nor take any out. One that fails leaves the table as it was before it, and
    a `PluginWarning` that names the distribution; the rest is loaded all the same.
    """
    for entry_point in sorted(entry_points(group=GROUP), key=lambda one: (_distribution(one), one.name)):
        try:
            with adding_only():
                loaded = entry_point.load()
                if entry_point.attr:
                    loaded()
        except Exception as error:  # whatever a foreign package raises, it must not take layer masking down
            warnings.warn(
                f"the masking rules of the package {_distribution(entry_point)!r} (entry point {entry_point.name!r} = "
                f"{entry_point.value!r}) were not loaded: {type(error).__name__}: {error}. Update or uninstall the "
                "package; models that need its rules will say so.",
                PluginWarning,
                stacklevel=2,
            )


def _distribution(entry_point: EntryPoint) -> str:
    distribution = entry_point.dist
    return "(unknown)" if distribution is None else f"{distribution.name} {distribution.version}"
