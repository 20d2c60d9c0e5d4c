import numpy as np
import pytest
from PIL import Image

from lm_plugins.cli.program import run

MODEL = "tests.cli.small_models:classifier"


@pytest.fixture
def photos(tmp_path):
    """Three photographs of 40 x 32 pixels: red, green, blue, each with some noise."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for channel, name in enumerate(("red.png", "green.jpg", "blue.png")):
        array = random.integers(0, 90, (32, 40, 3), np.uint8)
        array[..., channel] += 150
        Image.fromarray(array).save(folder / name)
    return folder


@pytest.fixture
def lm_plugins_command(capsys, monkeypatch):
    """Run the program; returns its exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "100")

    def command(*arguments):
        capsys.readouterr()
        code = int(run([str(one) for one in arguments]))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command
