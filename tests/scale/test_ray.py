"""The same results from Ray's workers, also when one of them is killed."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from lm_plugins.errors import ModelLoadingError, OptionError
from tests.scale.data_sets import folder_of, preprocess
from tests.scale.test_explaining import bytes_of, explain

ray = pytest.importorskip("ray")
# Ray's own: sockets that it leaves to the garbage collector, and what it says about itself.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:ray"),
]
FACTORY = "tests.scale.data_sets:small_model"


@pytest.fixture(scope="module")
def cluster():
    ray.init(
        num_cpus=2, log_to_driver=False, include_dashboard=False, logging_level="error",
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}},
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("photographs"), 12)


def test_the_engine_does_not_matter(cluster, photographs, tmp_path):
    explain(photographs, tmp_path / "local")
    explain(photographs, tmp_path / "ray", engine="ray", workers=2, model=FACTORY)
    assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "local")
    explain(photographs, tmp_path / "ray", engine="ray")  # nothing is left to do


def test_a_killed_worker(cluster, photographs, tmp_path):
    explain(photographs, tmp_path / "local", shard=1, samples=300)
    out, killed = tmp_path / "ray", []

    def kill():
        while not list(out.glob("shards/*/done.json")):
            time.sleep(0.005)
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "cmdline").read_text().startswith("ray::MapWorker"):
                    os.kill(int(process.name), signal.SIGKILL)
                    killed.append(process.name)

    killer = threading.Thread(target=kill)
    killer.start()
    explain(photographs, out, shard=1, samples=300, engine="ray", workers=1, model=FACTORY)
    killer.join()
    assert killed
    assert bytes_of(out) == bytes_of(tmp_path / "local")


def test_errors_of_workers_come_back(cluster, photographs, tmp_path):
    with pytest.raises(OptionError, match="samples=3 draws fewer"):
        explain(photographs, tmp_path, samples=3, engine="ray", model=FACTORY)
    with pytest.raises(OptionError, match="0 GPUs"):
        explain(photographs, tmp_path / "gpu", gpus=0.5, engine="ray", model=FACTORY)


def test_what_cannot_be_sent(cluster, photographs, tmp_path):
    lock = threading.Lock()
    with pytest.raises(ModelLoadingError, match=r"package\.module:factory"):
        explain(photographs, tmp_path, preprocess=lambda image: (lock, preprocess(image))[1], engine="ray")


def test_memory_file_systems_are_refused(cluster, photographs):
    with pytest.raises(OptionError, match="memory://"):
        explain(photographs, "memory://run", engine="ray", model=FACTORY)
