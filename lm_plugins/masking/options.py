"""Every choice of semantics that layer masking leaves open, in one place."""

from dataclasses import dataclass, fields
from typing import Literal, get_args, get_type_hints

from lm_plugins.errors import OptionError

__all__ = ["MaskingOptions"]


@dataclass(frozen=True)
class MaskingOptions:
    """How a mask travels through a network. Frozen, so that it can be shared and used as a key.

    Two regions travel with every activation. The *visible* region is the image's own region at that resolution: merges
    and pooling count it. The *computed* region holds every position in whose window something visible lay: inside a
    block, it is good to compute with.

    Args:
        visible: How the visible region passes a window. ``"any"``: a position is visible if anything in its window is
            (published; the region grows by half a kernel each time). ``"coverage"``: if the region covers at least the
            share `coverage` of the part of the map that the position stands for; the region keeps its shape, as in
            sparse convolution.
        coverage: The share that suffices, above 0, up to 1.
        sampling: What counts where a layer looks at samples of its map and skips the positions between them: a 1x1
            convolution or a pool of stride 2, a slice in steps, an interpolation to a smaller size. ``"part"``: the whole
            part of the map around the sample, as wide as the stride; a sample that is hidden in a visible part is padded
            from its neighbours. An image of which something is visible then never loses its last position, in merges
            neither: where nothing is left, they take the union. ``"point"``: the sample alone (published); what is visible
            can get lost between samples, and an image then counts as one of which nothing is visible.
        stem: The same for the first convolution, which reads pixels: ``"any"`` (published), or ``"coverage"``.
        patches: The same where the first convolution cuts the image into patches that do not overlap (ViT, Swin,
            ConvNeXt): the patch is visible, as a token, if ``"any"`` of its pixels is, if at least the share `coverage`
            is, or if ``"all"`` are. Hidden pixels of a visible patch are padded from their neighbours.
        tokens: How a transformer leaves out hidden tokens; the results agree up to rounding. ``"drop"``: they are not
            computed at all, where the layout allows, so that it is faster the more is hidden. ``"mask"``: they are
            computed, and are no keys of any attention.
        computed: What a convolution takes as known. ``"visible"``: only visible positions (published). ``"next"``: also
            those that the convolution before it computed; what it computes of them goes no further. ``"any"``: also
            those that any earlier convolution computed. Merges and pooling always fall back to the visible region, so
            that the last two differ where more than two convolutions wider than 1x1 follow each other without any.
        addition: Which positions are visible after two activations were added: ``"intersection"`` (published) or
            ``"union"``.
        concatenation: The same for ``torch.cat``: ``"union"`` (published for SqueezeNet), ``"intersection"`` or
            ``"majority"``, more than half of the operands (published for DenseNet).
        missing: What an operand of a merge contributes where it has no value but the result is visible:
            ``"neighbours"`` (neighbour padding) or ``"zero"`` (published for DenseNet).
        diagonal: Weight of a diagonal neighbour in neighbour padding, relative to a direct neighbour; above 0, since a
            position may touch the region at a corner only, up to 1. The published padding weights all eight alike: 1.
        padding_epsilon: Added to the sum of weights in neighbour padding. The published code adds 1e-5, which a deep
            network amplifies to 1e-3 of the logits.
        padding_gradient: ``"exact"``: gradients pass through padded positions to those that they are padded from, so
            that they are the derivative of the output. ``"detached"``: they do not (published); the forward pass is
            the same.
        padding: What a convolution finds at hidden positions. ``"neighbours"``: neighbour padding (published).
            ``"zero"``: zeros; the ablation "masking only" of the paper. ``"partial"``: zeros too, and the sum over the
            window, without the bias, is multiplied by the number of its positions over that of the known ones: partial
            convolution (Liu et al. 2018). Positions beyond the border of the map count as neither. What else looks
            through a window, such as bilinear resizing, finds zeros under both. Merges follow `missing`.
        padded_layers: How many convolutions, counted from the image, `padding` is for; later ones find zeros. Counts
            those wider than 1x1 on the way to the layer, the longest way where ways join. None: all of them.
        average: Average pooling over space divides by ``"visible"`` positions, or by ``"all"`` positions with zeros
            at the hidden ones (published for the transitions of DenseNet).
        global_average: The same for means over the whole map and adaptive pooling.
        flatten: What hidden positions hold where a map is flattened into features: ``"zero"`` (published) or
            ``"neighbours"``.
        pointwise_ring: Whether a 1x1 convolution also computes one ring of filled positions around the region. The
            published code of SqueezeNet does; the values surface where its branches are concatenated.

    Raises:
        OptionError: A value is not among the ones above.

    Example:
        >>> import lm_plugins as lm
        >>> lm.MaskingOptions(addition="union").addition
        'union'
        >>> lm.MaskingOptions(visible="any", diagonal=0.5).diagonal
        0.5

    References:
        Liu et al., "Image Inpainting for Irregular Holes Using Partial Convolutions", ECCV 2018.
        Balasubramanian and Feizi, "Towards Improved Input Masking for Convolutional Neural Networks", ICCV 2023,
        for every value called *published*. The defaults of `visible`, `coverage`, `sampling`, `stem`, `computed` and
        `diagonal` are the ones that kept most accuracy under removal in our study (docs/retention.md); the others are the
        published ones, or where the published code holds several, the one that treats all architectures alike.
    """

    visible: Literal["any", "coverage"] = "coverage"
    coverage: float = 0.3
    sampling: Literal["part", "point"] = "part"
    stem: Literal["any", "coverage"] = "any"
    patches: Literal["any", "coverage", "all"] = "coverage"
    tokens: Literal["drop", "mask"] = "drop"
    computed: Literal["visible", "next", "any"] = "next"
    addition: Literal["intersection", "union"] = "intersection"
    concatenation: Literal["union", "intersection", "majority"] = "union"
    missing: Literal["neighbours", "zero"] = "neighbours"
    diagonal: float = 0.5
    padding_epsilon: float = 0.0
    padding_gradient: Literal["exact", "detached"] = "exact"
    padding: Literal["neighbours", "zero", "partial"] = "neighbours"
    padded_layers: int | None = None
    average: Literal["visible", "all"] = "visible"
    global_average: Literal["visible", "all"] = "visible"
    flatten: Literal["zero", "neighbours"] = "zero"
    pointwise_ring: bool = False

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            if hints[field.name] is float:
                lowest = "from" if field.name == "padding_epsilon" else "above"
                is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
                if not is_number or not 0 <= value <= 1 or (value == 0 and lowest == "above"):
                    raise OptionError(f"MaskingOptions.{field.name} is a number {lowest} 0, up to 1; got {value!r}.")
            elif field.name == "padded_layers":
                if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                    raise OptionError(f"MaskingOptions.padded_layers is None or a whole number from 0; got {value!r}.")
            elif hints[field.name] is bool:
                if not isinstance(value, bool):
                    raise OptionError(f"MaskingOptions.{field.name} is True or False, got {value!r}.")
            elif value not in get_args(hints[field.name]):
                known = ", ".join(repr(one) for one in get_args(hints[field.name]))
                raise OptionError(f"MaskingOptions.{field.name} is one of {known}; got {value!r}.")
