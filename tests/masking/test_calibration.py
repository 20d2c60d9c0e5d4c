"""Calibrated layer masking: the moments it matches, the laws it keeps, what it refuses, and that it is read back."""

import copy
import json

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

import lm_plugins as lm
from lm_plugins.errors import (
    CalibrationError,
    CalibrationWarning,
    InputTypeError,
    NonFiniteError,
    OptionError,
    ShapeError,
    TrainingModeError,
)
from lm_plugins.masking.calibrate import mixture
from lm_plugins.removal import LayerMasking, as_removal
from lm_plugins.testing import check_model

SIZE = 32


def network(seed=0):
    """A small CNN with batch norm whose statistics are those of its images."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip
    with torch.no_grad():
        model.train()(images(64, seed=9))
    return model.eval()


def images(n=24, seed=0, size=SIZE):
    """Smooth images, in the usual normalisation."""
    noise = torch.randn(n, 3, size // 4, size // 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(noise, size=(size, size), mode="bilinear")


def masks(n, seed=1, size=SIZE):
    return mixture(n, (size, size), np.random.default_rng(seed))


@pytest.fixture(scope="module")
def calibrated():
    return lm.calibrate(network(), images())


def outputs_of(masked, x, visible, layer):
    """Means over what is visible of the output of a layer."""
    kept = []
    handle = masked.model[layer].register_forward_hook(
        lambda module, args, output: (
            kept.append((output.values.detach().clone(), output.visibility.visible.positions))
            if hasattr(output, "visibility")
            else kept.append((output.detach(), None))
        )
    )
    with torch.no_grad():
        masked(x, visible)
    handle.remove()
    values, visible = kept[-1]
    if visible is None:
        return values.mean((2, 3)), values.square().mean((2, 3))
    count = visible.sum((1, 2)).clamp(min=1)[:, None]
    seen = values * visible[:, None]
    return seen.sum((2, 3)) / count, seen.square().sum((2, 3)) / count


@pytest.mark.parametrize("layer", [5, 8])
def test_masked_moments_come_closer_to_those_of_whole_images(layer):
    model, new = network(), images(200, seed=5)
    visible = masks(200, seed=6)
    visible = visible[(~visible).flatten(1).float().mean(1) > 0.4]
    new = new[: len(visible)]
    plain, fitted = lm.LayerMasked(model), lm.calibrate(model, images(100))
    whole = outputs_of(plain, new, torch.ones_like(visible), layer)

    def distances(masked):
        found = outputs_of(masked, new, visible, layer)
        return [(one.mean(0) - other.mean(0)).abs().mean() for one, other in zip(found, whole, strict=True)]

    for before, after in zip(distances(plain), distances(fitted), strict=True):
        assert after < 0.7 * before


def test_correction_is_the_least_squares_fit():
    """One layer, one share: the fit against NumPy's, on the same moments."""
    from lm_plugins.masking import moment_matching

    rng = np.random.default_rng(0)
    shares = rng.random((40, 2))
    whole_mean, whole_square = rng.normal(size=(10, 3)), 4 + rng.random((10, 3))
    mean = np.tile(whole_mean, (4, 1)) + shares @ rng.normal(size=(2, 3))
    square = np.tile(whole_square, (4, 1)) + shares @ rng.normal(size=(2, 3)) + mean**2
    moments = moment_matching.Moments("w")
    tensors = [torch.from_numpy(one) for one in (whole_mean, whole_square, mean, square, shares)]
    for rows in (slice(0, 5), slice(5, 10)):  # in two parts: sums are all that is kept
        of_masks = torch.cat([torch.arange(10)[rows] + 10 * k for k in range(4)])
        moments.add(
            (tensors[0][rows], tensors[1][rows]), (tensors[2][of_masks], tensors[3][of_masks]), tensors[4][of_masks],
            torch.ones(20, dtype=torch.bool),
        )  # fmt: skip
    found = moments.correction()
    gram = shares.T @ shares
    gram += 0.1 * np.diag(np.diag(gram)) + 1e-9 * np.eye(2)
    mu = whole_mean.mean(0)
    variance = whole_square.mean(0) - mu**2
    shift = np.linalg.solve(gram, shares.T @ (mean - np.tile(whole_mean, (4, 1))))
    moved = shares @ shift
    left = (square - 2 * mu * mean + mu**2) - 2 * moved * (mean - mu) + moved**2
    left -= np.tile(whole_square - 2 * mu * whole_mean + mu**2, (4, 1))
    spread = np.linalg.solve(gram, shares.T @ (left / variance))
    np.testing.assert_allclose(found.mean, mu, rtol=1e-6)
    np.testing.assert_allclose(found.shift, shift, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.spread, spread, rtol=1e-5, atol=1e-6)


