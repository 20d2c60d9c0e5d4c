import os
import sys

import pytest
import torch
from hypothesis import settings

# Workers of pytest-xdist share the cores: one thread each. An explicit OMP_NUM_THREADS has the last word.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

# The same examples in every run, and no deadline: a first convolution may take long on a busy machine.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_figure_stays_open():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
