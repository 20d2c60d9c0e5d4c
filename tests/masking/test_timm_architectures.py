"""The laws of layer masking, on the convolutional families of timm: small members of each, with random weights."""

from dataclasses import dataclass

import pytest
import torch

import lm_plugins as lm
from lm_plugins.masking import observing, run_masked
from tests.garbage import overwrite_hidden

timm = pytest.importorskip("timm")

# Module of timm: its smallest members, one for each way in which its models differ. `benchmarks/coverage.py` runs more.
MEMBERS = {
    "byobnet": "test_byobnet eca_resnext26ts mobileone_s1 repvgg_a0 regnetz_b16_evos",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext convnext_zepto_rms convnextv2_atto",
    "cspnet": "cs3darknet_focus_s cspresnet50 darknet17",
    "cspnext": "cspnext_tiny",
    "densenet": "densenetblur121d",
    "dla": "dla46x_c dla60_res2net",
    "dpn": "dpn48b",
    "efficientnet": "test_efficientnet test_efficientnet_evos test_efficientnet_gn test_efficientnet_ln efficientnet_blur_b0 "
    "efficientnet_lite0 fbnetc_100 mixnet_s mnasnet_small mobilenetv2_035 tf_efficientnet_b0 tf_efficientnet_cc_b0_4e "
    "tf_efficientnetv2_b0 tf_mixnet_s tinynet_e",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "ghostnet": "ghostnet_050 ghostnetv2_100 ghostnetv3_050",
    "hardcorenas": "hardcorenas_a",
    "hgnet": "hgnet_tiny hgnetv2_b0",
    "hrnet": "hrnet_w18_small",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "mambaout": "test_mambaout",
    "metaformer": "convformer_s18 poolformer_s12 poolformerv2_s12",
    "mobilenetv3": "fbnetv3_b lcnet_035 mobilenetv3_small_050 mobilenetv4_conv_small_035 mobilenetv4_conv_blur_medium "
    "tf_mobilenetv3_small_minimal_100",
    "nasnet": "nasnetalarge",
    "nfnet": "test_nfnet eca_nfnet_l0 nf_regnet_b0",
    "pnasnet": "pnasnet5large",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetv_040 regnetx_002 regnety_002 regnetz_005",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2net50_14w_8s",
    "resnest": "resnest14d",
    "resnet": "test_resnet ecaresnet26t resnetaa34d resnetblur18 resnet50_gn seresnet18",
    "resnetv2": "resnetv2_18 resnetv2_50d_evos resnetv2_50d_frn resnetv2_50x1_bit",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "tresnet": "tresnet_m",
    "vgg": "vgg11",
    "vovnet": "ese_vovnet19b_slim_dw eca_vovnet39b",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
}

# Modules whose models all look through attention, dense layers or recurrence over positions.
NOT_CONVOLUTIONAL = set(
    "beit byoanet cait coat convit cpubone crossvit csatv2 davit deepseek_vit deit edgenext efficientformer "
    "efficientformer_v2 efficientvim efficientvit_mit efficientvit_msra eva gcvit gemma4_vit hiera hieradet_sam2 iformer "
    "levit lowformer maxxvit mlp_mixer mobilenetv5 mobilevit mvitv2 naflexvit nest nextvit pit pvt_v2 qwen3_vit sequencer "
    "shvit swiftformer swin_transformer swin_transformer_v2 swin_transformer_v2_cr tiny_vit tnt twins visformer "
    "vision_transformer vision_transformer_hybrid vision_transformer_relpos vision_transformer_sam vitamin volo "
    "xcit".split()
)

SLOW = set(
    "convformer_s18 eca_vovnet39b focalnet_tiny_srf inception_resnet_v2 inception_v3 inception_v4 legacy_xception "
    "mobilenetv4_conv_blur_medium nasnetalarge pnasnet5large rdnet_tiny resnetv2_50d_evos resnetv2_50d_frn "
    "resnetv2_50x1_bit selecsls42 tresnet_m xception41p".split()
)

# Fewer and narrower blocks, which call the same functions.
BUILDERS = {
    "convmixer_768_32": lambda: timm.models.convmixer.ConvMixer(dim=64, depth=4, patch_size=7),
    "vgg11": lambda: timm.create_model("vgg11", mlp_ratio=0.02),
}

WIDTH = 96