def vision_transformer():
    model = torchvision.models.VisionTransformer(64, 8, 2, 2, 16, 32)
    nn.init.normal_(model.heads.head.weight)  # zero by default: nothing would matter
    return model


ARCHITECTURES = {
    "small": network,
    "resnet18": torchvision.models.resnet18,
    "densenet121": torchvision.models.densenet121,
    "mobilenet_v3_small": torchvision.models.mobilenet_v3_small,
    "squeezenet1_1": torchvision.models.squeezenet1_1,
    "convnext_tiny": torchvision.models.convnext_tiny,
    "vit": vision_transformer,
    "swin_t": torchvision.models.swin_t,
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=pytest.mark.slow if one in ("densenet121", "swin_t") else ()) for one in ARCHITECTURES],
)
def test_laws_hold_with_a_calibration(name):
    torch.manual_seed(0)
    model = ARCHITECTURES[name]().eval()
    size = SIZE if name == "small" else 64
    masked = lm.calibrate(model, images(20, size=size), masks=2)
    x, visible = images(3, seed=7, size=size), masks(3, size=size)
    check_model(model, x, visible, calibration=masked.calibration, gradients=name != "densenet121")
    with torch.inference_mode():
        assert torch.equal(masked(x, torch.ones(size, size)), model(x))
        uncalibrated = lm.LayerMasked(model)(x, visible)
        # It does something, or the laws would say nothing.
        assert (masked(x, visible) - uncalibrated).abs().max() > 1e-4 * uncalibrated.abs().max()


def test_a_whole_image_in_a_batch_is_not_corrected(calibrated):
    x, visible = images(2, seed=3).double(), torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    visible[1, :, 16:] = False
    model = copy.deepcopy(calibrated.model).double()
    masked = lm.calibrate(model, images().double())
    with torch.inference_mode():
        torch.testing.assert_close(masked(x, visible)[:1], model(x[:1]), rtol=1e-12, atol=1e-12)


def test_a_prepared_copy_takes_the_calibration_along(calibrated):
    x, visible = images(4, seed=3), masks(4)
    ready = calibrated.prepare(x)
    assert isinstance(ready.model[1], nn.Identity)
    with torch.inference_mode():
        expected = calibrated(x, visible)
        torch.testing.assert_close(ready(x, visible), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
        half = calibrated.prepare(x, torch.bfloat16)(x.bfloat16(), visible).float()
        assert (half - expected).abs().max() < 0.1 * expected.abs().max()


def test_the_same_seed_gives_the_same_calibration():
    one, same, other = (lm.calibrate(network(), images(), seed=seed).calibration for seed in (0, 0, 1))
    assert torch.equal(one.corrections[0].shift, same.corrections[0].shift)
    assert not torch.equal(one.corrections[0].shift, other.corrections[0].shift)


def test_images_come_in_many_forms():
    x = images(20)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.zeros(20)), batch_size=7)
    expected = lm.calibrate(network(), x).calibration.corrections
    for given in (list(x), iter(x), loader, [x[:3], x[3:]]):
        found = lm.calibrate(network(), given).calibration.corrections
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.shift, other.shift, rtol=0, atol=0)


def test_depthwise_layers_and_the_head_are_left_alone(calibrated):
    assert [one and one.weight for one in calibrated.calibration.corrections] == ["0.weight", "5.weight", "8.weight"]


def test_the_model_is_not_touched():
    model = network()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    lm.calibrate(model, images())
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


# ---- files ----------------------------------------------------------------------------------------------------------


def test_saved_and_read_back(calibrated, tmp_path):
    file = tmp_path / "c.safetensors"
    calibrated.calibration.save(file)
    calibrated.calibration.save(str(file))
    read = lm.Calibration.load(file)
    x, visible = images(3, seed=3), masks(3)
    with torch.inference_mode():
        assert torch.equal(lm.LayerMasked(network(), calibration=read)(x, visible), calibrated(x, visible))
    assert (read.settings, read.images) == (calibrated.calibration.settings, calibrated.calibration.images)
    assert [one.name for one in tmp_path.iterdir()] == ["c.safetensors"]


