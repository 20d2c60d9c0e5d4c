"""What upstream passes over in silence is said: half a migration, noise, zeros, a single feature, paint in place of masks."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import quantus
import shap
import torch
from torch import Tensor, nn

import lm_plugins as lm
import lm_plugins.shap
from lm_plugins.captum import FeatureAblation, KernelShap, Lime, Occlusion
from lm_plugins.errors import ExplanationWarning, InputTypeError, MaskValueError, OptionError
from lm_plugins.features import superpixels
from lm_plugins.lime import LimeImageExplainer
from lm_plugins.quantus import PixelMasks, hide_segments
from lm_plugins.removal import REMOVALS, LayerMasking, PixelColour, as_removal

SHAPE = (12, 12, 3)
IMAGES = np.random.default_rng(0).random((1, *SHAPE), dtype=np.float32)
X = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
FEATURES = torch.arange(144).reshape(12, 12) // 24  # six


def network(classes: int = 3, *last: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes), *last
    )
    return net.eval()


MODEL = network()
MASKED = lm.LayerMasked(MODEL)


def predict(images: np.ndarray) -> np.ndarray:
    """What somebody's code did before the migration."""
    return MASKED(torch.tensor(images).permute(0, 3, 1, 2)).detach().numpy()


def explained(model: object, masker: object, **settings: object) -> object:
    return shap.Explainer(model, masker, **settings)(IMAGES, max_evals=20, silent=True)


# ---- half a migration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["blur(3,3)", "inpaint_telea", 0])
@pytest.mark.parametrize(
    "wrap", [lambda model: model, lambda model: lambda x: model(x)[:, :1]], ids=["model", "function"]
)
def test_the_model_without_the_masker_is_refused(wrap: Callable[..., object], value: object) -> None:
    if isinstance(value, str):
        pytest.importorskip("cv2")
    with pytest.raises(InputTypeError, match=r"Pass lm_plugins.shap.Masker\(shape, features=...\) in place of"):
        explained(wrap(lm_plugins.shap.Model(MODEL)), shap.maskers.Image(value, SHAPE))


@pytest.mark.parametrize("model", [predict, MASKED, MODEL], ids=["predict", "LayerMasked", "module"])
def test_the_masker_without_the_model_is_refused(model: object) -> None:
    with pytest.raises(InputTypeError, match=r"change the other line, too. Pass lm_plugins.shap.Model\("):
        explained(model, lm_plugins.shap.Masker(SHAPE, 6))


def test_both_lines_and_plain_predictions_still_work() -> None:
    model = lm_plugins.shap.Model(MODEL)
    np.testing.assert_allclose(model(IMAGES), MODEL(X).detach().numpy(), atol=1e-6)
    whole = explained(model, lm_plugins.shap.Masker(SHAPE, 6))
    chosen = explained(lambda *args: model(*args)[:, :1], lm_plugins.shap.Masker(SHAPE, 6))
    np.testing.assert_allclose(chosen.values[..., 0], whole.values[..., 0], atol=1e-6)


@pytest.mark.parametrize("method", [FeatureAblation, Occlusion, KernelShap, Lime, lm_plugins.shap.Model, PixelMasks])
def test_a_layer_masked_model_is_not_masked_again(method: type) -> None:
    with pytest.raises(InputTypeError, match="layer-masked already.*masked.model"):
        method(MASKED, X) if method is PixelMasks else method(MASKED)


def test_a_sentinel_for_another_removal_is_refused() -> None:
    with pytest.raises(OptionError, match="MASKED asks for layer masking, removal=Colour.* for something else"):
        FeatureAblation(MODEL, "grey").attribute(X, baselines=lm.MASKED, feature_mask=FEATURES, target=0)
    plain = FeatureAblation(MODEL, LayerMasking()).attribute(X, feature_mask=FEATURES, target=0)
    same = FeatureAblation(MODEL, LayerMasking()).attribute(X, baselines=lm.MASKED, feature_mask=FEATURES, target=0)
    assert torch.equal(same, plain)


def test_a_classifier_fn_in_place_of_the_model_is_named() -> None:
    def classifier_fn(images: np.ndarray) -> np.ndarray:
        batch = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images])
        return MODEL(batch).softmax(1).detach().numpy()

    with pytest.raises(InputTypeError, match=r"If it is LIME's classifier_fn, which takes arrays .*pass the model"):
        LimeImageExplainer(classifier_fn).explain_instance(IMAGES[0], segmentation_fn=lambda i: FEATURES)


# ---- Quantus' own baselines ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The settings for perturbing input:UserWarning")
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("baseline", ["black", "white", "mean", "uniform", 0.5, 1.0])
def test_a_baseline_of_quantus_is_refused(baseline: object, count: int) -> None:
    masks = PixelMasks(MODEL, X.expand(count, -1, -1, -1))
    attributions = np.random.default_rng(1).random((count, 1, 12, 12))
    settings = {"model": masks, "x_batch": masks.x_batch, "y_batch": np.zeros(count, int), "a_batch": attributions}
    for metric in (
        quantus.PixelFlipping(features_in_step=12, perturb_baseline=baseline, disable_warnings=True),
        quantus.FaithfulnessCorrelation(nr_runs=3, subset_size=20, perturb_baseline=baseline, disable_warnings=True),
    ):
        with pytest.raises(
            MaskValueError, match=r"perturb_baseline=0.0 to the metric, in place of Quantus' own 'black'"
        ):
            metric(**settings)


