"""SHAP through us: known Shapley values, upstream's own results where it paints, and the notebook of its documentation."""

import functools
import io
import pickle
from collections.abc import Callable, Iterator

import matplotlib as mpl
import numpy as np
import pytest
import shap
import torch
from torch import Tensor, nn

import lm_plugins.shap as ours
from lm_plugins.errors import OptionError
from lm_plugins.features import grid, superpixels
from lm_plugins.removal import Colour

mpl.use("Agg")

SHAPE = (12, 12, 3)
SEGMENTS = np.array([[7, 7, 7, -2], [7, 4, 4, -2], [9, 9, 4, -2], [9, 9, 9, 9]]).repeat(3, 0).repeat(3, 1)
FEATURES = torch.unique(torch.tensor(SEGMENTS), return_inverse=True)[1].numpy()


@pytest.fixture
def model() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    return net.eval()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)


@pytest.fixture
def figures() -> Iterator[Callable[[], list[int]]]:
    import matplotlib.pyplot as plt

    yield plt.get_fignums
    plt.close("all")


class Additive(nn.Module):
    """Two outputs, each a weighted sum of the superpixels' mean values."""

    weights = np.array([[3.0, -1.0, 2.0, 0.5], [0.0, 1.0, -4.0, 0.25]])

    def forward(self, x: Tensor) -> Tensor:
        means = torch.stack([x[:, :, torch.tensor(k == FEATURES)].mean((1, 2)) for k in range(4)], 1)
        return means @ torch.tensor(self.weights, dtype=x.dtype).T

    def shapley_values(self, image: np.ndarray) -> np.ndarray:
        means = np.array([image[k == FEATURES].mean() for k in range(4)])
        return (self.weights * means).T  # (4, outputs)


def explain(explainer: object, *args: object, **settings: object) -> shap.Explanation:
    np.random.seed(0)
    return explainer(*args, silent=True, **settings)


def pixels_of(masker: ours.Masker, explanation: shap.Explanation, images: np.ndarray) -> shap.Explanation:
    return explanation if masker.values == "pixels" else masker.to_pixels(explanation, images)


# ---- known games ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["exact", "permutation"])
@pytest.mark.parametrize("hierarchy", [False, True])
def test_values_of_features_of_an_additive_game(algorithm: str, hierarchy: bool, images: np.ndarray) -> None:
    masker = ours.Masker(SHAPE, SEGMENTS, values="features", hierarchy=hierarchy)
    explainer = shap.Explainer(ours.Model(Additive().eval(), removal=Colour(0.0)), masker, algorithm=algorithm)
    values = explain(explainer, images, max_evals=100)
    assert values.shape == (2, 4, 2)
    for row, image in zip(values, images, strict=True):
        np.testing.assert_allclose(row.values, Additive().shapley_values(image), atol=1e-4)


@pytest.mark.parametrize("kind", ["pixels", "features"])
def test_partition_of_an_additive_game(kind: str, images: np.ndarray) -> None:
    masker = ours.Masker(SHAPE, SEGMENTS, values=kind, hierarchy=True)
    explainer = shap.Explainer(ours.Model(Additive().eval(), removal=Colour(0.0)), masker)
    assert isinstance(explainer, shap.PartitionExplainer)
    explanation = explain(explainer, images, max_evals=100)
    pixels = pixels_of(masker, explanation, images)
    assert pixels.shape == (2, *SHAPE, 2)
    np.testing.assert_array_equal(pixels.data, images)
    for row, image in zip(pixels.values, images, strict=True):
        expected = Additive().shapley_values(image)
        for k in range(4):
            inside = row[k == FEATURES]  # (pixels, channels, outputs)
            np.testing.assert_allclose(inside.sum((0, 1)), expected[k], atol=1e-4)
            np.testing.assert_allclose(inside, np.broadcast_to(inside[0, 0], inside.shape), atol=1e-7)


@pytest.mark.parametrize("batch_size", [3, None])
def test_explainers_of_tables_on_an_additive_game(batch_size: int | None, images: np.ndarray) -> None:
    function = ours.ValueFunction(Additive().eval(), images[0], SEGMENTS, removal=Colour(0.0), batch_size=batch_size)
    expected = Additive().shapley_values(images[0])
    np.random.seed(0)
    kernel = shap.KernelExplainer(function, function.background)
    values = kernel.shap_values(function.everything, nsamples=100, l1_reg=False, silent=True)
    np.testing.assert_allclose(values[0], expected, atol=1e-4)
    sampling = shap.SamplingExplainer(function, function.background)
    np.testing.assert_allclose(sampling.shap_values(function.everything, nsamples=100)[0], expected, atol=1e-4)
    pixels = function.to_pixels(values, output_names=["a", "b"])
    assert pixels.shape == (1, *SHAPE, 2)
    for k in range(4):
        np.testing.assert_allclose(pixels.values[0][k == FEATURES].sum((0, 1)), expected[k], atol=1e-4)


