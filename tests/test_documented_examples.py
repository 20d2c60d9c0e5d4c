"""The Python examples of the README and of the docs run as they are printed."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

ROOT = Path(__file__).parent.parent
PAGES = [
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if "```python" in page.read_text()
]


class Classifier(nn.Module):
    """A small stand-in for the reader's model of 1,000 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 7, stride=8, padding=3)
        self.fc = nn.Linear(8, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_a_page_run(
    page: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    visible = torch.ones(224, 224, dtype=torch.bool)
    visible[:64] = False
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    namespace: dict[str, object] = {
        "model": Classifier().eval(),
        "x": torch.rand(1, 3, 224, 224),
        "visible": visible,
        "image": image,
        "images": image[None] / np.float32(255),
        "photographs": torch.rand(20, 3, 224, 224),
        "preprocess": lambda image: torch.from_numpy(image).movedim(-1, 0) / 255,
    }
    exec("import torch\nimport lm_plugins as lm", namespace)
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for block in blocks:
        exec(compile(block, str(page), "exec"), namespace)
    printed = capsys.readouterr().out
    for expected in re.findall(r"```text\n(.*?)```", text, re.DOTALL):
        assert expected.strip() in printed


def test_pages_with_examples_are_found() -> None:
    assert {"README.md", "writing_a_rule.md", "options.md"} <= {page.name for page in PAGES}
