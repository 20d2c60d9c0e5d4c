"""The laws of token dropping, on a small member of every family of vision transformers."""

import warnings
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2
from torchvision.models.vision_transformer import VisionTransformer

import lm_plugins as lm
from lm_plugins.masking import MaskingOptions, observing, run_masked
from tests.garbage import overwrite_hidden
from tests.references import dropping, filling

timm = pytest.importorskip("timm")

from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg  # noqa: E402

MASK, DROP = MaskingOptions(tokens="mask"), MaskingOptions(tokens="drop")


def of_timm(name, **options):
    return partial(timm.create_model, name, num_classes=5, **options)


def mvit(config):
    return MultiScaleVit(config, img_size=64, num_classes=5)


def vit(name, **options):
    return of_timm(name, **{"img_size": 64, "depth": 2, "embed_dim": 32, "num_heads": 2, **options})


# Builder and size of its images.
MODELS = {
    "torchvision vit": (partial(VisionTransformer, 64, 16, 2, 2, 32, 64, num_classes=5), 64),
    "torchvision swin": (partial(SwinTransformer, [4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=5), 64),
    "torchvision swin, padded": (partial(SwinTransformer, [4, 4], 16, [1, 2, 1], [2, 4, 4], [7, 7], num_classes=5), 64),
    "torchvision swin v2": (
        partial(
            SwinTransformer,
            *([4, 4], 16, [2, 2], [2, 4], [4, 4]),
            num_classes=5,
            block=SwinTransformerBlockV2,
            downsample_layer=PatchMergingV2,
        ),
        64,
    ),
    "torchvision maxvit": (partial(MaxVit, (64, 64), 16, 4, [16, 32], [1, 1], 8, 0.0, num_classes=5), 64),
    "vit": (vit("vit_tiny_patch16_224"), 64),
    "vit, average": (vit("vit_tiny_patch16_224", global_pool="avg", class_token=False), 64),
    "vit, maximum": (vit("vit_tiny_patch16_224", global_pool="max"), 64),
    "vit, attention pool": (vit("vit_base_patch16_siglip_224"), 64),
    "vit, registers": (vit("vit_small_patch14_reg4_dinov2", img_size=56), 56),
    "vit, relative positions": (vit("vit_relpos_small_patch16_224"), 64),
    "deit, distilled": (vit("deit_tiny_distilled_patch16_224"), 64),
    "deit 3": (vit("deit3_small_patch16_224"), 64),
    "beit": (vit("beit_base_patch16_224"), 64),
    "eva 02": (vit("eva02_tiny_patch14_224", img_size=56), 56),
    "dino v3": (vit("vit_small_patch16_dinov3"), 64),
    "sam": (vit("samvit_base_patch16_224", window_size=3, global_attn_indexes=(1,)), 64),
    "cait": (vit("cait_xxs24_224"), 64),
    "xcit": (vit("xcit_nano_12_p16_224"), 64),
    "convit": (vit("convit_tiny", local_up_to_layer=1), 64),
    "vit after a ResNet": (of_timm("vit_tiny_r_s16_p8_224", img_size=64, depth=2), 64),
    "naflexvit": (of_timm("naflexvit_base_patch16_gap", depth=2, embed_dim=32, num_heads=2), 64),
    "swin": (
        of_timm(
            "swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4)
        ),
        64,
    ),
    "swin v2": (
        of_timm("swinv2_tiny_window8_256", img_size=64, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4)),
        64,
    ),
    "maxvit": (of_timm("maxvit_rmlp_pico_rw_256", img_size=64), 64),
    "coatnet": (of_timm("coatnet_pico_rw_224", img_size=64), 64),
    "mvit v2": (partial(mvit, MultiScaleVitCfg(depths=(1, 1, 1), embed_dim=16, num_heads=1)), 64),
    "pvt v2": (of_timm("pvt_v2_b0"), 64),
    "twins": (of_timm("twins_svt_small", img_size=64), 64),
    "nest": (of_timm("nest_tiny_jx", img_size=64), 64),
    "next vit": (of_timm("nextvit_small"), 128),
    "davit": (of_timm("davit_tiny", embed_dims=(16, 32), depths=(1, 1), num_heads=(2, 2)), 64),
    "levit": (of_timm("levit_128s", img_size=64), 64),
    "pit": (of_timm("pit_ti_224", img_size=64), 64),
    "mobilevit": (of_timm("mobilevit_xxs"), 64),
    "mobilevit v2": (of_timm("mobilevitv2_050"), 64),
    "edgenext": (of_timm("edgenext_xx_small"), 64),
    "efficientformer": (of_timm("efficientformer_l1"), 224),
    "efficientvit of MIT": (of_timm("efficientvit_b0"), 64),
    "efficientvit of Microsoft": (of_timm("efficientvit_m0"), 224),
    "tiny vit": (of_timm("tiny_vit_5m_224"), 64),
    "fastvit": (of_timm("fastvit_t8"), 64),
    "caformer": (of_timm("caformer_s18"), 64),
    "poolformer": (of_timm("poolformer_s12"), 64),
    "resnet of CLIP": (of_timm("resnet50_clip.openai", img_size=64), 64),
    "botnet": (of_timm("botnet26t_256", img_size=128), 128),
}
SLOW = (
    *(
        "botnet",
        "caformer",
        "coatnet",
        "efficientformer",
        "efficientvit of Microsoft",
        "fastvit",
        "levit",
        "maxvit",
        "nest",
        "next vit",
    ),
    *("poolformer", "pvt v2", "resnet of CLIP", "tiny vit", "twins"),
)