@pytest.mark.parametrize("removal", [None, "grey", "blur", "image_mean"])
def test_values_sum_to_what_everything_adds_to_nothing(
    removal: str | None, model: nn.Module, images: np.ndarray
) -> None:
    predict = ours.Model(model, removal=removal)
    everything, nothing = predict(images), predict(images, np.zeros((2, 12, 12)))
    np.testing.assert_array_equal(everything, model(torch.tensor(images).movedim(3, 1)).detach())
    for masker in (
        ours.Masker(SHAPE),
        ours.Masker(SHAPE, (4, 6)),
        ours.Masker(SHAPE, 6, values="features"),
    ):
        explanation = explain(shap.Explainer(predict, masker), images, max_evals=30)
        summed = pixels_of(masker, explanation, images).values.sum((1, 2, 3))
        np.testing.assert_allclose(summed, everything - nothing, atol=1e-4)
        np.testing.assert_allclose(explanation.base_values, nothing, atol=1e-5)


@pytest.mark.parametrize("removal", [None, Colour(0.5)])
def test_equals_exact_shapley_values_of_captum(removal: object, model: nn.Module, images: np.ndarray) -> None:
    from lm_plugins.captum import ShapleyValues

    features = grid((12, 12), 6)
    x = torch.tensor(images).movedim(3, 1)
    masker = ours.Masker(SHAPE, features, values="features")
    values = explain(shap.ExactExplainer(ours.Model(model, removal=removal), masker), images)
    function = ours.ValueFunction(model, images[1], features, removal=removal)
    kernel = shap.KernelExplainer(function, function.background)
    kernel_values = kernel.shap_values(function.everything, nsamples=1000, l1_reg=False, silent=True)
    np.testing.assert_allclose(kernel_values[0], values.values[1], atol=1e-4)
    for target in (1, 3):
        expected = ShapleyValues(model, removal=removal).attribute(x, feature_mask=features, target=target)
        by_feature = np.stack([expected[:, 0, features == k][:, 0].detach() for k in range(4)], 1)
        np.testing.assert_allclose(values.values[..., target], by_feature, atol=1e-5)