def test_files_that_hold_none_are_refused(calibrated, tmp_path):
    file = tmp_path / "c.safetensors"
    with pytest.raises(FileNotFoundError, match="no calibration file"):
        lm.Calibration.load(file)
    file.write_bytes(b"something else")
    with pytest.raises(CalibrationError, match="can be read"):
        lm.Calibration.load(file)
    safetensors.torch.save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(CalibrationError, match="KeyError"):
        lm.Calibration.load(file)
    calibrated.calibration.save(file)
    half = file.read_bytes()
    file.write_bytes(half[: len(half) // 2])
    with pytest.raises(CalibrationError, match="can be read"):
        lm.Calibration.load(file)
    about = {"format": 99}
    safetensors.torch.save_file({"a": torch.zeros(1)}, file, {"calibration": json.dumps(about)})
    with pytest.raises(CalibrationError, match="format 99"):
        lm.Calibration.load(file)


# ---- what does not belong together ---------------------------------------------------------------------------------


def test_another_model_is_refused(calibrated):
    with pytest.raises(CalibrationError, match=r"differ of 0\.weight and .* more"):
        lm.LayerMasked(network(seed=1), calibration=calibrated.calibration)
    with pytest.raises(CalibrationError, match="it has no"):
        lm.LayerMasked(torchvision.models.squeezenet1_1().eval(), calibration=calibrated.calibration)
    with pytest.raises(CalibrationError, match="differ"):
        lm.LayerMasked(network().double(), calibration=calibrated.calibration)


def test_a_model_that_changed_is_refused():
    model = network()
    masked = lm.calibrate(model, images())
    x, visible = images(2, seed=3), masks(2)
    masked(x, visible)
    with torch.no_grad():
        model[5].weight.mul_(1.5)
    with pytest.raises(CalibrationError, match=r"differ of 5\.weight\."):
        masked(x, visible)
    masked(x, torch.ones(SIZE, SIZE))  # of a whole image, the calibration says nothing
    model[5] = nn.Conv2d(8, 12, 1)
    with pytest.raises(CalibrationError, match=r"differ of 5\.weight and 1 more"):
        masked(x, visible)


def test_other_options_are_refused(calibrated):
    with pytest.raises(OptionError, match=r"coverage=0.3, not 0.5"):
        lm.LayerMasked(network(), lm.MaskingOptions(coverage=0.5), calibration=calibrated.calibration)
    published = lm.calibrate(lm.LayerMasked(network(), lm.published("resnet50")), images())
    assert published.options == published.calibration.options == lm.published("resnet50")


def test_another_way_through_the_model_is_refused():
    class Early(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 6, 3)
            self.swapped = [False]

        def forward(self, x):
            layer = self.second if self.swapped[0] else self.first
            return layer(x).mean((2, 3))

    model = Early().eval()
    masked = lm.calibrate(model, images())
    model.swapped[0] = True
    with pytest.raises(CalibrationError, match="another way"):
        masked(images(2), masks(2))


def test_a_model_of_several_ways_is_refused():
    class Brightness(nn.Module):
        def __init__(self):
            super().__init__()
            self.dark, self.bright, self.calls = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), 0

        def forward(self, x):
            self.calls += 1
            return (self.dark if self.calls < 5 else self.bright)(x).mean((2, 3))

    with pytest.raises(CalibrationError, match="different ways for different images: layer 1 is dark"):
        lm.calibrate(Brightness().eval(), images())


class Checkpointed(nn.Module):
    def __init__(self, checkpoints, times=1):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU())
        self.checkpoints, self.times = checkpoints, times

    def forward(self, x):
        for _ in range(self.times):
            x = (
                torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False)
                if self.checkpoints
                else self.body(x)
            )
        return x.mean((2, 3))


def gradient(model):
    masked = lm.calibrate(model.eval(), images())
    x = images(2).requires_grad_()
    masked(x, masks(2)).square().sum().backward()
    return x.grad


def test_checkpoints_find_the_same_corrections_again():
    torch.testing.assert_close(gradient(Checkpointed(True)), gradient(Checkpointed(False)))


def test_checkpoints_of_shared_weights_are_refused_in_clear_words():
    with pytest.raises(CalibrationError, match=r"checkpoint computes body\.0\.weight again"):
        gradient(Checkpointed(True, times=2))


def test_a_model_inside_another_is_known(calibrated):
    """Adapters wrap models: what holds the calibrated model gives the same."""
    wrapped = nn.Sequential(network(), nn.Softmax(1)).eval()
    masked = lm.LayerMasked(wrapped, calibration=calibrated.calibration)
    x, visible = images(2, seed=3), masks(2)
    with torch.inference_mode():
        torch.testing.assert_close(masked(x, visible), calibrated(x, visible).softmax(1), rtol=0, atol=0)


