"""Who explains the shards: this process, or Ray's workers."""

import logging
import pickle
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

from lm_plugins.errors import LMPluginsError, MissingDependencyError, ModelLoadingError, OptionError
from lm_plugins.scale.store import Store
from lm_plugins.scale.task import Task
from lm_plugins.scale.worker import Worker

__all__ = ["Engine", "shards_by"]

Engine = Literal["local", "ray"]


def shards_by(
    engine: Engine, task: Task, store: Store, numbers: Sequence[int], workers: int, gpus: float
) -> Iterator[list[str]]:
    """Explain shards, in any order.

    Args:
        engine: Who does it.
        task: What is to be done.
        store: Where results go.
        numbers: Of the shards.
        workers: Of Ray.
        gpus: For each of them.

    Yields:
        The errors of each shard's images, when it is written.

    Raises:
        OptionError: There is no such engine.
        MissingDependencyError: Ray is not installed.
        LMPluginsError: What a worker raised.
    """
    if engine not in get_args(Engine):
        raise OptionError(f"engine is one of {', '.join(get_args(Engine))}; got {engine!r}.")
    if not numbers:
        return
    if engine == "local":
        worker = Worker(task, store)
        for number in numbers:
            yield worker.shard(number)
    else:
        yield from _by_ray(task, store, numbers, workers, gpus)


class _RayWorker:
    """A `Worker` in a process of Ray's. Errors travel as data: Ray would wrap them, and try again."""

    def __init__(self, task: Task, store: Store) -> None:
        self._given = (task, store)
        self._worker: Worker | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        found: list[bytes] = []
        for number in batch["shard"]:
            try:
                worker = self._worker = self._worker or Worker(*self._given)
                found.append(pickle.dumps(worker.shard(int(number))))
            except LMPluginsError as error:
                found.append(pickle.dumps(error))
        return {"errors": found}


def _by_ray(task: Task, store: Store, numbers: Sequence[int], workers: int, gpus: float) -> Iterator[list[str]]:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError("engine='ray' needs Ray: pip install 'lm_plugins[scale]'.") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    available: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    if gpus and available.get("GPU", 0) < gpus:
        raise OptionError(f"gpus={gpus} for each worker, and this cluster of Ray has {available.get('GPU', 0):g} GPUs.")
    if store.address.startswith("memory:"):
        raise OptionError(
            "memory:// is a process's own, and no worker of Ray can write there: take a folder or an object store."
        )
    try:
        pickle.dumps(task)
    except Exception as error:
        raise ModelLoadingError(
            f"model, images or preprocess cannot be sent to workers ({type(error).__name__}: {error}): pass the model as "
            "'package.module:factory', and preprocess as a function of a module."
        ) from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    shards = ray.data.from_items([{"shard": number} for number in numbers], override_num_blocks=len(numbers))
    explained = shards.map_batches(
        _RayWorker,
        fn_constructor_args=(task, store),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=gpus or None,
    )
    for row in explained.iter_rows():
        result = pickle.loads(row["errors"])
        if isinstance(result, LMPluginsError):
            raise result
        yield result
