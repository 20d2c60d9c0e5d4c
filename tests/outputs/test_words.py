"""What a model returns: a word means the same to every adapter, method and measure, and nothing is guessed silently."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lm_plugins.attribution import RISE, SISE, IntegratedGradCam
from lm_plugins.audit import confidence_in_top, deletion, insertion, run_audit
from lm_plugins.captum import FeatureAblation, KernelShap, Lime, Occlusion, ShapleyValues, ShapleyValueSampling
from lm_plugins.errors import InputTypeError, OptionError, OutputWarning, ProbabilityError, ShapeError
from lm_plugins.features import CoalitionEvaluator
from lm_plugins.lime import LimeImageExplainer, MaskedClassifier
from lm_plugins.outputs.words import as_probabilities, guessed, parted, rows_of
from lm_plugins.quantus import PixelMasks
from lm_plugins.removal import as_removal

FEATURES = torch.arange(144).reshape(12, 12) // 36  # four
X = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
IMAGE = X[0].permute(1, 2, 0).numpy()


def network(classes: int, *last: nn.Module) -> nn.Module:
    """Whose logits for `X` are well outside of [0, 1]; `last` follows them."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, classes), *last
    )
    with torch.no_grad():
        net[4].weight *= 5
        net[4].bias.copy_(torch.linspace(-2, 2, classes) if classes > 1 else torch.tensor([-2.0]))
    return net.eval()


def squeezed(net: nn.Module) -> nn.Module:
    return nn.Sequential(net, nn.Flatten(0)).eval()


# Pairs that mean the same: a model with the word for it, and the probabilities written out by hand.
SAME = {
    "logits": (network(3), "logits", network(3, nn.Softmax(1))),
    "probabilities": (network(3, nn.Softmax(1)), "probabilities", network(3, nn.Softmax(1))),
    "sigmoid": (network(3), "sigmoid", network(3, nn.Sigmoid())),
    "single logit": (network(1), "single_logit", None),
    "single logit (N,)": (squeezed(network(1)), "single logit", None),
    "single probability": (network(1, nn.Sigmoid()), "probabilities", None),
}


