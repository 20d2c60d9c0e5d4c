"""One HTML page with everything in it: style, script, pictures."""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from lm_plugins.errors import MissingDependencyError

try:
    import jinja2
    from markupsafe import Markup
except ImportError as error:
    raise MissingDependencyError("reports need Jinja2: pip install 'lm_plugins[cli]'.") from error

__all__ = ["rendered"]


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lm_plugins.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.3g} %"
    environment.filters["number"] = lambda value: f"{value:.3f}"
    return environment


def rendered(template: str, **content: Any) -> str:
    """Fill a template.

    Everything in `content` is escaped. The page's own Content-Security-Policy forbids scripts and styles other than its own,
    and everything that would have to be fetched.

    Args:
        template: A file of ``templates/``.
        content: What it shows.

    Returns:
        The page.
    """
    static = files("lm_plugins.report") / "static"
    style = (static / "report.css").read_text(encoding="utf-8")
    script = (static / "report.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_allowed(style)}; script-src {_allowed(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    page = _environment().get_template(template)
    return page.render(style=Markup(style), script=Markup(script), policy=Markup(policy), **content)


def _allowed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
