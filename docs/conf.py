import json
import os
import shutil
from pathlib import Path

import click

import lm_plugins
from lm_plugins.cli.exit_codes import ExitCode
from lm_plugins.cli.program import program
from lm_plugins.masking.registry import function_name, registered_functions

DOCS = Path(__file__).resolve().parent

project = "lm_plugins"
author = "lm_plugins contributors"
copyright = "2026, lm_plugins contributors"
version = release = lm_plugins.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
# The last one is included by performance.md.
exclude_patterns = ["_build", "generated", "performance_tables.md"]

# The notebooks live beside docs/, where people look for them; Sphinx reads only what is inside.
shutil.rmtree(DOCS / "notebooks", ignore_errors=True)
shutil.copytree(DOCS.parent / "notebooks", DOCS / "notebooks", ignore=shutil.ignore_patterns("*.py", ".*"))

# The table of supported functions, from the rule table itself, so that it cannot drift.
carriers_of: dict[tuple[str, str, str, str], list[str]] = {}
for carriers, table in (("maps", registered_functions()), ("tokens", registered_functions(tokens=True))):
    for function, rule in table.items():
        text = (rule.__doc__ or "").split("\n")[0]
        key = (rule.__module__.rsplit(".", 1)[-1], rule.__name__, text, function_name(function))
        carriers_of.setdefault(key, []).append(carriers)
by_rule: dict[tuple[str, str, str, str], list[str]] = {}
for (kind, rule_name, text, name), carriers_names in carriers_of.items():
    by_rule.setdefault((kind, rule_name, text, " and ".join(carriers_names)), []).append(name)
(DOCS / "generated").mkdir(exist_ok=True)
(DOCS / "generated" / "supported_functions.md").write_text(
    f"{len({**registered_functions(), **registered_functions(tokens=True)})} spellings of torch functions have a rule.\n\n"
    "| kind | what it does | with | functions |\n|---|---|---|---|\n"
    + "".join(
        f"| {kind} | {text} | {of} | {', '.join(f'`{one}`' for one in sorted(set(names)))} |\n"
        for (kind, _, text, of), names in sorted(by_rule.items())
    )
)

# The table of architectures, from what benchmarks/coverage.py measured.
coverage = json.loads((DOCS / "coverage.json").read_text())
pages = [", ".join(f"{name} {one}" for name, one in coverage["versions"].items()) + "\n"]
titles = {"timm": "timm: the smallest model of each family", "torchvision": "torchvision: every classifier"}
for suite, title in titles.items():
    for attention in (False, True):
        rows = [row for row in coverage["rows"] if row["suite"] == suite and row["attention"] == attention]
        if not rows:
            continue
        pages += [
            f"## {title}, {'with' if attention else 'without'} attention\n",
            f"Every law holds for {sum(row['holds'] for row in rows)} of {len(rows)}.\n",
            "| module | family | model | million parameters | pixels a side | laws | what is missing |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            missing = ", ".join(f"`{one}`" for one in row["missing"]) or row["error"] or ""
            size = f"{row['parameters'] / 1e6:.1f} | {row['side'] or ''}"
            pages.append(
                f"| {row['module']} | {row['family']} | {row['model']} | {size} | {'hold' if row['holds'] else 'no'} | "
                f"{missing.replace('|', '/')} |"
            )
        pages.append("")
(DOCS / "generated" / "coverage.md").write_text("\n".join(pages))

# The reference of the command line, from the program itself.
with click.Context(program, info_name="lm-plugins", terminal_width=100) as parent:
    pages = []
    for name, command in sorted(program.commands.items()):
        with click.Context(command, info_name=name, parent=parent, terminal_width=100) as context:
            pages.append(
                f"## lm-plugins {name}\n\n```console\n$ lm-plugins {name} --help\n{command.get_help(context)}\n```\n"
            )
(DOCS / "generated" / "cli.md").write_text(
    "## Exit codes\n\n| code | meaning |\n|---|---|\n"
    + "".join(f"| {code.value} | {code.meaning} |\n" for code in ExitCode)
    + "\n"
    + "\n".join(pages)
)

# They are committed with their outputs, and run by `make notebooks`.
nb_execution_mode = "off"
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_numpy_docstring = False
copybutton_exclude = ".linenos, .gp"

# Links into other projects' documentation need a network. The build has to work without one.
if os.environ.get("DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "captum": ("https://captum.ai/api/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "python": ("https://docs.python.org/3/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }

html_extra_path = ["sample_report.html"]
html_theme = "furo"
html_title = f"lm_plugins {release}"