def test_the_base_value_of_each_image_is_its_own(images: np.ndarray) -> None:
    class Paint:
        """A removal whose empty image depends on the image."""

        def __call__(self, model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
            return lambda x, visible: model(torch.where(visible[:, None], x, x.mean((2, 3), keepdim=True)))

    predict = ours.Model(Additive().eval(), removal=Paint())
    explanation = explain(shap.Explainer(predict, ours.Masker(SHAPE, 6)), images, max_evals=10)
    assert abs(explanation.base_values[0] - explanation.base_values[1]).max() > 1e-3
    np.testing.assert_allclose(explanation.base_values + explanation.values.sum((1, 2, 3)), predict(images), atol=1e-4)


# ---- upstream's own masker ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", [0.0, (0.5, -0.2, 0.1)])
@pytest.mark.parametrize("max_evals", [2, 17, 60])
def test_a_colour_is_upstreams_image_masker(
    colour: object, max_evals: int, model: nn.Module, images: np.ndarray
) -> None:
    def predict(x: np.ndarray) -> Tensor:
        return model(torch.tensor(x).movedim(3, 1))

    painted = np.broadcast_to(np.float32(colour), SHAPE)
    theirs = explain(shap.Explainer(predict, shap.maskers.Image(painted)), images[:1], max_evals=max_evals)
    through_us = shap.Explainer(ours.Model(model, removal=Colour(colour)), ours.Masker(SHAPE))
    values = explain(through_us, images[:1], max_evals=max_evals)
    np.testing.assert_allclose(values.values, theirs.values, atol=1e-6)
    np.testing.assert_allclose(values.base_values, theirs.base_values, atol=1e-6)


def test_a_single_feature_and_a_single_pixel(model: nn.Module, images: np.ndarray) -> None:
    predict = ours.Model(model)
    for masker in (ours.Masker(SHAPE, 12), ours.Masker(SHAPE, 12, values="features", hierarchy=True)):
        explanation = explain(shap.Explainer(predict, masker), images[:1], max_evals=10)
        values = pixels_of(masker, explanation, images[:1])
        difference = predict(images[:1]) - predict(images[:1], np.zeros((1, 12, 12)))
        np.testing.assert_allclose(values.values.sum((1, 2, 3)), difference, atol=1e-5)
    point = ours.Masker((1, 1, 1))
    brightness = ours.Model(nn.Sequential(nn.Flatten()).eval(), removal="grey")
    assert explain(shap.Explainer(brightness, point), np.full((1, 1, 1, 1), 3.0)).values.item() == 3.0


# ---- what must not matter -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["partition", "permutation", "exact"])
def test_results_do_not_depend_on_the_batch_size(algorithm: str, model: nn.Module, images: np.ndarray) -> None:
    masker = ours.Masker(SHAPE, 6, values="features", hierarchy=algorithm == "partition")
    explainer = shap.Explainer(ours.Model(model), masker, algorithm=algorithm)
    results = [explain(explainer, images, max_evals=40, batch_size=size).values for size in (1, 7, 50)]
    # With all of the tree explored, the order in which Partition explores it does not matter either.
    np.testing.assert_allclose(results[1], results[0], atol=1e-5)
    np.testing.assert_allclose(results[2], results[0], atol=1e-5)


def test_a_seed_makes_partition_repeatable(model: nn.Module, images: np.ndarray) -> None:
    explainer = shap.Explainer(ours.Model(model), ours.Masker(SHAPE))
    first, second = (explain(explainer, images, max_evals=30, batch_size=4).values for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_models_of_other_dtypes(dtype: torch.dtype, model: nn.Module, images: np.ndarray) -> None:
    plain = ours.Model(model)(images)
    output = ours.Model(model.to(dtype))(images)
    assert output.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    np.testing.assert_allclose(output, plain, atol=3e-2)


def test_arrays_tensors_lists_and_references_are_the_same(model: nn.Module, images: np.ndarray) -> None:
    predict = ours.Model(model, preprocess=lambda x: (x - 0.5) / 0.25, output=lambda logits: logits.softmax(1))
    expected = predict(images)
    np.testing.assert_allclose(expected.sum(1), 1, rtol=1e-5)
    references = np.empty(3, dtype=object)
    references[:] = [images[0], images[1], images[0]]
    locked = images.astype(np.float64)
    locked.setflags(write=False)
    for same in (torch.tensor(images), list(images), locked, [torch.tensor(image) for image in images]):
        np.testing.assert_allclose(predict(same), expected, atol=1e-6)
    np.testing.assert_allclose(predict(references), expected[[0, 1, 0]], atol=1e-6)
    mask = np.zeros((3, 12, 12), bool)
    mask[:, :5] = True
    np.testing.assert_allclose(predict(references, mask)[1], predict(images[1:], mask[:1])[0], atol=1e-6)
    seed_of = functools.partial(explain, shap.Explainer(predict, ours.Masker(SHAPE, 4)), max_evals=20)
    np.testing.assert_allclose(seed_of(torch.tensor(images)).values, seed_of(images).values, atol=1e-6)


def test_each_image_is_prepared_once_a_call(model: nn.Module, images: np.ndarray) -> None:
    seen = []

    def preprocess(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x

    explainer = shap.Explainer(ours.Model(model, preprocess), ours.Masker(SHAPE, 4))
    explain(explainer, images, max_evals=30, batch_size=10)
    assert set(seen) == {1}


# ---- superpixels of each image ------------------------------------------------------------------------------------------


def halves(image: np.ndarray) -> np.ndarray:
    """Two or three features, by the image."""
    return np.arange(12).repeat(12).reshape(12, 12) // (6 if image[0, 0, 0] > 0 else 4)


@pytest.mark.parametrize("kind", ["pixels", "features"])
def test_features_of_each_image(kind: str, model: nn.Module, images: np.ndarray) -> None:
    images[0, 0, 0], images[1, 0, 0] = 1, -1
    masker = ours.Masker(SHAPE, halves, values=kind)
    # Exact, and Partition with more evaluations than there are: no samples.
    settings = {"algorithm": "exact" if kind == "features" else "auto"}
    explanation = explain(shap.Explainer(ours.Model(model), masker, **settings), images, max_evals=40)
    pixels = pixels_of(masker, explanation, images).values[..., 0].sum(3)
    assert [len(np.unique(row.round(9))) for row in pixels] == [2, 3]
    for image, row in zip(images, pixels, strict=True):
        fixed = ours.Masker(SHAPE, halves(image), values=kind)
        explainer = shap.Explainer(ours.Model(model), fixed, **settings)
        alone = pixels_of(fixed, explain(explainer, image[None], max_evals=40), image[None])
        np.testing.assert_allclose(row, alone.values[0, ..., 0].sum(2), atol=1e-6)
        one = pixels_of(masker, explanation[0], images[0]).values
        assert one.shape == (*SHAPE, 4)


def test_an_image_changed_in_place_gets_new_features(model: nn.Module, images: np.ndarray) -> None:
    masker = ours.Masker(SHAPE, halves, values="features")
    explainer = shap.Explainer(ours.Model(model), masker, feature_names=["left", "right", "middle"])
    one = list(images[:1])
    counts = []
    for value in (1, -1):
        one[0][0, 0] = value
        counts.append(explain(explainer, one, max_evals=20).shape[1])
    assert counts == [2, 3]


def test_superpixels_of_scikit_image(model: nn.Module) -> None:
    ramp = np.indices((12, 12))[1][..., None] * np.ones(3) / 12
    segment = functools.partial(superpixels, method="slic", n_segments=4)
    masker = ours.Masker(SHAPE, segment, values="features")
    values = explain(shap.Explainer(ours.Model(model), masker), ramp[None], max_evals=60)
    np.testing.assert_array_equal(masker.feature_mask(ramp), segment(ramp))
    assert values.shape[1] == int(segment(ramp).max()) + 1
    of_tensor = torch.tensor(ramp)  # the function gets an array all the same: superpixels takes tensors in CHW
    np.testing.assert_array_equal(masker.feature_mask(of_tensor), segment(ramp))
    np.testing.assert_array_equal(masker.to_pixels(values, of_tensor[None]).data, ramp[None])
    np.testing.assert_array_equal(masker.to_pixels(values, [of_tensor]).data, ramp[None])
    function = ours.ValueFunction(model, of_tensor, segment)
    assert function.everything.shape == values.shape[:2]


def test_features_in_a_word(model: nn.Module) -> None:
    ramp = np.indices((12, 12))[1][..., None] * np.ones(3) / 12
    np.testing.assert_array_equal(
        ours.Masker(SHAPE, "grid:4").feature_mask(ramp), ours.Masker(SHAPE, 4).feature_mask(ramp)
    )
    expected = superpixels(ramp, n_segments=4, start_label=0)
    np.testing.assert_array_equal(ours.Masker(SHAPE, "slic:4").feature_mask(ramp), expected)
    function = ours.ValueFunction(model, ramp, "slic:4")
    assert function.everything.shape == (1, int(expected.max()) + 1)
    with pytest.raises(OptionError, match=r"neither grid:N .* nor slic:N"):
        ours.Masker(SHAPE, "patches")


# ---- saving -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [None, 4, "grid:4", SEGMENTS, torch.tensor(SEGMENTS), halves])
def test_maskers_survive_saving_and_pickling(features: object, images: np.ndarray) -> None:
    masker = ours.Masker(SHAPE, features, values="features" if features is not None else "pixels")
    stream = io.BytesIO()
    masker.save(stream)
    stream.seek(0)
    mask = np.random.default_rng(0).random(masker.feature_mask(images[0]).max() + 1) < 0.5
    mask = mask if features is not None else mask.repeat(3)
    for copy in (ours.Masker.load(stream), pickle.loads(pickle.dumps(masker))):
        assert (copy.values, copy.image_shape) == (masker.values, SHAPE)
        image = images[0]
        (before, visible), (after, same) = masker(mask, image), copy(mask, image)
        assert before[0] is image is after[0]
        np.testing.assert_array_equal(visible, same)


@pytest.mark.parametrize("algorithm", ["partition", "permutation", "exact"])
@pytest.mark.parametrize("removal", [None, Colour(0.5)])
def test_explainers_survive_saving(algorithm: str, removal: object, model: nn.Module, images: np.ndarray) -> None:
    masker = ours.Masker(SHAPE, 6, values="features", hierarchy=algorithm == "partition")
    predict = ours.Model(model, preprocess=lambda x: x * 2, removal=removal)
    explainer = shap.Explainer(predict, masker, algorithm=algorithm)
    stream = io.BytesIO()
    explainer.save(stream)
    stream.seek(0)
    loaded = type(explainer).load(stream)
    before, after = (explain(one, images, max_evals=40) for one in (explainer, loaded))
    np.testing.assert_array_equal(before.values, after.values)


@pytest.mark.parametrize("removal", [None, "blur", Colour(0.5)])
def test_models_survive_pickling(removal: object, model: nn.Module, images: np.ndarray) -> None:
    predict = ours.Model(model, removal=removal)
    mask = np.tri(12, dtype=bool)[None].repeat(2, 0)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(predict))(images, mask), predict(images, mask))


# ---- plots --------------------------------------------------------------------------------------------------------------


def test_the_image_notebook_of_shap(model: nn.Module, figures: Callable[[], list[int]]) -> None:
    """The calls of "Explain MobileNetV2 using the Partition explainer (PyTorch)"; two lines differ, marked."""
    transforms = pytest.importorskip("torchvision.transforms")

    def nhwc_to_nchw(x: Tensor) -> Tensor:
        return x if x.shape[1] == 3 else x.permute(0, 3, 1, 2)

    def nchw_to_nhwc(x: Tensor) -> Tensor:
        return x if x.shape[3] == 3 else x.permute(0, 2, 3, 1)

    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    transform = transforms.Compose(
        [
            transforms.Lambda(nhwc_to_nchw),
            transforms.Lambda(lambda x: x * (1 / 255)),
            transforms.Normalize(mean=mean, std=std),
            transforms.Lambda(nchw_to_nhwc),
        ]
    )
    inv_transform = transforms.Compose(
        [
            transforms.Lambda(nhwc_to_nchw),
            transforms.Normalize(mean=(-1 * np.array(mean) / np.array(std)).tolist(), std=(1 / np.array(std)).tolist()),
            transforms.Lambda(nchw_to_nhwc),
        ]
    )
    X = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3)).astype(np.float64)  # noqa: N806
    class_names = ["cat", "dog", "owl", "bat"]
    Xtr = transform(torch.Tensor(X))  # noqa: N806
    topk, batch_size, n_evals = 3, 50, 200

    masker_blur = ours.Masker(Xtr[0].shape)  # changed: shap.maskers.Image("blur(128,128)", Xtr[0].shape)
    predict = ours.Model(model)  # changed: def predict(img): ...
    explainer = shap.Explainer(predict, masker_blur, output_names=class_names)
    shap_values = explainer(
        Xtr[1:2], max_evals=n_evals, batch_size=batch_size, outputs=shap.Explanation.argsort.flip[:topk]
    )
    best = predict(Xtr[1:2])[0].argsort()[::-1][:topk]
    assert list(shap_values.output_names) == [class_names[k] for k in best]

    shap_values.data = inv_transform(shap_values.data).cpu().numpy()[0]
    np.testing.assert_allclose(shap_values.data * 255, X[1], atol=1e-3)
    shap_values.values = [val for val in np.moveaxis(shap_values.values[0], -1, 0)]  # noqa: C416
    shap.image_plot(
        shap_values=shap_values.values,
        pixel_values=shap_values.data,
        labels=shap_values.output_names,
        true_labels=[class_names[1]],
        show=False,
    )
    assert len(figures()) == 1


