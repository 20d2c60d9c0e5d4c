"""Reports: each one self-contained HTML file that asks nothing from the network."""

from lm_plugins.report.audit_report import audit_report
from lm_plugins.report.examples import Example, Step, example_photographs
from lm_plugins.report.explanation_report import ExplainedImage, Explanation, explanation_report

__all__ = [
    "Example",
    "ExplainedImage",
    "Explanation",
    "Step",
    "audit_report",
    "example_photographs",
    "explanation_report",
]
