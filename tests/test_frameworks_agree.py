"""The three frameworks, asked the same question of the same model, give the same answer."""

import numpy as np
import pytest
import shap
import torch
from torch import Tensor, nn

import lm_plugins as lm
import lm_plugins.captum
import lm_plugins.lime
import lm_plugins.shap
from lm_plugins.features import grid
from lm_plugins.removal import Colour

FEATURES = grid((12, 12), 6)
TRUTH = torch.tensor([[0.4, -0.3], [-0.2, 0.1], [0.5, 0.6], [0.1, -0.2]])  # (features, outputs)
IMAGE = np.ones((12, 12, 3), np.float32)
X = torch.ones(1, 3, 12, 12)


class Additive(nn.Module):
    """A sum over features: the Shapley value of each is its weight, if what is removed becomes zero."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nhw,hwo->no", x.mean(1), TRUTH[FEATURES]) / 36


def of_features(values: Tensor) -> Tensor:
    """One value a feature ``(4,)`` from a map ``(..., 12, 12)``."""
    return values.reshape(-1, 12, 12)[0, ::6, ::6].reshape(-1)


@pytest.mark.parametrize("output", [0, 1])
def test_all_recover_the_known_values(output: int) -> None:
    truth = TRUTH[:, output]
    removal = Colour(0.0)
    settings = {"feature_mask": FEATURES, "target": output}
    found = {}
    torch.manual_seed(0)
    np.random.seed(0)
    for name, more in (
        ("ShapleyValues", {}),
        ("ShapleyValueSampling", {"n_samples": 3}),
        ("KernelShap", {"n_samples": 200}),
    ):
        explainer = getattr(lm_plugins.captum, name)(Additive().eval(), removal=removal)
        found[f"captum {name}"] = of_features(explainer.attribute(X, **settings, **more)).float()
    model = lm_plugins.shap.Model(Additive().eval(), removal=removal)
    masker = lm_plugins.shap.Masker(IMAGE.shape, FEATURES, values="features")
    for name in ("exact", "permutation"):
        values = shap.Explainer(model, masker, algorithm=name)(IMAGE[None], max_evals=32).values
        found[f"shap {name}"] = torch.from_numpy(values[0, :, output]).float()
    function = lm_plugins.shap.ValueFunction(Additive().eval(), IMAGE, FEATURES, removal=removal)
    values = shap.KernelExplainer(function, function.background).shap_values(function.everything, silent=True)
    found["shap kernel"] = torch.from_numpy(np.asarray(values)[0, :, output]).float()
    explanation = lm_plugins.lime.LimeImageExplainer(
        Additive().eval(), removal=removal, output=lambda result: result, random_state=0
    ).explain_instance(
        IMAGE, labels=(output,), top_labels=None, segmentation_fn=lambda image: FEATURES.numpy(), num_samples=500,
        progress_bar=False,
    )  # fmt: skip
    found["lime"] = torch.tensor([dict(explanation.local_exp[output])[i] for i in range(4)]).float()
    for name, values in found.items():
        # LIME's ridge shrinks a little; everything else is exact on an additive model.
        torch.testing.assert_close(
            values, truth, atol=0.02 if name == "lime" else 1e-4, rtol=0, msg=f"{name}: {values}"
        )


def test_exact_values_agree_and_add_up_with_layer_masking() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    ).eval()  # fmt: skip
    image = np.random.default_rng(0).random((12, 12, 3), np.float32)
    x = torch.from_numpy(image).permute(2, 0, 1)[None]
    by_captum = of_features(lm_plugins.captum.ShapleyValues(model).attribute(x, feature_mask=FEATURES, target=1))
    masker = lm_plugins.shap.Masker(image.shape, FEATURES, values="features")
    by_shap = shap.Explainer(lm_plugins.shap.Model(model), masker, algorithm="exact")(image[None]).values[0, :, 1]
    torch.testing.assert_close(by_captum, torch.from_numpy(by_shap).float(), atol=1e-5, rtol=1e-4)
    masked = lm.LayerMasked(model)
    with torch.no_grad():
        total = float((masked(x, torch.ones(12, 12)) - masked(x, torch.zeros(12, 12)))[0, 1])
    assert float(by_captum.sum()) == pytest.approx(total, abs=1e-4)
    assert abs(total) > 1e-3
