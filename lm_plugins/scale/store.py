"""Where results lie: shards that are there as a whole or not at all, and a manifest that says what they belong to."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import zarr
from filelock import FileLock, Timeout

from lm_plugins.errors import OptionError

__all__ = ["Store"]

_MANIFEST = "manifest.json"
#: Written last; a shard without it is none.
_DONE = "done.json"


class Store:
    """A folder of results, local or behind any fsspec address. It can be pickled.

    Args:
        address: Of the folder.
    """

    def __init__(self, address: str | Path) -> None:
        self.address = str(address).rstrip("/")

    @property
    def _system(self) -> tuple[Any, str]:
        system, path = fsspec.core.url_to_fs(self.address)
        return system, str(path)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine's file system."""
        return "file" in fsspec.core.url_to_fs(self.address)[0].protocol

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """No other run writes here during this block. Object stores have no locks: there, two runs are not told apart.

        Raises:
            OptionError: Another run does.
        """
        if not self.is_local:
            yield
            return
        folder = Path(self._system[1])
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise OptionError(
                f"another run is writing into {self.address}: wait for it, or choose another folder."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def manifest(self) -> dict[str, Any] | None:
        """What the results belong to; None where there are none."""
        system, path = self._system
        file = f"{path}/{_MANIFEST}"
        found: dict[str, Any] | None = json.loads(system.cat_file(file)) if system.exists(file) else None
        return found

    def begin(self, description: dict[str, Any], resume: bool) -> None:
        """Write the manifest, or see that it is the same.

        Args:
            description: Of the run.
            resume: Go on with what is there; without, begin anew.

        Raises:
            OptionError: What is there belongs to another run.
        """
        system, path = self._system
        known = self.manifest()
        description = json.loads(json.dumps(description))
        if known is not None and not resume:
            system.rm(f"{path}/shards", recursive=True) if system.exists(f"{path}/shards") else None
        elif known is not None and known != description:
            names = dict.fromkeys([*known, *description])
            different = [
                f"{one}={known.get(one)!r}, not {description.get(one)!r}"
                for one in names
                if known.get(one) != description.get(one)
            ]
            raise OptionError(
                f"{self.address} holds results with {'; '.join(different)}. Take another folder, or "
                "pass resume=False to begin anew."
            )
        system.makedirs(f"{path}/shards", exist_ok=True)
        self._write(f"{path}/{_MANIFEST}", json.dumps(description, indent=1))

    def _write(self, file: str, text: str) -> None:
        system, _ = self._system
        if not self.is_local:
            system.pipe_file(file, text.encode())
            return
        from lm_plugins.atomic_write import written

        written(Path(file), lambda path: path.write_text(text))

    def finished(self) -> set[int]:
        """The numbers of the shards that are there."""
        system, path = self._system
        if not system.exists(f"{path}/shards"):
            return set()
        system.invalidate_cache()
        return {
            int(one.split("/")[-2]) for one in system.glob(f"{path}/shards/*/{_DONE}") if one.split("/")[-2].isdigit()
        }

    def write_shard(self, number: int, rows: pd.DataFrame, arrays: dict[str, np.ndarray]) -> None:
        """Write a shard, as a whole or not at all.

        Args:
            number: Of the shard.
            rows: One for each image.
            arrays: With an entry for each image in their first dimension.
        """
        system, path = self._system
        target = f"{path}/shards/{number:06d}"
        beside = Path(path) / "shards" if self.is_local else None
        folder = Path(tempfile.mkdtemp(prefix=f".{number:06d}.", dir=beside))
        try:
            rows.to_parquet(folder / "rows.parquet")
            group = zarr.open_group(str(folder / "arrays.zarr"), mode="w")
            for name, array in arrays.items():
                chunks = (1, *array.shape[1:])
                group.create_array(name, shape=array.shape, chunks=chunks, dtype=array.dtype)[...] = array
            if not self.is_local:
                system.put(str(folder), target, recursive=True)
                system.pipe_file(f"{target}/{_DONE}", json.dumps({"images": len(rows)}).encode())
                return
            (folder / _DONE).write_text(json.dumps({"images": len(rows)}))
            for file in folder.rglob("*"):
                _synchronised(file)
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def clean(self) -> None:
        """Remove what runs that were killed left behind."""
        if self.is_local:
            for one in (Path(self._system[1]) / "shards").glob(".*"):
                shutil.rmtree(one, ignore_errors=True)

    def rows(self, number: int) -> pd.DataFrame:
        """The rows of a shard."""
        system, path = self._system
        with system.open(f"{path}/shards/{number:06d}/rows.parquet", "rb") as file:
            return pd.read_parquet(file)

    def arrays(self, number: int) -> Any:
        """The zarr group of a shard, read when it is indexed."""
        place = f"{self.address}/shards/{number:06d}/arrays.zarr"
        if self.is_local:
            return zarr.open_group(f"{self._system[1]}/shards/{number:06d}/arrays.zarr", mode="r")
        return zarr.open_group(zarr.storage.FsspecStore.from_url(place, read_only=True), mode="r")


def _synchronised(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
