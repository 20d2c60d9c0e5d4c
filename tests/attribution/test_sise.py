"""Laws of SISE and Ada-SISE."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from lm_plugins.attribution import SISE, AdaSISE, SoftMasks, fused, named_layers, otsu_threshold
from lm_plugins.audit import measured_cost
from lm_plugins.errors import InputTypeError, OptionError, ProbabilityError, ShapeError, SkippedLayerWarning
from lm_plugins.removal import Blur, Colour, LayerMasking, RandomColour
from lm_plugins.removal.model_call import ModelCall
from tests.references import explanation


def test_an_image_of_a_batch_alone_and_all_batch_sizes(model, x):
    whole = SISE(model, output="logits").attribute(x, target=[0, 1])
    assert whole.shape == (2, 1, 20, 16)
    assert float(whole.min()) == 0
    assert float(whole.max()) == 1
    alone = SISE(model, output="logits", batch_size=1).attribute(x[1:], target=1)
    torch.testing.assert_close(alone, whole[1:])


def test_ada_sise_takes_fewer_forward_passes(model, x):
    passes = []
    for method in (SISE, AdaSISE):
        with measured_cost(model) as cost:
            method(model, output="logits").attribute(x, target=1)
        passes.append(cost.images)
    assert passes[1] < 0.7 * passes[0]


def test_kinds_of_output(model, x):
    of_logits = SISE(model, output="logits").attribute(x, target=1)
    probabilities = nn.Sequential(model, nn.Softmax(1)).eval()
    torch.testing.assert_close(SISE(probabilities).attribute(x, target=1), of_logits)
    multilabel = SISE(model, output="sigmoid").attribute(x, target=1)
    sigmoid = nn.Sequential(model, nn.Sigmoid()).eval()
    torch.testing.assert_close(SISE(sigmoid).attribute(x, target=1), multilabel)
    assert not torch.allclose(multilabel, of_logits)
    by_logit = SISE(model, output="logits", gradient_of="output").attribute(x, target=1)
    assert by_logit.shape == of_logits.shape
    assert not torch.allclose(by_logit, of_logits)
    dictionary = SISE(_Named(model), output=(lambda found: found["logits"], "logits"))
    torch.testing.assert_close(dictionary.attribute(x, target=1), of_logits)


class _Named(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model.eval()
        self.training = False

    def forward(self, x):
        return {"logits": self.model(x)}


class _Scaled(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.training = False

    def forward(self, x, scale, power):
        return self.model(x * scale[:, None, None, None] ** power)


def test_further_arguments_belong_to_their_images(model, x):
    scale = torch.tensor([2.0, 3.0], dtype=torch.float64)
    for method in (SISE, AdaSISE):
        result = method(_Scaled(model), removal="grey", output="logits").attribute(
            x, target=1, additional_forward_args=(scale, 2)
        )
        plain = method(model, removal="grey", output="logits").attribute(x * (scale**2)[:, None, None, None], target=1)
        torch.testing.assert_close(result, plain)


def test_a_fading_colour_is_multiplication_and_others_see_regions(model, x):
    call = ModelCall(model)
    masks = torch.rand(3, 20, 16, dtype=torch.float64)
    grey = SoftMasks(call, "grey", (0.5,))
    assert grey.fades
    assert grey.seen(masks) is masks
    torch.testing.assert_close(grey.outputs(x[:1], masks, ()), model(x[:1] * masks[:, None]))
    assert SoftMasks(call, "black", (0.5,)).fades
    assert SoftMasks(call, RandomColour(), (0.5,)).fades
    for removal in (None, Blur(2.0), "image_mean"):
        regions = SoftMasks(call, removal, (0.25, 0.5, 0.75))
        seen = regions.seen(masks)
        assert not regions.fades
        assert seen.shape == (9, 20, 16)
        torch.testing.assert_close(seen[3:6], (masks > 0.5).double())
    forward = LayerMasking()(model)
    torch.testing.assert_close(
        SoftMasks(call, None, (0.5,)).outputs(x[:1], (masks > 0.5).double(), ()),
        forward(x[:1].expand(3, -1, -1, -1), masks > 0.5),
    )


@pytest.mark.parametrize("removal", [None, "blur", "image_mean", "noisy_linear", "white"])
@pytest.mark.parametrize("method", [SISE, AdaSISE])
def test_every_removal_runs(model, x, method, removal):
    result = method(model, removal=removal, thresholds=(0.25, 0.5), output="logits").attribute(x, target=1)
    assert result.isfinite().all()
    assert float(result.std()) > 0


def test_layer_masking_does_not_look_at_hidden_pixels(model, x):
    """Scores of regions do not change with what is hidden in all of them."""
    call = ModelCall(model)
    masks = torch.zeros(2, 20, 16, dtype=torch.float64)
    masks[0, :10], masks[1, :, :8] = 1, 1
    other = x[:1].clone()
    other[:, :, 10:, 8:] = 1e3
    regions = SoftMasks(call, None, (0.5,))
    torch.testing.assert_close(regions.outputs(other, masks, ()), regions.outputs(x[:1], masks, ()))


def test_fusion_by_hand():
    first, second = torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[0.0, 1.0, 0.9]])
    torch.testing.assert_close(fused([first, second], "hard"), torch.tensor([[0.0, 1.5, 0.9]]))
    soft = fused([first, second], "soft", temperature=1e4)
    torch.testing.assert_close(soft, fused([first, second], "hard"))
    torch.testing.assert_close(fused([first], "soft"), first)


def test_otsu_is_the_textbooks():
    for seed in range(5):
        values = torch.rand(200, generator=torch.Generator().manual_seed(seed)) ** 3
        values[50:100] = values[:50]  # equal ones stay together
        assert otsu_threshold(values) == pytest.approx(explanation.otsu(values.numpy()), abs=1e-9)
    with pytest.raises(ShapeError, match="separates different values, got 3 equal ones"):
        otsu_threshold(torch.ones(3))


def test_otsu_separates_neighbouring_numbers():
    one = torch.tensor(1.0, dtype=torch.float64)
    pair = torch.stack([one, torch.nextafter(one, 2 * one)])
    assert (pair > otsu_threshold(pair)).tolist() == [False, True]


def test_otsu_keeps_no_value_of_the_lower_class():
    """A histogram puts values a little above the best split into the bin that its threshold is the centre of."""
    values = torch.tensor([0.0, 0.1, 86.9 / 256, 0.9, 1.0])
    counts, edges = np.histogram(values.numpy(), 256)
    centre = (edges[86] + edges[87]) / 2
    assert counts[86] == 1
    assert (values > centre).sum() == 3
    assert (values > otsu_threshold(values)).tolist() == [False] * 3 + [True] * 2


def test_the_factor_acts_where_it_leaves_something_but_little():
    ramp = torch.linspace(0, 1, 101)[None].double()
    peak = ramp**20
    for value, raised in ((ramp, False), (peak, True)):
        plain, factor = (fused([torch.ones_like(value), value], "hard", otsu_factor=one) for one in (1.0, 1.5))
        assert bool((factor > 0).sum() < (plain > 0).sum()) == raised
        assert (factor > 0).any()
    # Nothing lies above 1.5 times 0.8: the threshold stays.
    high = torch.tensor([[0.6, 0.7, 0.9, 1.0]])
    torch.testing.assert_close(fused([high, high], "hard", otsu_factor=1.5), fused([high, high], "hard"))


def test_weights_and_the_simple_fusion_by_hand():
    first, second = torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[0.0, 1.0, 0.5]])
    torch.testing.assert_close(fused([first, second], "simple"), torch.tensor([[0.0, 1.5, 0.25]]))
    torch.testing.assert_close(fused([first, second], "simple", weight=0.0), 2 * second**2)
    torch.testing.assert_close(fused([first, second], "hard", weight=2.0), torch.tensor([[0.0, 1.0, 0.0]]))


def test_negative_parts_of_maps_are_no_evidence(model, x):
    """A layer of signed maps gives what the ReLU behind it would give."""
    signed, behind = ["0", "4", "7"], ["1", "5", "8"]
    scores = {"removal": "grey", "output": "logits"}
    with torch.no_grad():  # maps of either sign everywhere
        for layer in (model[0], model[7]):
            layer.bias.zero_()
    maps = {}
    for names in (signed, behind):
        sise = SISE(model, names, **scores)
        maps[names[0]], _ = sise._captured(x, [1, 1], None, named_layers(model, names))
    for before, after in zip(maps["0"], maps["1"], strict=True):
        assert (before < 0).any()
        torch.testing.assert_close(before.clamp(min=0), after)
    kept = SISE(model, signed, rectify=False, **scores).attribute(x, target=1)
    assert not torch.allclose(SISE(model, signed, **scores).attribute(x, target=1), kept)
    torch.testing.assert_close(
        SISE(model, behind, rectify=False, **scores).attribute(x, target=1),
        SISE(model, behind, **scores).attribute(x, target=1),
    )


def against(model):
    """A model whose last maps all speak against class 1."""
    with torch.no_grad():
        model[-1].weight[1] = -model[-1].weight[1].abs() - 10
    return model


def test_a_layer_without_positive_gradient_is_left_out_and_said_once(model, x):
    model = against(model)
    kept = SISE(model, ["1", "5"], output="regression").attribute(x, target=1)
    with pytest.warns(SkippedLayerWarning, match=r"left out layers.*: 8 \(2 of 2 images\)") as caught:
        result = SISE(model, output="regression").attribute(x, target=1)
    assert len(caught) == 1
    torch.testing.assert_close(result, kept)


@pytest.mark.parametrize("method", [SISE, AdaSISE])
def test_nothing_positive_anywhere_gives_zero(model, x, method):
    with pytest.warns(SkippedLayerWarning, match="left out layers"):
        result = method(against(model), ["8"], output="regression").attribute(x, target=1)
    assert not result.any()


@pytest.mark.parametrize("method", [SISE, AdaSISE])
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_constant_images(model, method, value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkippedLayerWarning)
        result = method(model, removal="white", output="logits").attribute(
            torch.full((1, 3, 20, 16), value, dtype=torch.float64), target=0
        )
    assert result.isfinite().all()


def test_logits_in_place_of_probabilities_are_said(model, x):
    with pytest.raises(ProbabilityError, match=r"probabilities are expected.*output='logits'"):
        SISE(model).attribute(x, target=1)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda m: SISE(lambda x: m(x)), InputTypeError, "whose layers are looked at; got function"),
        (lambda m: SISE(m, mu=1.0), OptionError, r"mu is in \[0, 1\), got 1.0"),
        (lambda m: SISE(m, fusion="mean"), OptionError, "'soft', 'hard', 'simple'; got 'mean'"),
        (lambda m: SISE(m, otsu_factor=0.5), OptionError, "otsu_factor is at least 1, got 0.5"),
        (lambda m: SISE(m, weight=2.5), OptionError, "weight is from 0 to 2, got 2.5"),
        (lambda m: SISE(m, temperature=0), OptionError, "temperature is above 0"),
        (lambda m: SISE(m, thresholds=()), OptionError, "at least one of them"),
        (lambda m: SISE(m, thresholds=(1.0,)), OptionError, r"in \[0, 1\)"),
        (lambda m: SISE(m, output="odds"), OptionError, "output is one of 'logits'.*got 'odds'"),
        (lambda m: SISE(m, gradient_of="loss"), OptionError, "'probability' or 'output'"),
        (lambda m: SISE(m, batch_size=0), OptionError, "batch_size is at least 1"),
        (lambda m: SISE(m, removal="pink"), OptionError, "no removal is called 'pink'"),
    ],
)
def test_bad_options(model, call, error, text):
    with pytest.raises(error, match=text):
        call(model)


def test_progress_counts_every_mask(model, x, capsys):
    with measured_cost(model) as cost:
        SISE(model, removal=Colour(0.0), output="logits").attribute(x, target=1, show_progress=True)
    # One run finds the layers, one takes the gradients.
    assert f"{cost.images - 1 - 2}/{cost.images - 1 - 2}" in capsys.readouterr().err
