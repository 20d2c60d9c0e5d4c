"""Explain a data set."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from lm_plugins.errors import ExplanationWarning, LMPluginsError, OptionError
from lm_plugins.features import Features
from lm_plugins.outputs.words import OutputIs
from lm_plugins.progress import progress
from lm_plugins.removal import Removal
from lm_plugins.scale.engines import Engine, shards_by
from lm_plugins.scale.results import DataSetResults, open_results
from lm_plugins.scale.sources import content_digest, images_of, read
from lm_plugins.scale.store import Store
from lm_plugins.scale.task import Preprocess, Task
from lm_plugins.scale.worker import shard_count

__all__ = ["explain"]


def explain(
    images: Any,
    model: nn.Module | str | Callable[[], nn.Module],
    out: str | Path,
    *,
    preprocess: Preprocess | None = None,
    method: str = "kernelshap",
    removal: Removal | str | None = None,
    features: Features | str | None = None,
    target: int | None = None,
    output: OutputIs = "logits",
    of: Literal["probability", "output"] = "probability",
    samples: int = 500,
    layer: str | None = None,
    seed: int = 0,
    batch_size: int = 32,
    shard: int = 16,
    device: str = "cpu",
    engine: Engine = "local",
    workers: int = 1,
    gpus: float = 0.0,
    resume: bool = True,
    show_progress: bool = True,
) -> DataSetResults:
    """Explain every image of a data set. What is finished stays; the same call goes on where another one stopped.

    Results depend on the images, the model and the options alone: not on the engine, the number of workers, or how
    often the run was interrupted. On one kind of machine, with one number of threads, they repeat bit for bit.

    Args:
        images: See `images_of`.
        model: In evaluation mode. For workers, ``"package.module:factory"`` or a module that can be pickled.
        out: Folder for results, local or an address that fsspec knows.
        preprocess: From a picture to ``(C, H, W)``; or to that and the pixels on [0, 1] that superpixels are made from. None
            is for data sets of tensors; pixels are then found by stretching them over [0, 1].
        method: A key of `lm_plugins.scale.methods.METHODS`, such as ``"occlusion"``, ``"kernelshap"``, ``"rise"``.
        removal: How pixels are removed; layer masking by default.
        features: ``"grid:16"``, ``"slic:50"``; by default the method's own.
        target: A class; None for the one that the model says for each image.
        output: What the model returns, in a word of `lm_plugins.outputs.words`.
        of: What is explained of the class: its probability, or what the model returns before it.
        samples: For methods that draw.
        layer: For methods that look at layers.
        seed: Of everything that is drawn; each image has its own, from this and its key.
        batch_size: Coalitions in one forward pass, of several images together where the method allows it.
        shard: Images that are explained and written together: what an interruption can cost.
        device: Where the model runs.
        engine: ``"local"`` for this process, ``"ray"`` for Ray: on this machine, or on the cluster of ``RAY_ADDRESS``.
        workers: Of Ray; each has a model of its own.
        gpus: Of Ray, for each worker; 0.5 puts two on one GPU.
        resume: Go on with what is in `out`. Images of finished shards are read again, and explained anew if they changed.
        show_progress: Whether there is a bar.

    Returns:
        The results, as `open_results` reads them.

    Raises:
        ImageFileError: There are no images, or none can be read. An image that cannot be read is a row with its error.
        OptionError: An option is out of range; or `out` holds results of another run, or another run writes there.
        ModelLoadingError: The model cannot be made on a worker.
        MissingDependencyError: The engine is not installed.
        LMPluginsError: No image of a shard can be explained.

    Warns:
        ExplanationWarning: Images have changed since they were explained.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from lm_plugins import scale
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
        >>> images = [(torch.rand(3, 16, 16), label) for label in (0, 1, 2)]
        >>> results = scale.explain(
        ...     images, model, tempfile.mkdtemp(), features="grid:4", samples=40, show_progress=False
        ... )
        >>> len(results), results.attribution(0).shape
        (3, torch.Size([16, 16]))
    """
    task = Task(
        images_of(images), model, preprocess, method, removal, features, target, output, of, samples, layer, seed, batch_size,
        shard, device,
    )  # fmt: skip
    if not isinstance(workers, int) or workers < 1:
        raise OptionError(f"workers is a whole number above 0, got {workers!r}.")
    if not gpus >= 0 or (gpus > 1 and gpus != int(gpus)):
        raise OptionError(f"gpus is a share of one GPU from 0 to 1, or a whole number; got {gpus!r}.")
    store = Store(out)
    with store.locked():
        loaded = task.loaded_model()
        if engine == "local":  # it is the worker's, too
            task = replace(task, model=loaded)
        store.begin(task.described(loaded), resume)
        store.clean()
        finished = store.finished() - _changed(task, store)
        left = [number for number in range(shard_count(task)) if number not in finished]
        with progress(len(task.source.keys), method, show_progress) as done:
            done.skip(min(len(finished) * shard, len(task.source.keys)))
            for errors in shards_by(engine, task, store, left, workers, gpus):
                done(len(errors))
    results = open_results(out)
    results.check_any()
    return results


def _changed(task: Task, store: Store) -> set[int]:
    """The finished shards with an image that is another one now, or can be read now and could not."""
    found: dict[int, str] = {}
    for number in store.finished():
        for row in store.rows(number).itertuples():
            try:
                now = content_digest(read(task.source, int(row.index))[0])
            except LMPluginsError:
                now = ""
            if now != row.digest:
                found.setdefault(number, str(row.key))
    if found:
        warnings.warn(
            f"{len(found)} shards hold images that have changed since ({', '.join(list(found.values())[:3])}): they are "
            "explained anew.",
            ExplanationWarning,
            stacklevel=3,
        )
    return set(found)