def test_a_part_that_is_not_the_first_is_known_and_what_comes_before_it_is_refused(calibrated):
    class Wrapped(nn.Module):
        def __init__(self, with_layer):
            super().__init__()
            self.before = nn.Sequential(nn.Conv2d(3, 3, 1))
            self.body, self.with_layer = network(), with_layer

        def forward(self, x):
            return self.body(self.before(x) if self.with_layer else x)

    x, visible = images(2, seed=3), masks(2)
    with torch.inference_mode():
        masked = lm.LayerMasked(Wrapped(False).eval(), calibration=calibrated.calibration)
        assert torch.equal(masked(x, visible), calibrated(x, visible))
        masked = lm.LayerMasked(Wrapped(True).eval(), calibration=calibrated.calibration)
        with pytest.raises(CalibrationError, match=r"another way .* layer 1 is before\.0\.weight"):
            masked(x, visible)


# ---- bad images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (torch.zeros(0, 3, SIZE, SIZE), InputTypeError, "at least one image"),
        ([], InputTypeError, "at least one image"),
        (5, InputTypeError, "got int"),
        ([images(2), images(2, size=64)], ShapeError, "one size"),
        (["photo.jpg"], InputTypeError, "got str"),
        (torch.zeros(4, 3, SIZE, SIZE, dtype=torch.uint8), InputTypeError, "floating point"),
        (torch.full((4, 3, SIZE, SIZE), torch.nan), NonFiniteError, "NaN|infin|finite"),
    ],
)
def test_bad_images_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        lm.calibrate(network(), given)


def test_bad_arguments_are_refused():
    with pytest.raises(OptionError, match="masks"):
        lm.calibrate(network(), images(), masks=0)
    with pytest.raises(OptionError, match="batch_size"):
        lm.calibrate(network(), images(), batch_size=True)
    with pytest.raises(TrainingModeError):
        lm.calibrate(network().train(), images())
    with pytest.raises(CalibrationError, match="no convolution"):
        lm.calibrate(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval(), images())
    with pytest.raises(InputTypeError, match="Calibration or None"):
        lm.LayerMasked(network(), calibration="c.safetensors")


def test_few_images_are_said():
    with pytest.warns(CalibrationWarning, match="rests on 1 images"):
        masked = lm.calibrate(network(), images(1))
    assert masked(images(2), masks(2)).isfinite().all()


def test_images_unlike_those_of_the_calibration_are_said():
    masked = lm.calibrate(network(), images())
    with pytest.warns(CalibrationWarning, match="brightness"):
        masked(images(4, seed=2) * 50 + 120, masks(4))
    masked = lm.calibrate(network(), images())
    with pytest.warns(CalibrationWarning, match="64 x 64"):
        masked(images(4, size=64), masks(4, size=64))


def test_usual_images_bring_no_warning(calibrated, recwarn):
    calibrated(images(4, seed=8), masks(4))
    assert not [one for one in recwarn if issubclass(one.category, CalibrationWarning)]


def test_nothing_visible_is_finite_and_independent_of_the_image(calibrated):
    hidden = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    with torch.inference_mode():
        one, other = (calibrated(images(1, seed=seed), hidden) for seed in (0, 1))
    assert one.isfinite().all()
    assert torch.equal(one, other)


# ---- as a removal ---------------------------------------------------------------------------------------------------


def test_it_is_a_removal_everywhere(calibrated):
    removal = as_removal(calibrated)
    assert removal == LayerMasking(calibrated.options, True, calibrated.calibration)
    x, visible = images(2, seed=3), masks(2)
    with torch.inference_mode():
        assert torch.equal(removal(calibrated.model)(x, visible), calibrated(x, visible))
    from lm_plugins.captum import FeatureAblation

    mask = torch.arange(16).reshape(4, 4).repeat_interleave(8, 0).repeat_interleave(8, 1)
    one = FeatureAblation(calibrated.model, removal=calibrated).attribute(
        x[:1], target=0, feature_mask=mask[None, None]
    )
    other = FeatureAblation(calibrated.model).attribute(x[:1], target=0, feature_mask=mask[None, None])
    assert not torch.equal(one, other)


def test_copies_and_pickles_keep_it(calibrated):
    import pickle

    x, visible = images(2, seed=3), masks(2)
    with torch.inference_mode():
        expected = calibrated(x, visible)
        assert torch.equal(copy.deepcopy(calibrated)(x, visible), expected)
        assert torch.equal(pickle.loads(pickle.dumps(calibrated))(x, visible), expected)