def test_image_plot_of_everything_else(model: nn.Module, images: np.ndarray, figures: Callable[[], list[int]]) -> None:
    images = (images - images.min()) / (images.max() - images.min())
    masker = ours.Masker(SHAPE, 6, values="features")
    exact = explain(shap.Explainer(ours.Model(model), masker, algorithm="exact"), images)
    shap.image_plot(masker.to_pixels(exact, images), show=False)
    two = masker.to_pixels(exact[..., [3, 1]], images)
    np.testing.assert_array_equal(two.values, masker.to_pixels(exact, images).values[..., [3, 1]])
    one = masker.to_pixels(exact[..., 1], images)
    np.testing.assert_array_equal(one.values, masker.to_pixels(exact, images).values[..., 1])
    shap.image_plot(masker.to_pixels(exact[0], images[0], output_names=["a", "b", "c", "d"]), show=False)
    for one in (lambda logits: logits[:, 2], lambda logits: logits[:, [2]]):
        explainer = shap.PermutationExplainer(ours.Model(model, output=one), masker)
        alone = masker.to_pixels(explain(explainer, images, max_evals=9), images)
        np.testing.assert_allclose(
            alone.values.reshape(2, *SHAPE), masker.to_pixels(exact, images).values[..., 2], atol=1e-2
        )
        shap.image_plot(alone, show=False)
    partition = shap.Explainer(ours.Model(model), ours.Masker(SHAPE, 6), output_names=["a", "b", "c", "d"])
    flipped = explain(partition, images, max_evals=20, outputs=shap.Explanation.argsort.flip[:2])
    shap.image_plot(flipped, show=False)
    function = ours.ValueFunction(model, images[0], 6)
    kernel = shap.KernelExplainer(function, function.background)
    values = kernel.shap_values(function.everything, silent=True)
    shap.image_plot(function.to_pixels(values, output_names=["a", "b", "c", "d"]), show=False)
    shap.image_plot(function.to_pixels(kernel(function.everything, silent=True)), show=False)
    shap.image_plot(function.to_pixels(values[..., 2]), show=False)
    grey = ours.Masker((12, 12, 1), 6)
    brightness = ours.Model(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), output=lambda mean: mean[:, 0])
    shap.image_plot(explain(shap.Explainer(brightness, grey), images[..., :1], max_evals=20), show=False)
    shap.plots.bar(exact[0, :, 1], show=False)
    assert len(figures()) == 9  # the bars go into the last one