class TwoClasses(nn.Module):
    """The reference for a single logit: its probability and that of the other class."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(1)

    def forward(self, x: Tensor) -> Tensor:
        p = torch.sigmoid(self.net(x)[:, 0])
        return torch.stack([1 - p, p], 1)


def captum(method: type, model: nn.Module, output: object, target: int) -> Tensor:
    torch.manual_seed(0)
    settings = {} if method in (FeatureAblation, ShapleyValues) else {"n_samples": 30}
    if method is Occlusion:
        settings = {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4)}
    else:
        settings["feature_mask"] = FEATURES
    from captum._utils.models.linear_model import SkLearnRidge

    made = {"interpretable_model": SkLearnRidge(alpha=1.0)} if method is Lime else {}
    return method(model, removal="grey", output=output, **made).attribute(X, target=target, **settings)


def lime(model: nn.Module, output: object, target: int) -> Tensor:
    explanation = LimeImageExplainer(model, removal="grey", output=output, random_state=0).explain_instance(
        IMAGE, labels=(target,), top_labels=None, num_samples=40, progress_bar=False, segmentation_fn=lambda i: FEATURES
    )
    return torch.tensor([weight for _, weight in sorted(explanation.local_exp[target])])


def own_lime(model: nn.Module, output: object, target: int) -> Tensor:
    return torch.from_numpy(MaskedClassifier(model, IMAGE, removal="grey", output=output)(IMAGE[None])[:, target])


def shap_values(model: nn.Module, output: object, target: int) -> Tensor:
    import shap

    import lm_plugins.shap as ours

    explainer = shap.Explainer(ours.Model(model, removal="grey", output=output), ours.Masker((12, 12, 3), 6))
    np.random.seed(0)
    values = torch.from_numpy(np.asarray(explainer(IMAGE[None], max_evals=20, silent=True).values))[0, ..., target]
    return values.reshape(2, 6, 2, 6, 3).sum((1, 3, 4))  # of the four patches


def kernel_values(model: nn.Module, output: object, target: int) -> Tensor:
    from lm_plugins.shap import ValueFunction

    function = ValueFunction(model, IMAGE, 6, removal="grey", output=output)
    return torch.from_numpy(function(np.eye(4))[:, target])


def quantus(model: nn.Module, output: object, target: int) -> Tensor:
    masks = PixelMasks(model, X, removal="grey", output=output)
    return masks(torch.from_numpy(masks.x_batch))[:, target].detach()


def evaluator(model: nn.Module, output: object, target: int) -> Tensor:
    return CoalitionEvaluator(as_removal("grey")(model), X, FEATURES, output=output)(torch.eye(4))[:, target]


def audit(model: nn.Module, output: object, target: int) -> Tensor:
    table = run_audit(
        model, X.repeat(2, 1, 1, 1), removals=("grey",), features=("patches",), orders=("most_salient_first",),
        fractions=(0.3,), measures=("missingness",), progress=False, output=output,
    ).table  # fmt: skip
    return torch.tensor(table["value"])


PLACES: dict[str, Callable[[nn.Module, object, int], Tensor]] = {
    **{m.__name__: partial(captum, m) for m in (FeatureAblation, Occlusion, ShapleyValues, KernelShap, Lime)},
    "ShapleyValueSampling": partial(captum, ShapleyValueSampling),
    "LIME": lime,
    "LIME's own explainer": own_lime,
    "SHAP": shap_values,
    "SHAP's value function": kernel_values,
    "Quantus": quantus,
    "coalitions": evaluator,
    "audit": audit,
    "RISE": lambda m, o, t: RISE(m, output=o).attribute(X, target=t, n_masks=4, seed=0),
    "SISE": lambda m, o, t: SISE(m, ["0.0" if isinstance(m[0], nn.Sequential) else "0"], output=o).attribute(
        X, target=t
    ),
    "deletion": lambda m, o, t: deletion(as_removal("grey")(m), X, X, t, steps=4, output=o).scores,
    "insertion": lambda m, o, t: insertion(as_removal("grey")(m), X, X, t, steps=4, output=o).scores,
    "confidence": lambda m, o, t: torch.cat(confidence_in_top(as_removal("grey")(m), X, X, t, output=o)),
}


@pytest.mark.parametrize("case", SAME)
@pytest.mark.parametrize("place", PLACES)
def test_a_word_means_the_same_everywhere(place: str, case: str) -> None:
    model, word, by_hand = SAME[case]
    if by_hand is None and place == "SISE":
        pytest.skip("its reference for two classes is not a sequence of layers; RISE has the same code")
    reference, said = (TwoClasses().eval(), "probabilities") if by_hand is None else (by_hand, "probabilities")
    for target in (0, 1):
        found = PLACES[place](model, word, target)
        assert found.abs().max() > 1e-4
        # The saliency of the audit is a gradient of what the model returns, so that the order of removal may differ.
        if place != "audit" or case == "probabilities":
            torch.testing.assert_close(found, PLACES[place](reference, said, target), atol=1e-5, rtol=1e-4)


def test_integrated_grad_cam_takes_the_words() -> None:
    model = network(3)
    by_hand = IntegratedGradCam(model, "0", output=lambda logits: logits.sigmoid()).attribute(X, target=1)
    torch.testing.assert_close(IntegratedGradCam(model, "0", output="sigmoid").attribute(X, target=1), by_hand)


@pytest.mark.parametrize("place", ["LIME", "LIME's own explainer", "audit"])
@pytest.mark.parametrize(
    ("last", "text"),
    [
        (nn.Softmax(1), "already returns probabilities: pass output='probabilities'"),
        (nn.Sigmoid(), "all 3 outputs of the model are in .0, 1. and do not sum to 1, as those of a sigmoid"),
    ],
)
def test_probabilities_that_nobody_mentioned_are_refused(place: str, last: nn.Module, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        PLACES[place](network(3, last), None, 0)


@pytest.mark.parametrize("place", ["LIME", "LIME's own explainer", "audit"])
def test_a_single_output_is_never_guessed_silently(place: str) -> None:
    with pytest.warns(OutputWarning, match="taken for a single logit, so that there are two classes, 0 and 1"):
        found = PLACES[place](network(1), None, 1)
    torch.testing.assert_close(found, PLACES[place](network(1), "single_logit", 1))
    with pytest.raises(OptionError, match=r"which may be a probability or a logit. Say which: output='probabilities'"):
        PLACES[place](network(1, nn.Sigmoid()), None, 1)


def test_lime_explains_both_labels_of_a_single_logit() -> None:
    no, yes = (lime(network(1), "single_logit", label) for label in (0, 1))
    torch.testing.assert_close(no, -yes, atol=1e-6, rtol=0)
    assert yes.abs().max() > 1e-3


def test_lime_finds_the_weights_of_a_multi_label_model() -> None:
    # Probabilities of two labels that add up over the four features, of a white image.
    weights = torch.tensor([[0.1, 0.0, 0.3, 0.5], [0.4, 0.2, 0.0, 0.1]])

    def probabilities(x: Tensor) -> Tensor:
        return torch.stack([(x[:, 0] * row[FEATURES]).sum((1, 2)) / 36 for row in weights], 1)

    explainer = LimeImageExplainer(
        probabilities, removal="grey", output="probabilities", kernel_width=10, random_state=0
    )
    explanation = explainer.explain_instance(
        np.ones((12, 12, 3)), labels=(0, 1), top_labels=None, num_samples=1000, progress_bar=False,
        segmentation_fn=lambda image: FEATURES,
    )  # fmt: skip
    for label, expected in enumerate(weights):
        found = torch.tensor([weight for _, weight in sorted(explanation.local_exp[label])])
        torch.testing.assert_close(found.float(), expected, atol=0.01, rtol=0)


def test_a_function_takes_a_word_for_what_it_returns() -> None:
    assert parted("single-logit") == (None, "single_logit")
    named = RISE(lambda x: {"logits": network(3)(x)}, output=(lambda found: found["logits"], "logits"))
    plain = RISE(network(3), output="logits")
    settings = {"target": 0, "n_masks": 4, "seed": 0}
    torch.testing.assert_close(named.attribute(X, **settings), plain.attribute(X, **settings))
    rows = rows_of({"logits": torch.zeros(2, 4)}, 2, output=(lambda found: found["logits"], "logits"))
    torch.testing.assert_close(rows, torch.full((2, 4), 0.25))


@pytest.mark.parametrize("wrong", [("logits", len), (len,), (len, None), 3], ids=str)
def test_a_wrong_pair_is_named(wrong: Any) -> None:
    with pytest.raises(InputTypeError, match=r"output is a word, a function .* or the pair \(function, word\), got"):
        parted(wrong)


def test_the_word_of_a_pair_is_checked() -> None:
    with pytest.raises(OptionError, match="got 'odds'"):
        parted((lambda found: found, "odds"))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: as_probabilities(torch.ones(2, 1), "logits"), ShapeError, "pass output='single_logit'"),
        (
            lambda: as_probabilities(torch.ones(2, 3), "single_logit"),
            ShapeError,
            "for several classes pass output='logits'",
        ),
        (
            lambda: as_probabilities(torch.full((2, 3), 2.0), "probabilities"),
            ProbabilityError,
            "from 2 to 2.*output='logits'",
        ),
        (lambda: audit(network(1), "regression", 0), ShapeError, "compares classes.*output='single_logit'"),
        (
            lambda: captum(FeatureAblation, network(1), None, 1),
            OptionError,
            "choose 0 to 0. For two classes.*'single_logit'",
        ),
        *(
            (partial(place, network(3), "odds", 0), OptionError, "is one of 'logits', 'probabilities', 'sigmoid'")
            for place in PLACES.values()
        ),
    ],
)
def test_mistakes_are_named(call: Callable[[], object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


def test_what_was_said_to_be_logits_is_looked_at() -> None:
    with pytest.warns(OutputWarning, match="said to be logits looks like probabilities: pass output='probabilities'"):
        RISE(network(3, nn.Softmax(1)), output="logits").attribute(X, target=0, n_masks=4)


def test_a_softmax_over_one_output_is_no_explanation_without_a_word() -> None:
    with pytest.warns(OutputWarning, match="softmax of a single logit"):
        evaluator(network(1), lambda logits: logits.softmax(1), 0)


def test_one_value_outside_of_the_range_proves_that_they_are_logits() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert guessed(torch.tensor([[0.2, 0.8], [0.5, 1.5]])) == "logits"


def test_a_model_without_outputs_is_named() -> None:
    with pytest.raises(ShapeError, match=r"this one returns \(2, 0\), no class"):
        guessed(torch.zeros(2, 0))


@pytest.mark.parametrize("place", [one for one in PLACES if one != "SISE"])
def test_a_field_is_chosen_by_its_name(place: str) -> None:
    """Of a dictionary here; with the word for what it holds, as for the tensor itself."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network(3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"aux": x.mean((1, 2, 3)), "logits": self.inner(x)}

    found = PLACES[place](Named().eval(), ("field:logits", "logits"), 1)
    torch.testing.assert_close(found, PLACES[place](network(3), "logits", 1))


def test_a_field_that_is_not_there_is_named() -> None:
    with pytest.raises(InputTypeError, match="without a field 'logit'; it has 'logits'"):
        rows_of({"logits": torch.ones(1, 2)}, 1, "field:logit")
    assert parted("field:logits")[1] is None
    with pytest.raises(InputTypeError, match="a field is a name"):
        parted("field:")
