"""Bad input: each has its own exception, which says what was expected, what came, and what to do."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

import lm_plugins as lm
from lm_plugins import errors
from lm_plugins.masking import run_masked


@pytest.fixture
def model():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    ).eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 10)


VISIBLE = torch.rand(8, 10, generator=torch.Generator().manual_seed(0)) > 0.5


@contextlib.contextmanager
def refused(model, x, error, *texts):
    """The block raises `error` with every text in its message, and the model works as before afterwards."""
    masked = lm.LayerMasked(model)
    before = masked(x, VISIBLE)
    with pytest.raises(error) as caught:
        yield
    assert isinstance(caught.value, errors.LMPluginsError)
    for text in texts:
        assert text in str(caught.value)
    assert torch.equal(masked(x, VISIBLE), before)


# ---- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(7, 10), (10, 8), (2, 1, 8, 9), (2, 3, 8, 10), (3, 8, 10), (2, 2, 8, 10), (1, 2, 1, 8, 10), (80,), ()]
)
def test_mask_of_another_size(model, x, shape):
    texts = (str(shape), "(2, 3, 8, 10)", "(2, 1, 8, 10)", "(2, 8, 10)", "(8, 10)", "Resize")
    with refused(model, x, errors.ShapeError, *texts):
        lm.LayerMasked(model)(x, torch.ones(shape))


@pytest.mark.parametrize("value", [0.5, 2, -1, 255, float("nan"), float("inf")])
def test_mask_values_that_are_neither_0_nor_1(model, x, value):
    visible = torch.ones(8, 10)
    visible[3, 4] = value
    with refused(
        model, x, errors.MaskValueError, "0 (hidden) and 1 (visible)", f"holds {visible[3, 4].item()}", "mask > 0.5"
    ):
        lm.LayerMasked(model)(x, visible)


@pytest.mark.parametrize("visible", [np.ones((8, 10), bool), [[True] * 10] * 8, 1, "all"])
def test_mask_that_is_no_tensor(model, x, visible):
    with refused(
        model, x, errors.InputTypeError, "visible must be a torch.Tensor", type(visible).__name__, "as_tensor"
    ):
        lm.LayerMasked(model)(x, visible)


@pytest.mark.parametrize("channels", [1, 2])
def test_pixel_with_only_some_channels_masked(model, x, channels):
    bad = x.clone()
    bad[1, :channels, 4, 5] = lm.MASKED
    bad[1, :channels, 6, 5] = lm.MASKED
    texts = (
        "2 pixels",
        "only some of their channels",
        "image 1, row 4, column 5",
        "sliding_window_shapes=(3, height, width)",
    )
    with refused(model, x, errors.MaskValueError, *texts):
        lm.LayerMasked(model)(bad)


# ---- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integer_image(model, x, dtype):
    with refused(model, x, errors.InputTypeError, "floating point", str(dtype), "x.float() / 255"):
        lm.LayerMasked(model)(torch.ones(2, 3, 8, 10, dtype=dtype), VISIBLE)


def test_complex_image(model, x):
    with refused(model, x, errors.InputTypeError, "floating point", "complex64"):
        lm.LayerMasked(model)(x.to(torch.complex64), VISIBLE)


def test_empty_batch(model, x):
    for visible in (VISIBLE, None):
        with refused(model, x, errors.ShapeError, "(0, 3, 8, 10)", "the batch is empty", "at least one image"):
            lm.LayerMasked(model)(x[:0], visible)


def test_image_without_batch(model, x):
    with refused(model, x, errors.ShapeError, "(N, C, H, W)", "(3, 8, 10)", "x[None]"):
        lm.LayerMasked(model)(x[0], VISIBLE)


@pytest.mark.parametrize("shape", [(2, 3, 4, 8, 10), (8, 10), (10,), (), (2, 3, 0, 10)])
def test_other_shapes(model, x, shape):
    with refused(model, x, errors.ShapeError, "(N, C, H, W)", str(shape)):
        lm.LayerMasked(model)(torch.zeros(shape), VISIBLE)


def test_image_that_is_no_tensor(model, x):
    with refused(model, x, errors.InputTypeError, "torch.Tensor (N, C, H, W)", "ndarray"):
        lm.LayerMasked(model)(x.numpy(), VISIBLE)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_visible_pixel_that_is_not_finite(model, x, value):
    row, column = (int(one) for one in VISIBLE.nonzero()[7])
    bad = x.clone()
    bad[1, 2, row, column] = value
    texts = (
        "1 visible pixels are infinite or NaN",
        f"image 1, row {row}, column {column}",
        "Hide them",
        "lm_plugins.MASKED",
    )
    with refused(model, x, errors.NonFiniteError, *texts):
        lm.LayerMasked(model)(bad, VISIBLE)
    with refused(model, x, errors.NonFiniteError, *texts):
        lm.LayerMasked(model)(bad)


# ---- models ----------------------------------------------------------------------------------------------------------


def test_model_of_other_inputs(x):
    # A linear layer would act on the columns of the image, an embedding on its values as if they were indices.
    with pytest.raises(errors.UnsupportedOperatorError) as caught:
        lm.LayerMasked(nn.Linear(10, 2).eval())(x, VISIBLE)
    for text in ("torch.nn.functional.linear", "(Linear)", "would mix hidden and visible"):
        assert text in str(caught.value)
    with pytest.raises(errors.UnsupportedOperatorError, match=r"embedding, called in '\(the model\) \(Embedding\)'"):
        lm.LayerMasked(nn.Embedding(10, 2).eval())(x, VISIBLE)
    with pytest.raises(errors.ShapeError, match="Models of other inputs are not supported"):
        lm.LayerMasked(nn.Linear(10, 2).eval())(torch.randn(4, 10))


def test_what_is_no_module():
    for other in (torch.relu, "resnet50", None):
        with pytest.raises(errors.InputTypeError, match=rf"needs a torch\.nn\.Module, got {type(other).__name__}"):
            lm.LayerMasked(other)


def test_options_that_are_none(model):
    with pytest.raises(errors.InputTypeError, match="must be a MaskingOptions or None, got dict"):
        lm.LayerMasked(model, {"visible": "any"})


def test_training_mode(model, x):
    model.train()
    with pytest.raises(
        errors.TrainingModeError, match=r"evaluation mode.*the model itself, 0, 1 and 4 more.*model\.eval\(\)"
    ):
        lm.LayerMasked(model)(x, VISIBLE)
    with pytest.raises(errors.TrainingModeError):
        lm.LayerMasked(model)(x)  # also when everything is visible
    assert model.training
    model.eval()
    model[1].train()
    before = model[1].running_mean.clone()
    with pytest.raises(errors.TrainingModeError, match=r"in training mode: 1\."):
        run_masked(model, x, torch.ones(2, 8, 10, dtype=torch.bool), lm.MaskingOptions())
    assert model[1].training
    assert torch.equal(model[1].running_mean, before)
    model.eval()
    assert lm.LayerMasked(model)(x, VISIBLE).shape == (2, 2)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.up1, self.up2 = nn.LPPool3d(1, 2), nn.LPPool3d(1, 1)

    def forward(self, x):
        return torch.fft.fft2(self.up2(self.up1(x))).real


def test_unsupported_functions_are_all_named_with_their_module_paths(x):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    model.add_module("decoder", Decoder().eval())
    with pytest.raises(errors.UnsupportedOperatorError) as caught:
        lm.LayerMasked(model)(x, VISIBLE)
    text = str(caught.value)
    assert text.startswith("no masking rule for torch.nn.functional.lp_pool3d.")
    assert "torch.nn.functional.lp_pool3d, called in 'decoder.up1 (LPPool3d)', 'decoder.up2 (LPPool3d)'" in text
    assert "torch.fft.fft2, called in 'decoder (Decoder)'" in text
    assert "lm_plugins.register_rule" in text
    assert "docs/writing_a_rule.md" in text
    # Everything visible needs no rules.
    assert torch.equal(lm.LayerMasked(model)(x), model(x))


def test_a_function_called_in_a_way_that_its_rule_does_not_cover(x):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm([8])).eval()
    with pytest.raises(errors.UnsupportedOperatorError, match=r"layer_norm, called in '1 \(LayerNorm\)'"):
        lm.LayerMasked(model)(x, VISIBLE)

    class Rows(nn.Module):
        def forward(self, x):
            return x.mean((0, 2))

    with pytest.raises(
        errors.UnsupportedOperatorError, match=r"(?s)mean over the dimensions \[0, 2\].*\(the model\) \(Rows\)"
    ):
        lm.LayerMasked(Rows().eval())(x, VISIBLE)


# ---- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "known"),
    [
        ("visible", "all", "'any', 'coverage'"),
        ("stem", "centre", "'any', 'coverage'"),
        ("computed", None, "'visible', 'next', 'any'"),
        ("addition", "sum", "'intersection', 'union'"),
        ("concatenation", True, "'union', 'intersection', 'majority'"),
        ("missing", "nan", "'neighbours', 'zero'"),
        ("average", "some", "'visible', 'all'"),
        ("global_average", 0, "'visible', 'all'"),
        ("flatten", "mean", "'zero', 'neighbours'"),
        ("diagonal", 0, "above 0, up to 1"),
        ("diagonal", 1.5, "above 0, up to 1"),
        ("diagonal", -0.3, "above 0, up to 1"),
        ("diagonal", "1", "above 0, up to 1"),
        ("diagonal", True, "above 0, up to 1"),
        ("diagonal", float("nan"), "above 0, up to 1"),
        ("coverage", 0.0, "above 0, up to 1"),
        ("padding_epsilon", -1e-5, "from 0, up to 1"),
        ("pointwise_ring", 1, "True or False"),
    ],
)
def test_options_of_unknown_values(option, value, known):
    with pytest.raises(errors.OptionError) as caught:
        lm.MaskingOptions(**{option: value})
    for text in (f"MaskingOptions.{option}", known, f"got {value!r}"):
        assert text in str(caught.value)


def test_every_error_is_of_one_tree_and_of_the_builtin_that_fits():
    builtin = {
        "ShapeError": ValueError,
        "InputTypeError": TypeError,
        "MaskValueError": ValueError,
        "NonFiniteError": ValueError,
        "TrainingModeError": RuntimeError,
        "OptionError": ValueError,
        "LayerError": ValueError,
        "ProbabilityError": ValueError,
        "ImageFileError": ValueError,
        "LabelFileError": ValueError,
        "ModelLoadingError": ValueError,
        "ArchitectureError": ValueError,
        "CalibrationError": ValueError,
        "ConformanceError": AssertionError,
        "RuleError": TypeError,
        "DuplicateRuleError": ValueError,
        "UnsupportedOperatorError": NotImplementedError,
        "VerificationError": RuntimeError,
        "MissingDependencyError": ImportError,
        "NotOfferedError": ImportError,
    }
    assert {*errors.__all__} == {
        *builtin,
        "LMPluginsError",
        "CalibrationWarning",
        "ExplanationWarning",
        "OutputWarning",
        "PluginWarning",
        "PublishedCodeWarning",
        "SkippedLayerWarning",
    }
    for name, base in builtin.items():
        assert issubclass(getattr(errors, name), (errors.LMPluginsError,))
        assert issubclass(getattr(errors, name), base)
    for name in errors.__all__:
        assert name in {*builtin, "LMPluginsError"} or issubclass(getattr(errors, name), UserWarning)
