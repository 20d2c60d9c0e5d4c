"""Small reports, and a headless Chromium to read them with."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from lm_plugins.audit import AuditResult
from lm_plugins.removal import as_removal
from lm_plugins.report import (
    ExplainedImage,
    Explanation,
    audit_report,
    example_photographs,
    explanation_report,
)
from tests.cli.small_models import Classifier

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def audit_result():
    """Two removals, two measures with curves and one without; grey keeps more."""
    random = np.random.default_rng(0)
    rows = []
    for removal, kept in (("grey", 0.9), ("layer_masking", 0.6)):
        for image in range(6):
            for fraction in (0.0, 0.3, 0.6):
                right = float(random.random() < kept) if fraction else 1.0
                for measure, value in (("agreement", right), ("confidence", kept - fraction / 2)):
                    rows.append((measure, removal, "patches", "random", fraction, f"image {image}", value, 0))
            rows.append(("colour_bias", removal, "patches", "", float("nan"), f"image {image}", 0.1, 0))
    columns = ["measure", "removal", "features", "order", "fraction", "image", "value", "seed"]
    provenance = {"versions": {"torch": "2"}, "removals": {"grey": "Colour(value=0.0)"}, "seed": 0}
    return AuditResult(pd.DataFrame(rows, columns=columns), provenance)


def examples(names=("a photograph.png",)):
    model = Classifier().eval()
    images = [torch.rand(3, 32, 32) for _ in names]
    return example_photographs(
        model,
        images,
        names,
        {name: as_removal(name) for name in ("grey", "layer_masking")},
        (0.3, 0.6),
        lambda x: x.clamp(0, 1),
        str,
        patch=8,
    )


def explained(name="a photograph.png"):
    ramp = torch.arange(32.0).expand(32, 32) / 31 - 0.5
    ranks = (1 - (ramp + 0.5)).clamp(0, 0.99)
    left = {0.0: 0.9, 0.5: 0.4, 0.9: 0.1}
    both = [Explanation(removal, sign * ramp, ranks, left, 0.1) for removal, sign in (("grey", 1), ("black", -1))]
    return ExplainedImage(name, torch.rand(3, 32, 32), "red", 0.9, "red", both)


@pytest.fixture
def audit_page(tmp_path):
    file = tmp_path / "audit.html"
    file.write_text(audit_report(audit_result(), examples(), {"broken.png": "no image"}), encoding="utf-8")
    return file


@pytest.fixture
def explanation_page(tmp_path):
    file = tmp_path / "explanation.html"
    file.write_text(explanation_report([explained()], "occlusion", "slide a window", {"seed": 0}), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium: Debian's, where it is installed."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("reports are tested in Chromium, which is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


class Visit:
    """A page that is open, with everything that it asked for and complained about."""

    def __init__(self, browser, file, **options):
        self.requests, self.complaints = [], []
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.page.route("**/*", self._route)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.url = file.resolve().as_uri()
        self.page.goto(self.url)

    def _route(self, route):
        self.requests.append(route.request.url)
        if route.request.url == self.url or route.request.url.startswith("data:"):
            route.continue_()
        else:
            route.abort()


@pytest.fixture
def visit(chromium):
    """Open a page; at the end, nothing may have been fetched from anywhere, and nothing may have gone wrong."""
    visits = []

    def open_page(file, **options):
        visits.append(Visit(chromium, file, **options))
        return visits[-1].page

    yield open_page
    for one in visits:
        one.context.close()
        assert [url for url in one.requests if url != one.url and not url.startswith("data:")] == []
        assert one.complaints == []
