"""(c) Every explainer with the same samples: ours, upstream with the sentinel baseline, upstream with a grey baseline."""

import contextlib
import io
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import shap
import torch
from captum import attr
from lime import lime_image
from numpy.typing import NDArray
from torch import Tensor, nn

import lm_plugins as lm
import lm_plugins.captum
import lm_plugins.lime
import lm_plugins.shap
from benchmarks.speed.settings import Settings
from benchmarks.speed.subjects import PATCH, SIDE, feature_mask, images, model_of
from benchmarks.speed.timing import paired, ratio, summary

MODEL = "EfficientNet-Lite0"
ROADS = ("ours", "ours, prepared", "upstream, sentinel", "upstream, grey")
#: Those on which the explainer alone is timed. With nothing removed, ours masks nothing: what is left is the explainer.
OVERHEAD_ROADS = ("ours", "ours, nothing removed", "upstream, sentinel", "upstream, grey")
GREY = 127  # 0 in the normalisation of the model


def samples_of(settings: Settings) -> dict[str, int]:
    """How many images each explainer sends to the model; those missing are left out."""
    if settings.quick:
        return {"KernelShap": 32, "Lime": 32, "lime_image": 32}
    features = (SIDE // PATCH) ** 2
    return {
        "Occlusion": features,
        "FeatureAblation": features,
        "ShapleyValueSampling": features,
        "KernelShap": 1000,
        "Lime": 200,  # the same machinery as KernelShap
        "lime_image": 1000,
        "SHAP Partition": 200,
    }


def batch_of(settings: Settings) -> int:
    """Samples in a forward pass: as many as each kind of device likes."""
    return 32 if settings.device.type == "cpu" else 256


class Trivial(nn.Module):
    """A model that costs nearly nothing: what is left is the overhead of the explainer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, 10)`` of the mean colour."""
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def nothing_removed(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """A removal that shows everything."""
    return lambda x, visible: model(x)


class Explained:
    """One model, one photograph, and all explainers on all roads.

    Args:
        model: In evaluation mode.
        samples: How many each explainer takes, by its name.
        settings: Device and seed.
    """

    def __init__(self, model: nn.Module, samples: dict[str, int], settings: Settings) -> None:
        self.samples, self.settings = samples, settings
        self.x = images(1, settings.device)
        masked = lm.LayerMasked(model)
        prepared = masked.prepare(self.x).model
        self.models = dict(zip(ROADS, (model, prepared, masked, model), strict=True)) | {OVERHEAD_ROADS[1]: model}
        with torch.inference_mode():
            self.target = int(model(self.x).argmax())
        self.features = feature_mask("patches")[None, None].to(settings.device)
        pixels = self.x[0].permute(1, 2, 0).cpu().numpy()
        self.pixels: NDArray[np.float32] = np.ascontiguousarray(pixels)
        self.picture: NDArray[np.uint8] = (pixels * 128 + 127).round().clip(0, 255).astype(np.uint8)

        # Made once, for any number of images: the hierarchy of their pixels takes a second or more.
        self._maskers = self._masker_of_each_road() if "SHAP Partition" in samples else {}

    def run(self, explainer: str, road: str) -> object:
        """Explain with one explainer on one road."""
        count = self.samples[explainer]
        masks = {"feature_mask": self.features}
        if explainer == "lime_image":
            return self._lime(road, count)
        if explainer == "SHAP Partition":
            return self._partition(road, count)
        if explainer == "Occlusion":
            window = (3, PATCH, PATCH)
            return self._captum(explainer, road, sliding_window_shapes=window, strides=window)
        if explainer == "FeatureAblation":
            return self._captum(explainer, road, **masks)
        if explainer == "ShapleyValueSampling":
            count = count // (SIDE // PATCH) ** 2
        return self._captum(explainer, road, n_samples=count, **masks)

    @staticmethod
    def _removal_of(road: str) -> Any:
        return nothing_removed if road == OVERHEAD_ROADS[1] else None

    def _captum(self, method: str, road: str, **arguments: Any) -> object:
        torch.manual_seed(self.settings.seed)
        np.random.seed(self.settings.seed)
        if road.startswith("upstream"):
            arguments["baselines"] = lm.MASKED if road == "upstream, sentinel" else 0.0
            explainer = getattr(attr, method)(self.models[road])
        else:
            explainer = getattr(lm_plugins.captum, method)(self.models[road], removal=self._removal_of(road))
        with torch.inference_mode():
            return explainer.attribute(
                self.x, target=self.target, perturbations_per_eval=batch_of(self.settings), **arguments
            )

    @cached_property
    def _segments(self) -> NDArray[np.int64]:
        return feature_mask("patches").numpy()

    def _normalised(self, pictures: NDArray[Any]) -> Tensor:
        return torch.from_numpy(pictures).movedim(-1, -3).float().sub(127).div(128)

    def _grey_classifier(self, pictures: NDArray[np.uint8]) -> NDArray[Any]:
        with torch.inference_mode():
            logits = self.models["upstream, grey"](self._normalised(pictures).to(self.settings.device))
            return logits.softmax(1).cpu().numpy()

    def _lime(self, road: str, count: int) -> object:
        common = {
            "top_labels": 1,
            "num_samples": count,
            "batch_size": batch_of(self.settings),
            "segmentation_fn": lambda picture: self._segments,
        }
        if road.startswith("ours"):
            ours = lm_plugins.lime.LimeImageExplainer(
                self.models[road],
                self._normalised,
                removal=self._removal_of(road),
                random_state=self.settings.seed,
            )
            return ours.explain_instance(self.picture, progress_bar=False, **common)
        upstream = lime_image.LimeImageExplainer(random_state=self.settings.seed)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            if road == "upstream, grey":
                return upstream.explain_instance(self.picture, self._grey_classifier, hide_color=GREY, **common)
            masked = lm_plugins.lime.MaskedClassifier(self.models["ours"], self.picture, self._normalised)
            return upstream.explain_instance(self.picture, masked, hide_color=masked.hide_color, **common)

    def _masker_of_each_road(self) -> dict[str, Any]:
        shape = self.pixels.shape
        return {
            "ours": lm_plugins.shap.Masker(shape, features=PATCH),
            "upstream, sentinel": shap.maskers.Image(lm.MASKED, shape),
            "upstream, grey": shap.maskers.Image(0.0, shape),
        }

    def _partition(self, road: str, count: int) -> object:
        model = self.models[road]
        predict: Any
        if road.startswith("ours"):
            predict = lm_plugins.shap.Model(model, removal=self._removal_of(road))
        else:

            def predict(pixels: NDArray[Any]) -> NDArray[Any]:
                with torch.inference_mode():
                    x = torch.from_numpy(np.ascontiguousarray(pixels, np.float32)).movedim(3, 1)
                    return model(x.to(self.settings.device)).cpu().numpy()

        explainer = shap.PartitionExplainer(predict, self._maskers["ours" if road.startswith("ours") else road])
        return explainer(
            self.pixels[None], max_evals=count, batch_size=batch_of(self.settings), outputs=[self.target], silent=True
        )


def rounds_for(settings: Settings) -> int:
    """An explainer takes many samples, so that fewer rounds are enough."""
    return max(1, settings.rounds // 2)


def cost(settings: Settings) -> float:
    """The work of this section, in images through ResNet-50."""
    sampled = sum(samples_of(settings).values())
    rounds = rounds_for(settings)
    return len(ROADS) * sampled * (0.4 * rounds + 0.04 * (rounds + 1))


def count(settings: Settings) -> int:
    """The number of calls, for the progress bar."""
    explainers = len(samples_of(settings))
    return len(ROADS) * explainers * (2 * rounds_for(settings) + 1)


def measure(settings: Settings, advance: Callable[[], object]) -> dict[str, Any]:
    """Measure every explainer with the model, and with a trivial one for the overhead."""
    samples = samples_of(settings)
    explained = Explained(model_of(MODEL, settings.device, settings.seed), samples, settings)
    trivial = Explained(Trivial().eval().to(settings.device), samples, settings)
    with torch.inference_mode():
        batch = images(batch_of(settings), settings.device)
        visible = feature_mask("patches").to(settings.device).remainder(2).bool()
        for name, model in explained.models.items():  # a first call is slower
            model(batch)
            if name.startswith("ours"):
                lm.LayerMasked(model)(batch, visible)
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # upstream's own
        for name, total in samples.items():
            # First, since it warms up what upstream compiles.
            row: dict[str, Any] = {"explainer": name, "samples": total}
            row["overhead"] = _overhead(trivial, name, settings, advance)
            seconds = paired(
                {road: lambda road=road, name=name: explained.run(name, road) for road in ROADS},
                rounds_for(settings), settings.device, warm_up=False, advance=advance,
            )  # fmt: skip
            row["samples per second"] = {road: summary([total / one for one in seconds[road]]) for road in ROADS}
            row["against grey"] = {road: ratio(seconds[road], seconds["upstream, grey"]) for road in ROADS}
            rows.append(row)
    features = int(explained.features.max()) + 1
    return {"model": MODEL, "features": features, "rounds": rounds_for(settings), "rows": rows}


def _overhead(
    trivial: Explained, name: str, settings: Settings, advance: Callable[[], object]
) -> dict[str, dict[str, float]]:
    """Milliseconds for each sample that an explanation of a model takes that costs nearly nothing."""
    seconds = paired(
        {road: lambda road=road: trivial.run(name, road) for road in OVERHEAD_ROADS},
        rounds_for(settings), settings.device, advance=advance,
    )  # fmt: skip
    return {road: summary([1000 * one / trivial.samples[name] for one in seconds[road]]) for road in OVERHEAD_ROADS}