# ---- integer images --------------------------------------------------------------------------------------------------

INTEGERS = torch.randint(0, 255, (1, 3, 12, 12), dtype=torch.uint8)
VISIBLE = torch.ones(1, 12, 12, dtype=torch.bool).index_fill(1, torch.arange(4), False)


@pytest.mark.parametrize("name", REMOVALS)
def test_integer_images_are_refused_on_every_road(name: str) -> None:
    removal = as_removal(name)
    model = nn.Sequential(nn.Identity()).eval()
    roads: list[Callable[[], object]] = [
        lambda: removal(model)(INTEGERS, VISIBLE),
        lambda: FeatureAblation(model, removal).attribute(INTEGERS, feature_mask=FEATURES, target=0),
        lambda: PixelMasks(model, INTEGERS, removal),
    ]
    painter = removal.colour(model) if isinstance(removal, PixelColour) else removal
    if hasattr(painter, "replaced"):
        roads.append(lambda: painter.replaced(INTEGERS, VISIBLE))
    for road in roads:
        with pytest.raises(InputTypeError, match=r"floating point.*got torch.uint8"):
            road()


def test_segments_of_integer_images_are_refused() -> None:
    with pytest.raises(InputTypeError, match="floating point, got uint8"):
        hide_segments(INTEGERS.numpy(), np.ones((1, 1, 12, 12), bool))


# ---- explanations that say nothing -----------------------------------------------------------------------------------


def noted(call: Callable[[], object]) -> list[str]:
    """What is said of explanations while something runs."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in caught if issubclass(one.category, ExplanationWarning)]


def test_captums_lasso_on_many_classes_is_named_once_and_the_remedy_helps() -> None:
    from captum._utils.models.linear_model import SkLearnRidge

    model = network(1000, nn.Softmax(1))
    settings = {"feature_mask": FEATURES, "target": 0, "n_samples": 50}
    (said,) = noted(lambda: Lime(model).attribute(X, **settings))
    assert "exactly 0 everywhere" in said and "SkLearnRidge(alpha=1.0)" in said
    helped = Lime(model, interpretable_model=SkLearnRidge(alpha=1.0))
    assert noted(lambda: helped.attribute(X, **settings)) == []
    assert bool(helped.attribute(X, **settings).any())


@pytest.mark.parametrize(("samples", "is_few"), [(6, True), (7, False)])
def test_fewer_samples_than_weights_are_named(samples: int, is_few: bool) -> None:
    from captum._utils.models.linear_model import SkLearnRidge

    ridge = SkLearnRidge(alpha=1.0)
    for explainer in (KernelShap(MODEL), Lime(MODEL, interpretable_model=ridge)):
        said = noted(lambda one=explainer: one.attribute(X, feature_mask=FEATURES, target=0, n_samples=samples))
        assert bool(said) == is_few
        assert all(f"{samples} samples for 6 features" in one and "Pass n_samples" in one for one in said)
    lime = LimeImageExplainer(MODEL, output="logits")
    settings = {"segmentation_fn": lambda i: FEATURES, "progress_bar": False, "num_samples": samples}
    assert bool(noted(lambda: lime.explain_instance(IMAGES[0], **settings))) == is_few


def test_without_a_feature_mask_every_pixel_is_a_feature() -> None:
    (said,) = noted(lambda: KernelShap(MODEL).attribute(X, target=0))
    assert "25 samples for 144 features" in said


def test_a_single_feature_is_named() -> None:
    one = torch.zeros_like(FEATURES)
    with pytest.raises(OptionError, match="KernelShap draws coalitions of at least 2 features"):
        KernelShap(MODEL).attribute(X, feature_mask=one, target=0)
    lime = LimeImageExplainer(MODEL, output="logits")
    with pytest.warns(ExplanationWarning, match="segmentation_fn made a single feature of the whole image"):
        lime.explain_instance(IMAGES[0], segmentation_fn=lambda i: one, num_samples=9, progress_bar=False)
    noise = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    with pytest.warns(ExplanationWarning, match="superpixels by slic made a single feature"):
        superpixels(noise, n_segments=4, start_label=0)
    assert noted(lambda: superpixels(noise, n_segments=1)) == []


@pytest.mark.parametrize("method", [FeatureAblation, Occlusion])
def test_an_output_that_does_not_change_is_named(method: type) -> None:
    def constant(x: Tensor) -> Tensor:
        return x.new_ones(len(x), 2)

    where = {"sliding_window_shapes": (3, 4, 4)} if method is Occlusion else {"feature_mask": FEATURES}
    (said,) = noted(lambda: method(constant, "grey").attribute(X, target=1, **where))
    assert "exactly 0 everywhere" in said and "target=" in said
