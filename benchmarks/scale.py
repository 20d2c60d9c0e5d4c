"""What explaining a data set costs beside the model, and what workers gain: images a second, overhead, memory.

python benchmarks/scale.py --images PHOTOS --out scale
"""

import argparse
import json
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import load
from torch import Tensor, nn

from lm_plugins import scale
from lm_plugins.removal import as_removal


def lite0() -> nn.Module:
    """The packaged model, as workers import it."""
    torch.set_num_threads(1)
    return load("lite0").model


def preprocess(picture: Any) -> Tensor:
    """Its images."""
    return load_once().preprocess(picture)


def load_once() -> Any:
    """The packaged model's preprocessing."""
    if not hasattr(load_once, "subject"):
        load_once.subject = load("lite0")
    return load_once.subject


def model_seconds(rows: int, batch: int) -> float:
    """What the masked model alone takes for so many rows, half of the patches hidden."""
    model, random = lite0(), np.random.default_rng(0)
    forward = as_removal(None)(model)
    patches = torch.from_numpy(random.random((batch, 7, 7)) < 0.5)
    visible = patches.repeat_interleave(32, 1).repeat_interleave(32, 2)
    x = torch.randn(batch, 3, 224, 224)
    with torch.inference_mode():
        forward(x, visible)
        begun = time.perf_counter()
        for _ in range(max(1, rows // batch // 4)):
            forward(x, visible)
    return (time.perf_counter() - begun) / max(1, rows // batch // 4) * rows / batch


def main() -> None:
    """Read the command line, measure, write a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--methods", nargs="+", default=["occlusion", "kernelshap", "rise"])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2], help="of Ray")
    parser.add_argument("--out", type=Path, default=Path("scale"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    full = scale.images_of(options.images)
    files = [f"{options.images}/{key}" for key in full.keys[: options.count]]
    options.out.mkdir(parents=True, exist_ok=True)
    listed = options.out / "list.csv"
    listed.write_text("file\n" + "\n".join(str(Path(one).resolve()) for one in files) + "\n")
    rows = []
    for method in options.methods:
        for engine, workers in [("local", 1), *(("ray", one) for one in options.workers)]:
            out = options.out / f"{method}_{engine}_{workers}"
            shutil.rmtree(out, ignore_errors=True)
            begun = time.perf_counter()
            scale.explain(
                listed, "scale:lite0", out, preprocess=preprocess, method=method, samples=options.samples,
                features="grid:32", shard=2, batch_size=options.batch, engine=engine, workers=workers, show_progress=False,
            )  # fmt: skip
            took = time.perf_counter() - begun
            first = min(one.stat().st_mtime for one in out.glob("shards/*/done.json"))
            started = (out / "manifest.json").stat().st_mtime
            last = max(one.stat().st_mtime for one in out.glob("shards/*/done.json"))
            rows.append(
                {
                    "method": method, "engine": engine, "workers": workers, "seconds": took,
                    "to the first result": first - started,
                    # Without the start, and without the first shards, that each worker loads its model before.
                    "images a second": (options.count - 2 * workers) / (last - first),
                    "peak memory, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
        alone = model_seconds(options.samples, options.batch)
        print(f"{method}: the model alone takes {alone:.2f} s for {options.samples} rows", flush=True)
    (options.out / "scale.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