@dataclass
class Subject:
    """A model in double precision, four images, a mask for each, and the masked outputs."""

    model: nn.Module
    x: torch.Tensor
    visible: torch.Tensor
    output: torch.Tensor
    name: str


def lively(model):
    """Replace what models start as zeros or ones, and tiny weights, so that every part counts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_scale = parameter.ndim == 1 and "weight" in name
            parameter.copy_(1 + 0.2 * noise if is_scale else 0.2 * noise if parameter.ndim < 2 else parameter)
            if parameter.ndim >= 2 and parameter.std() < 0.05:
                parameter.copy_(noise * (0.5 / parameter[0].numel() ** 0.5 if parameter.shape[0] > 1 else 0.5))
    return model.double().eval()


def conditioned(model, x):
    """Give batch norms the statistics of `x`, or random ones would drown everything."""
    norms = [one for one in model.modules() if isinstance(one, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.inference_mode():
        model(x)
    return model.eval()


def four_masks(size):
    """Half of the 8x8 patches; a disc; all but one patch; nothing."""
    patches = (torch.rand(size // 8, size // 8) > 0.5).repeat_interleave(8, 0).repeat_interleave(8, 1)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disc = (rows - size * 0.4) ** 2 + (columns - size * 0.6) ** 2 < (size / 3) ** 2
    all_but_one = torch.ones(size, size, dtype=torch.bool)
    all_but_one[size // 2 : size // 2 + 16, 16:32] = False
    return torch.stack([patches, disc, all_but_one, torch.zeros_like(disc)])


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in MODELS],
)
def subject(request):
    torch.manual_seed(0)
    build, size = MODELS[request.param]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = lively(build())
    x, visible = torch.randn(4, 3, size, size).double(), four_masks(size)
    conditioned(model, x)
    with torch.inference_mode():
        return Subject(model, x, visible, lm.LayerMasked(model, MASK)(x, visible), request.param)


#: They compute attention in float32, whatever they are given: what is equal up to rounding is so up to rounding of float32.
IN_SINGLE = ("efficientvit of MIT",)


def assert_close(got, expected, subject=None):
    scale = expected.abs().amax()
    tolerance = 1e-6 if subject is not None and subject.name in IN_SINGLE else 1e-8
    assert (got - expected).abs().max() <= tolerance * scale, float((got - expected).abs().max() / scale)


@torch.inference_mode()
def test_all_visible_is_the_plain_model(subject):
    plain = subject.model(subject.x)
    assert torch.equal(lm.LayerMasked(subject.model)(subject.x, torch.ones_like(subject.visible)), plain)
    for options in (MASK, DROP):  # the engine without the shortcut
        assert_close(run_masked(subject.model, subject.x, torch.ones_like(subject.visible), options), plain, subject)
    change = (subject.output - plain).abs().amax(1)
    assert (change > 1e-4 * plain.abs().amax(1)).all()


@torch.inference_mode()
def test_dropped_tokens_equal_masked_ones(subject):
    assert_close(lm.LayerMasked(subject.model, DROP)(subject.x, subject.visible), subject.output, subject)


@torch.inference_mode()
def test_hidden_pixels_may_hold_anything(subject):
    for value in (1e30, torch.nan):
        x = torch.where(subject.visible[:, None], subject.x, value)
        assert torch.equal(lm.LayerMasked(subject.model, MASK)(x, subject.visible), subject.output)
        assert_close(lm.LayerMasked(subject.model, DROP)(x, subject.visible), subject.output, subject)


@torch.inference_mode()
def test_garbage_at_hidden_tokens_never_surfaces(subject):
    for options in (MASK, DROP):
        for value in (None, torch.nan):
            with observing(overwrite_hidden(value)):
                got = run_masked(subject.model, subject.x, subject.visible, options)
            assert_close(got, subject.output, subject)


@torch.inference_mode()
def test_a_batch_is_its_images_one_by_one(subject):
    masked = lm.LayerMasked(subject.model)
    single = [masked(x[None], visible) for x, visible in zip(subject.x, subject.visible, strict=True)]
    assert_close(torch.cat(single), subject.output, subject)


@torch.inference_mode()
def test_nothing_visible_is_finite_and_independent_of_the_image(subject):
    nothing = torch.zeros(subject.x.shape[2:], dtype=torch.bool)
    for options in (MASK, DROP):
        outputs = lm.LayerMasked(subject.model, options)(torch.stack([subject.x[0], subject.x[1] * 1e6]), nothing)
        assert outputs.isfinite().all()
        assert torch.equal(outputs[0], outputs[1])


def test_coverage_is_complete(subject):
    found = lm.coverage(subject.model, subject.x[:1])
    assert found, str(found)


def test_gradients_of_hidden_pixels_are_zero_and_others_finite(subject):
    x = subject.x[:2].clone().requires_grad_()
    output = lm.LayerMasked(subject.model)(x, subject.visible[:2])
    (gradient,) = torch.autograd.grad(output.square().sum(), x)
    assert gradient.isfinite().all()
    hidden = ~subject.visible[:2, None].expand_as(gradient)
    assert bool((gradient[hidden] == 0).all())
    assert bool((gradient != 0).any())


# ---- against sequences that are really shorter -------------------------------------------------------------------------


def tokens_and_pixels(n=3, side=4, patch=16):
    tokens = torch.rand(n, side, side) > 0.5
    return tokens.flatten(1), tokens.repeat_interleave(patch, 1).repeat_interleave(patch, 2)


@pytest.mark.parametrize("options", [MASK, DROP], ids=["mask", "drop"])
@pytest.mark.parametrize("name", ["vit", "vit, average", "vit, maximum", "vit, attention pool", "vit, registers"])
@torch.inference_mode()
def test_hidden_tokens_are_as_good_as_absent(name, options):
    build, size = MODELS[name]
    model = lively(build())
    patch = model.patch_embed.patch_size[0]
    tokens, pixels = tokens_and_pixels(patch=patch)
    x = torch.randn(3, 3, size, size).double()
    assert_close(lm.LayerMasked(model, options)(x, pixels), dropping.timm_vit(model, x, tokens))


@pytest.mark.parametrize("options", [MASK, DROP], ids=["mask", "drop"])
@torch.inference_mode()
def test_hidden_tokens_of_torchvision_are_as_good_as_absent(options):
    model = lively(MODELS["torchvision vit"][0]())
    tokens, pixels = tokens_and_pixels()
    x = torch.randn(3, 3, 64, 64).double()
    assert_close(lm.LayerMasked(model, options)(x, pixels), dropping.torchvision_vit(model, x, tokens))


@pytest.mark.parametrize(("patches", "least"), [("any", 1), ("coverage", 0.3 * 256), ("all", 256)])
@torch.inference_mode()
def test_which_patches_are_tokens_and_what_hidden_pixels_in_them_hold(patches, least):
    model = lively(MODELS["vit"][0]())
    x, visible = torch.randn(2, 3, 64, 64).double(), four_masks(64)[1:3]
    visible[1, 5, 5:9] = False
    count = visible.reshape(2, 4, 16, 4, 16).sum((2, 4)).flatten(1)
    filled, _ = filling.fill(x, visible, None, MaskingOptions().diagonal, count=16)
    expected = dropping.timm_vit(model, filled, count >= least)
    got = lm.LayerMasked(model, MaskingOptions(patches=patches))(x, visible)
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()
    assert len({bool(one) for one in (count >= least).flatten()}) == 2


@torch.inference_mode()
def test_nothing_visible_leaves_the_class_token_alone():
    model = lively(MODELS["vit"][0]())
    x = torch.randn(2, 3, 64, 64).double()
    nothing = torch.zeros(64, 64, dtype=torch.bool)
    expected = dropping.timm_vit(model, x, torch.zeros(2, 16, dtype=torch.bool))
    assert_close(lm.LayerMasked(model)(x, nothing), expected)
    pooled = lively(MODELS["vit, average"][0]())
    features = lm.LayerMasked(nn.Sequential(pooled, nn.Identity()).eval())(x, nothing)
    assert_close(features, pooled.head(pooled.fc_norm(torch.zeros(2, 32).double())))


@torch.inference_mode()
def test_unfused_attention():
    model = lively(MODELS["vit"][0]())
    x, visible = torch.randn(4, 3, 64, 64).double(), four_masks(64)
    expected = lm.LayerMasked(model)(x, visible)
    for block in model.blocks:
        block.attn.fused_attn = False
    for options in (MASK, DROP):
        assert_close(lm.LayerMasked(model, options)(x, visible), expected)


@torch.inference_mode()
def test_features_of_hidden_tokens_come_back_as_zeros():
    model = lively(MODELS["vit"][0]())
    tokens, pixels = tokens_and_pixels()
    x = torch.randn(3, 3, 64, 64).double()

    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model.forward_features(x)

    for options in (MASK, DROP):
        features = lm.LayerMasked(Features().eval(), options)(x, pixels)
        assert features.shape == (3, 17, 32)
        assert torch.equal(features[:, 1:].abs().sum(-1) > 0, tokens)


def test_the_error_of_the_model_itself_surfaces():
    model = MODELS["vit"][0]().eval()
    visible = torch.zeros(60, 64, dtype=torch.bool)
    with pytest.raises(AssertionError, match=r"Input height \(60\) doesn't match model \(64\)"):
        lm.LayerMasked(model)(torch.randn(1, 3, 60, 64), visible)


def test_a_mixer_has_no_masked_meaning():
    model = of_timm("mixer_s32_224", img_size=64)().eval()
    with pytest.raises(lm.errors.UnsupportedOperatorError, match=r"(?s)linear, called in 'blocks.0.mlp_tokens.fc1"):
        lm.LayerMasked(model)(torch.randn(1, 3, 64, 64), torch.zeros(64, 64, dtype=torch.bool))