@dataclass
class Subject:
    """A model, images and a mask for each; float64, so that rounding that depth amplifies stays far below 1e-5."""

    model: torch.nn.Module
    x: torch.Tensor  # (2, 3, H, W)
    visible: torch.Tensor  # bool (2, H, W)
    output: torch.Tensor  # (2, 1000)
    plain: torch.Tensor  # the model's own output, in float32
    everything: torch.Tensor  # all visible, through the engine, in float32


def height_of(name):
    """The height of its images; Inceptions need more than 64 pixels."""
    return 96 if name in ("inception_v3", "inception_v4", "inception_resnet_v2") else 64


def build(name, x):
    """A model whose scales and statistics are all without symmetry, as after training."""
    model = BUILDERS.get(name, lambda: timm.create_model(name))().eval()
    norms = [one for one in model.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() == max(parameter.shape, default=1):  # among them zeros, and layer scales of 1e-6
                parameter.add_(0.1 * torch.randn_like(parameter))
        for norm in norms:
            norm.momentum = 0.9
            norm.train()
        model(x)
    for norm in norms:
        norm.eval()
    return model


def images(height):
    """Two images; half of the 16x16 patches of the first are visible, and a disc of the second."""
    patches = torch.rand(height // 16, WIDTH // 16) > 0.5
    patches = patches.repeat_interleave(16, 0).repeat_interleave(16, 1)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(WIDTH), indexing="ij")
    disc = (rows - 25) ** 2 + (columns - 55) ** 2 < 20**2
    return torch.randn(2, 3, height, WIDTH), torch.stack([patches, disc])


def assert_close(got, expected):
    """Image by image, to 1e-5 of the largest logit of that image."""
    error, scale = (got - expected).abs().amax(1), expected.abs().amax(1)
    assert (error <= 1e-5 * scale).all(), f"relative errors {(error / scale).tolist()}"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, id=f"{module}-{name}", marks=[pytest.mark.slow] if name in SLOW else [])
        for module, names in MEMBERS.items()
        for name in names.split()
    ],
)
def subject(request):
    torch.manual_seed(0)
    x, visible = images(height_of(request.param))
    model = build(request.param, x)
    with torch.inference_mode():
        plain = model(x)
        everything = run_masked(model, x, torch.ones_like(visible), lm.MaskingOptions())
        output = lm.LayerMasked(model.double())(x.double(), visible)
    return Subject(model, x.double(), visible, output, plain, everything)


def test_all_visible_is_the_plain_model_bit_for_bit(subject):
    assert torch.equal(subject.everything, subject.plain)
    # Of the other laws, none is empty: each mask changes the output by far more than their tolerance.
    change = (subject.output - subject.plain).abs().amax(1)
    assert (change > 1e-3 * subject.plain.abs().amax(1)).all()


@torch.inference_mode()
def test_hidden_pixels_may_hold_anything(subject):
    x = torch.where(subject.visible[:, None], subject.x, torch.tensor([1e30, torch.nan])[:, None, None, None])
    assert torch.equal(lm.LayerMasked(subject.model)(x, subject.visible), subject.output)


@torch.inference_mode()
def test_garbage_at_hidden_positions_never_surfaces(subject):
    with observing(overwrite_hidden()):
        got = run_masked(subject.model, subject.x, subject.visible, lm.MaskingOptions())
    assert_close(got, subject.output)


@torch.inference_mode()
def test_a_batch_is_its_images_one_by_one(subject):
    single = lm.LayerMasked(subject.model)(subject.x[1:], subject.visible[1:])
    assert_close(single, subject.output[1:])


@torch.inference_mode()
def test_nothing_visible_is_finite_and_independent_of_the_image(subject):
    nothing = torch.zeros_like(subject.visible)
    output = lm.LayerMasked(subject.model)(torch.stack([subject.x[0], subject.x[1] * 1e6]), nothing)
    assert output.isfinite().all()
    assert_close(output[:1], output[1:])


def test_every_module_has_a_member_or_is_not_convolutional():
    assert set(timm.list_modules()) <= {*MEMBERS, *NOT_CONVOLUTIONAL}
    for module, names in MEMBERS.items():
        assert set(names.split()) <= set(timm.list_models(module=module))
    assert {name for names in MEMBERS.values() for name in names.split()} >= SLOW