class WithMetadata(nn.Module):
    """An image and what else is known of it, which stays as it is."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, metadata: Tensor) -> Tensor:
        return self.model(x) * (1 + metadata.sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("algorithm", "values"),
    [("Exact", "features"), ("Permutation", "features"), ("Partition", "pixels")],
)
def test_a_composite_of_an_image_and_fixed_metadata(
    algorithm: str, values: str, model: nn.Module, images: np.ndarray
) -> None:
    metadata = np.arange(6, dtype=np.float64).reshape(2, 3)[: len(images)] / 10
    masker = ours.Masker(images[0].shape, features=(images.shape[1] // 2, images.shape[2] // 2), values=values)
    # SHAP takes no names from a Composite, and fails where it has to make them up.
    explainer = getattr(shap.explainers, algorithm)(
        ours.Model(WithMetadata(model).eval()),
        shap.maskers.Composite(masker, shap.maskers.Fixed()),
        feature_names=[["of the image"], ["of the metadata"]],
    )
    settings = {"silent": True, **({} if algorithm == "Exact" else {"max_evals": 200})}
    np.random.seed(0)
    found, fixed = explainer(images, metadata, **settings)
    np.random.seed(0)
    alone = getattr(shap.explainers, algorithm)(ours.Model(model), masker)(images, **settings)
    scale = (1 + metadata.sum(1)).reshape(-1, *(1,) * (alone.values.ndim - 1))
    expected, tolerance = alone.values * scale, 1e-5 * np.abs(alone.values).max()
    if algorithm == "Permutation":  # draws other orders, whose sums are the same
        np.testing.assert_allclose(found.values.sum(1), expected.sum(1), atol=tolerance)
    else:
        np.testing.assert_allclose(found.values, expected, atol=tolerance)
    assert np.size(fixed.values) == 0


def test_the_output_of_a_model_goes_along_with_the_image(model: nn.Module, images: np.ndarray) -> None:
    class Agreement(nn.Module):
        def forward(self, x: Tensor, whole: Tensor) -> Tensor:
            return (model(x) * whole).sum(1, keepdim=True)

    predict = ours.Model(model)
    masker = ours.Masker(images[0].shape, features=(images.shape[1] // 2, images.shape[2] // 2), values="features")
    composite = shap.maskers.OutputComposite(masker, lambda image: predict(image[None]))
    found = shap.ExactExplainer(ours.Model(Agreement().eval()), composite)(images, silent=True)
    alone = shap.ExactExplainer(predict, masker)(images, silent=True)
    expected = (alone.values * predict(images)[:, None]).sum(-1)
    np.testing.assert_allclose(np.reshape(found.values, expected.shape), expected, atol=1e-5 * np.abs(expected).max())


def test_further_arguments_get_the_dtype_of_the_model(model: nn.Module, images: np.ndarray) -> None:
    seen = []

    class Recorded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor, *further: Tensor) -> Tensor:
            seen.extend(one.dtype for one in further)
            return self.model(x)

    visible = np.ones(images.shape[:3], bool)
    row = np.zeros(len(images))
    ours.Model(Recorded().eval())(images, visible, row, row.astype(np.int64), torch.zeros(len(images)).half())
    assert seen[-3:] == [torch.float32, torch.int64, torch.float32]
