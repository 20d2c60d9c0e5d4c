"""A whole model put to the test: `check_model`."""

import torch
from torch import Tensor, nn

from lm_plugins.checks import as_visible, check_evaluation_mode, check_images
from lm_plugins.errors import OptionError, UnsupportedOperatorError
from lm_plugins.masking import Calibration, MaskingOptions, coverage
from lm_plugins.testing.case import tensors
from lm_plugins.testing.conformance import Kept, ModelConformance
from lm_plugins.testing.continuity import continuity as continuity_laws
from lm_plugins.testing.model_laws import COMPARISONS
from lm_plugins.testing.rounding import Judge
from lm_plugins.testing.subject import Subject

__all__ = ["check_model"]

GRADIENTS = "gradients of hidden pixels are zero, those of visible ones exist"


def check_model(
    model: nn.Module,
    x: Tensor,
    visible: Tensor | None = None,
    *,
    options: MaskingOptions | None = None,
    tolerance: float | None = None,
    gradients: bool = True,
    continuity: float | None = 0.5,
    calibration: Calibration | None = None,
) -> ModelConformance:
    """Check that a model keeps the laws of layer masking.

    - Every function that it calls has a rule.
    - All visible is the plain model.
    - Hidden pixels may hold anything: 1e30, infinities, NaN.
    - An image of a batch gives what it gives alone.
    - Nothing visible gives finite numbers that do not depend on the image.
    - Garbage that is written to all hidden positions after every operation never surfaces.
    - Hiding one more pixel changes little, and what shows something is not the empty image.
    - Gradients of hidden pixels are zero, those of visible ones are finite and exist.

    A law holds bit for bit or up to rounding, and the result says which. Rounding is measured: what does not hold bit for
    bit is repeated on a copy of the model in float64 (one in float64 is measured against a copy in float32). The
    difference has to shrink with the precision, to less than 100 times what the expected output itself is rounded by.
    The model is not touched; the copy takes its memory twice, for as long as this runs.

    Args:
        model: A model of images in evaluation mode.
        x: Images ``(N, C, H, W)`` that it takes; a single one is used twice.
        visible: Masks, as for `lm_plugins.LayerMasked`; by default a different one for every image.
        options: The semantics; by default those of `lm_plugins.MaskingOptions`.
        tolerance: Accepts differences up to this share of the largest number of the output without a copy: quicker, and
            for models that cannot be copied or run in float64. None accepts none.
        gradients: Whether to check gradients, which takes the memory of a training step.
        continuity: How far hiding one pixel may move the output, as a share of how far hiding all of them does; from 0,
            up to 1. None leaves continuity unchecked.
        calibration: Of the model; its options count then.

    Returns:
        The laws, and how each is kept.

    Raises:
        ConformanceError: A law is broken. The message says which, where, by how much, and what to do. Or it does not hold
            bit for bit, and no copy can tell why.
        UnsupportedOperatorError: The model calls functions that have no rule; all are listed.
        ShapeError: `x` is no batch of images.
        OptionError: `tolerance` or `continuity` is out of its range.

    Example:
        >>> import torch
        >>> from lm_plugins.testing import check_model
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
        >>> found = check_model(model.eval(), torch.randn(2, 3, 32, 32))
        >>> found.is_bit_for_bit
        True
    """
    options = (MaskingOptions() if options is None else options) if calibration is None else calibration.options
    check_images(x, "check_model")
    check_evaluation_mode(model, "check_model")
    for name, share in (("tolerance", tolerance), ("continuity", continuity)):
        if share is not None and not 0 <= share <= 1:
            raise OptionError(f"{name} of check_model is a share from 0 to 1, or None; got {share!r}.")
    if len(x) == 1:
        x = torch.cat([x, x])
        visible = visible if visible is None or visible.ndim < 3 else visible.expand(2, *visible.shape[1:])
    region = _masks(x) if visible is None else as_visible(visible, x)
    judge = Judge(Subject(model, x, region, options, calibration), tolerance)
    kept: dict[str, Kept] = {}
    with torch.no_grad():
        found = coverage(model, x[:1], options)
        if not found:
            raise UnsupportedOperatorError(f"{type(model).__name__} calls functions without a rule. {found.advice()}")
        for law in COMPARISONS:
            kept[law.name] = judge.judge(law)
        if continuity is not None:
            kept.update(continuity_laws(judge, continuity))
    if gradients:
        problem = _gradients(judge.subject)
        if problem is not None:
            raise judge.broken(GRADIENTS, problem)
        kept[GRADIENTS] = Kept("exactly")
    return ModelConformance(type(model).__name__, kept)


def _masks(x: Tensor) -> Tensor:
    """Half of the patches of an eighth of the image; the middle; all but the middle; in turn."""
    n, _, h, w = x.shape
    patch = max(1, h // 8), max(1, w // 8)
    rows, columns = torch.arange(h) // patch[0], torch.arange(w) // patch[1]
    chosen = torch.rand(int(rows[-1]) + 1, int(columns[-1]) + 1, generator=torch.Generator().manual_seed(0)) < 0.5
    middle = torch.zeros(h, w, dtype=torch.bool)
    middle[h // 4 : h - h // 4, w // 4 : w - w // 4] = True
    masks = [chosen[rows][:, columns], middle, ~middle]
    return torch.stack([masks[i % 3] for i in range(n)]).to(x.device)


def _gradients(subject: Subject) -> str | None:
    """What is wrong with the gradients, or None. A zero is a zero in every dtype, so that nothing is repeated."""
    x = subject.x.detach().clone().requires_grad_()
    with torch.enable_grad():
        outputs = [one for one in tensors(subject.run(x, subject.visible)) if one.requires_grad]
        total = sum((one.square().sum() for one in outputs), torch.zeros((), device=x.device))
    if not outputs:
        return "No output has a gradient: a rule may detach its input."
    gradient = torch.autograd.grad(total, x, allow_unused=True, materialize_grads=True)[0]
    hidden = ~subject.visible[:, None].expand_as(gradient)
    for wrong, text in ((hidden & (gradient != 0), "a hidden pixel"), (~gradient.isfinite(), "a pixel")):
        if bool(wrong.any()):
            where = tuple(int(one) for one in wrong.nonzero()[0])
            return (
                f"The gradient of {text}, at {where}, is {gradient[where].item():g}: use torch.where in rules, rather than "
                "multiplication by the mask."
            )
    lost = subject.visible.flatten(1).any(1) & (gradient == 0).flatten(1).all(1)
    if bool(lost.any()):
        return f"Image {int(lost.nonzero()[0])} has no gradient at all: a rule may detach its input."
    return None
