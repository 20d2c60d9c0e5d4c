"""Small models of other libraries, with random weights: what `benchmarks/libraries.py` asks about layer masking.

Each function yields ``(name, build)``. Preprocessing is put in front of a small network of convolutions.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from constructs import constructs
from torch import Tensor, nn

__all__ = ["LIBRARIES"]

Cases = Iterator[tuple[str, Callable[[], nn.Module]]]

SIDE = 64

# ---- transformers: every image model that its tables list, made small ----------------------------------------------

# What a configuration is given where it has such a field.
_TINY = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64, "image_size": SIDE,
    "pretrain_image_size": SIDE, "patch_size": 16, "window_size": 4, "embed_dim": 16, "decoder_hidden_size": 32,
    "pool_scales": [1, 2], "auxiliary_channels": 16, "fusion_hidden_size": 16, "reassemble_hidden_size": 32,
    "neck_hidden_sizes": [16, 16, 16, 16], "head_hidden_size": 16, "bottleneck_features": 16, "hidden_dim": 32,
    "num_queries": 5, "encoder_layers": 1, "decoder_layers": 2, "d_model": 32, "use_pretrained_backbone": False,
    "output_loading_info": False, "drop_path_rate": 0.0,
}  # fmt: skip
_KEEP_NECK = ("mobilevit",)
_OWN: dict[str, dict[str, Any]] = {
    "beit": {"out_indices": [1, 2, 3, 4], "use_relative_position_bias": True, "reshape_hidden_states": True},
    "convnext": {"patch_size": 4, "hidden_sizes": [16, 24, 32, 48]},
    "convnextv2": {"patch_size": 4, "hidden_sizes": [16, 24, 32, 48]},
    "cvt": {"embed_dim": [16, 24, 48], "num_heads": [1, 3, 6], "depth": [1, 2, 3], "drop_path_rate": [0.0] * 3},
    "data2vec-vision": {"out_indices": [0, 1, 2, 3]},
    "dpt": {"backbone_out_indices": [0, 1, 2, 3]},
    "dinat": {"patch_size": 4}, "nat": {"patch_size": 4},
    "donut-swin": {"patch_size": 4, "num_heads": [1, 2, 4, 8], "depths": [1, 2, 1, 1], "window_size": 2},
    "efficientformer": {"resolution": 2, "depths": [1, 1, 1, 2]},
    "efficientnet": {"width_coefficient": 0.5, "depth_coefficient": 0.3, "hidden_dim": 640},
    "focalnet": {"patch_size": 4},
    "hiera": {"image_size": [SIDE, SIDE], "patch_size": [7, 7], "num_heads": [1, 2, 4, 8]},
    "maskformer-swin": {"patch_size": 4, "num_heads": [1, 2, 4, 8], "depths": [1, 2, 1, 1]},
    "mobilevit": {"patch_size": 2, "image_size": SIDE}, "mobilevitv2": {"patch_size": 2},
    "levit": {"hidden_sizes": [32, 48, 64]},
    "pvt": {"hidden_sizes": [8, 16, 40, 64]}, "pvt_v2": {"hidden_sizes": [8, 16, 40, 64]},
    "glpn": {"hidden_sizes": [8, 16, 40, 64], "num_attention_heads": [1, 2, 5, 8]},
    "segformer": {"hidden_sizes": [8, 16, 40, 64], "num_attention_heads": [1, 2, 5, 8]},
    "swin": {"patch_size": 4, "num_heads": [1, 2, 4, 8], "depths": [1, 2, 1, 1], "window_size": 2},
    "swinv2": {"patch_size": 4, "num_heads": [1, 2, 4, 8], "depths": [1, 2, 1, 1]},
    "textnet": {"image_size": [SIDE, SIDE]},
    "vitpose_backbone": {"image_size": [SIDE, SIDE], "patch_size": [16, 16]},
    "upernet": {"hidden_size": 16}, "eomt": {"num_blocks": 1, "num_hidden_layers": 3},
}  # fmt: skip
_KINDS = ("IMAGE_CLASSIFICATION", "BACKBONE", "SEMANTIC_SEGMENTATION", "DEPTH_ESTIMATION", "UNIVERSAL_SEGMENTATION")
_NO_IMAGES = {
    "imagegpt": "pixels as words", "perceiver": "positions of its own size", "shieldgemma2": "a language model",
    "oneformer": "wants text beside images", "timm_backbone": "timm", "timm_wrapper": "timm",
    "siglip2": "patches as input", "detr": "loads weights", "vit_hybrid": "BiT and ViT", "nat": "needs natten",
    "dinat": "needs natten", "depth_pro": "images of 1536 pixels", "prompt_depth_anything": "wants depth beside images",
}  # fmt: skip


def _config(kind: str) -> Any:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES as NAMES

    made = getattr(transformers, NAMES[kind])
    known = made().to_dict()
    chosen = {
        name: value for name, value in _TINY.items() if name in known and not isinstance(known[name], (list, tuple))
    }
    if "depths" in known:
        chosen["depths"] = [1] * len(known["depths"])
    for name in ("pool_scales", "neck_hidden_sizes"):
        if name in known and kind not in _KEEP_NECK:
            chosen[name] = _TINY[name]
    chosen |= _OWN.get(kind, {})
    if kind in ("depth_anything", "zoedepth", "upernet", "mask2former", "maskformer"):
        chosen["backbone_config"] = _backbone(kind)
    if "vision_config" in known:
        small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        chosen["vision_config"] = {**small, "image_size": SIDE, "patch_size": 16}
    return made(**chosen)


def _backbone(kind: str) -> Any:
    import transformers

    if kind == "upernet":
        widths = [16, 24, 32, 48]
        return transformers.ConvNextConfig(
            hidden_sizes=widths, depths=[1] * 4, out_features=["stage1", "stage2", "stage3", "stage4"]
        )
    if kind in ("mask2former", "maskformer"):
        made = transformers.SwinConfig(
            image_size=SIDE, embed_dim=16, depths=[1, 2, 1, 1], num_heads=[1, 2, 4, 8], window_size=4
        )
        made.out_features = ["stage1", "stage2", "stage3", "stage4"]
        return made
    if kind == "zoedepth":
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        return transformers.BeitConfig(
            **{name: _TINY[name] for name in sizes},
            image_size=SIDE, patch_size=16, use_relative_position_bias=True, reshape_hidden_states=False,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )  # fmt: skip
    return transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, image_size=SIDE, patch_size=16,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False,
    )  # fmt: skip


def _of_transformers() -> Cases:
    import transformers
    from transformers.models.auto import modeling_auto

    def build(kind: str, name: str) -> nn.Module:
        return getattr(transformers, name)(_config(kind))

    for table in _KINDS:
        for kind, names in getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING_NAMES").items():
            if kind not in _NO_IMAGES:
                for name in [names] if isinstance(names, str) else names:
                    yield name, partial(build, kind, name)

    yield from _detectors(transformers)

    def dinov3(make: str, **chosen: Any) -> nn.Module:
        return getattr(transformers, f"DINOv3{make}Model")(getattr(transformers, f"DINOv3{make}Config")(**chosen))

    tiny = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    for registers in (0, 4):
        chosen = {**tiny, "image_size": SIDE, "patch_size": 16, "num_register_tokens": registers}
        yield f"DINOv3ViTModel, {registers} registers", partial(dinov3, "ViT", **chosen)
    yield "DINOv3ConvNextModel", partial(dinov3, "ConvNext", hidden_sizes=[16, 24, 32, 48], depths=[1] * 4)


def _detectors(transformers: Any) -> Cases:
    """DETR and its kin, around a small ResNet; YOLOS, which is a ViT."""
    widths = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "layer_type": "basic"}
    attention = {
        "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 5,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "d_model": 32,
    }  # fmt: skip
    no_timm = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    last, scales = ["stage4"], ["stage2", "stage3", "stage4"]

    def resnet(stages: list[str], kind: str = "ResNet") -> Any:
        return getattr(transformers, f"{kind}Config")(**widths, out_features=stages)

    def build(name: str, **chosen: Any) -> nn.Module:
        made: nn.Module = getattr(transformers, f"{name}ForObjectDetection")(
            getattr(transformers, f"{name}Config")(**chosen)
        )
        return made

    for name in ("Detr", "ConditionalDetr"):
        yield (
            f"{name}ForObjectDetection",
            lambda name=name: build(name, backbone_config=resnet(last), **no_timm, **attention),
        )
    yield (
        "DeformableDetrForObjectDetection",
        lambda: build("DeformableDetr", backbone_config=resnet(scales), num_feature_levels=3, **no_timm, **attention),
    )
    yield (
        "RTDetrForObjectDetection",
        lambda: build(
            "RTDetr", backbone_config=resnet(scales, "RTDetrResNet"), encoder_in_channels=[16, 24, 32],
            encoder_hidden_dim=32, d_model=32, decoder_in_channels=[32] * 3, decoder_layers=2, num_queries=5,
            decoder_attention_heads=4, encoder_attention_heads=4,
        ),
    )  # fmt: skip
    tiny = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    yield (
        "YolosForObjectDetection",
        lambda: build("Yolos", **tiny, image_size=[SIDE, SIDE], patch_size=16, num_detection_tokens=5),
    )


# ---- models of segmentation ------------------------------------------------------------------------------------------


def _of_smp() -> Cases:
    import segmentation_models_pytorch as smp

    architectures = "Unet UnetPlusPlus FPN PSPNet DeepLabV3 DeepLabV3Plus Linknet MAnet PAN UPerNet Segformer".split()
    pairs = [*product(architectures, ("resnet18", "mobilenet_v2", "mit_b0"))]
    pairs += product(("Unet",), "efficientnet-b0 densenet121 vgg11_bn timm-regnety_002 tu-convnext_atto dpn68".split())
    for architecture, encoder in pairs:
        yield f"{architecture}, {encoder}", partial(getattr(smp, architecture), encoder, encoder_weights=None)
    yield (
        "DPT, tu-vit_tiny",
        partial(
            smp.DPT,
            "tu-vit_tiny_patch16_224.augreg_in21k",
            encoder_weights=None,
            encoder_depth=4,
            dynamic_img_size=True,
        ),
    )


def _of_monai() -> Cases:
    from monai.networks import nets

    plain = {"spatial_dims": 2, "in_channels": 3, "out_channels": 4}
    cases: dict[str, dict[str, Any]] = {
        "BasicUNet": {**plain, "features": (8, 8, 16, 16, 32, 8)},
        "BasicUNetPlusPlus": {**plain, "features": (8, 8, 16, 16, 32, 8)},
        "UNet": {**plain, "channels": (8, 16, 32), "strides": (2, 2), "num_res_units": 1},
        "AttentionUnet": {**plain, "channels": (8, 16, 32), "strides": (2, 2)},
        "FlexibleUNet": {"in_channels": 3, "out_channels": 4, "backbone": "efficientnet-b0", "pretrained": False},
        "DynUNet": {**plain, "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]},
        "SegResNet": {**plain, "init_filters": 8}, "SegResNetDS": {**plain, "init_filters": 8},
        "HighResNet": {**plain},
        "UNETR": {**plain, "img_size": SIDE, "feature_size": 8, "hidden_size": 32, "mlp_dim": 64, "num_heads": 4},
        "SwinUNETR": {**plain, "feature_size": 12}, "MedNeXt": {**plain, "init_filters": 8},
        "DenseNet121": {**plain}, "DenseNet": {**plain, "block_config": (2, 2)},
        "EfficientNetBN": {"model_name": "efficientnet-b0", "pretrained": False},
        "ResNet": {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [8, 16, 32, 64], "spatial_dims": 2,
                   "n_input_channels": 3, "num_classes": 4},
        "SEResNet50": {"spatial_dims": 2, "in_channels": 3}, "SEResNext50": {"spatial_dims": 2, "in_channels": 3},
        "SENet154": {"spatial_dims": 2, "in_channels": 3},
        "ViT": {"in_channels": 3, "img_size": SIDE, "patch_size": 16, "hidden_size": 32, "mlp_dim": 64, "num_layers": 2,
                "num_heads": 4, "classification": True, "spatial_dims": 2},
        "Classifier": {"in_shape": (3, SIDE, SIDE), "classes": 4, "channels": (8, 16), "strides": (2, 2)},
        "Regressor": {"in_shape": (3, SIDE, SIDE), "out_shape": (1,), "channels": (8, 16), "strides": (2, 2)},
        "AutoEncoder": {**plain, "channels": (8, 16), "strides": (2, 2)},
        "TorchVisionFCModel": {"model_name": "resnet18", "num_classes": 4, "pretrained": False},
        "AHNet": {"spatial_dims": 2, "in_channels": 3, "out_channels": 4, "upsample_mode": "bilinear"},
        "PatchDiscriminator": {"spatial_dims": 2, "channels": 8, "in_channels": 3},
    }  # fmt: skip
    for name, chosen in cases.items():
        yield name, partial(getattr(nets, name), **chosen)
    yield "BasicUNet, interpolation", partial(nets.BasicUNet, **cases["BasicUNet"], upsample="nontrainable")


# ---- classifiers -----------------------------------------------------------------------------------------------------


def _of_pytorchcv() -> Cases:
    from pytorchcv.model_provider import _models

    first: dict[str, tuple[str, Callable[[], nn.Module]]] = {}
    for name, build in _models.items():
        module = build.__module__.rsplit(".", 1)[-1]
        if "_" not in name or module not in first:
            first.setdefault(module, (name, build))
    no_images = (
        "jasper",
        "quartznet",
        "jasperdr",
        "lwopenpose_cmupan",
        "visemenet",
        "voca",
        "nvpattexp",
        "neuralvoicepuppetry",
        "raft",
        "proxyless",
    )
    for module, case in first.items():
        if not any(module.startswith(one) for one in no_images):
            yield case


def _of_timm_eva() -> Cases:
    import timm

    for name in timm.list_models(module="eva"):
        if any(size in name for size in ("tiny", "small", "medium", "base")):
            depth = {} if "sapiens" in name else {"depth": 2}  # it lists its blocks
            yield name, partial(timm.create_model, name, img_size=_patch_of(name) * 4, **depth)


def _patch_of(name: str) -> int:
    return next((int(one.removeprefix("patch")) for one in name.split("_") if one.startswith("patch")), 16)


def _of_torchvision() -> Cases:
    import torchvision

    models = torchvision.models
    for module in (models.quantization, models.segmentation):
        for name in models.list_models(module=module):
            build = models.get_model_builder(name)
            accepted = inspect.signature(build).parameters
            extra = {"quantize": False} if "quantize" in accepted else {"weights_backbone": None}
            yield name, partial(build, weights=None, **extra)


def _of_open_clip() -> Cases:
    import open_clip

    for name in ("ViT-B-32", "RN50", "ViT-B-16-SigLIP", "convnext_base", "coca_ViT-B-32"):
        yield f"{name}, image tower", partial(_image_tower, open_clip, name)


def _image_tower(open_clip: Any, name: str) -> nn.Module:
    made = open_clip.create_model(name, pretrained=None, pretrained_image=False)
    tower: nn.Module = made.visual
    return tower


def _of_torchxrayvision() -> Cases:
    import torchxrayvision as xrv

    yield "DenseNet", partial(xrv.models.DenseNet, weights=None, in_channels=3, num_classes=18, op_threshs=None)


def _of_facenet() -> Cases:
    from facenet_pytorch import InceptionResnetV1

    yield "InceptionResnetV1", partial(InceptionResnetV1, pretrained=None)


def _of_lightly() -> Cases:
    from lightly.models import ResNetGenerator
    from lightly.models.modules import heads

    for name in ("resnet-9", "resnet-18"):
        yield name, partial(ResNetGenerator, name)
    for name in ("SimCLRProjectionHead", "BYOLProjectionHead", "DINOProjectionHead"):
        yield f"resnet-9 and {name}", partial(_with_head, ResNetGenerator, getattr(heads, name))


def _with_head(backbone: Any, head: Any) -> nn.Module:
    body = nn.Sequential(*list(backbone("resnet-9").children())[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(body, nn.LazyLinear(32), head(32, 16, 8))


def _of_peft() -> Cases:
    import timm
    from peft import LoHaConfig, LoraConfig, get_peft_model

    cases = {"vit_tiny_patch16_224": ["qkv"], "convnext_atto": ["fc1"], "resnet18": ["conv2"]}
    for name, layers in cases.items():
        for kind in (LoraConfig, LoHaConfig):
            yield (
                f"{name}, {kind.__name__}",
                lambda name=name, layers=layers, kind=kind: get_peft_model(
                    timm.create_model(name), kind(target_modules=layers, r=4)
                ),
            )


def _of_torch_pruning() -> Cases:
    import torchvision

    for name in ("resnet18", "mobilenet_v2", "convnext_tiny", "densenet121"):
        yield name, partial(_pruned, torchvision.models.get_model, name)


@torch.enable_grad()  # it follows gradients to find what belongs together
def _pruned(make: Any, name: str) -> nn.Module:
    import torch_pruning as tp

    model: nn.Module = make(name).eval()
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    tp.pruner.MetaPruner(
        model, torch.rand(1, 3, 64, 64), tp.importance.MagnitudeImportance(), pruning_ratio=0.5, ignored_layers=last
    ).step()
    return model


# ---- preprocessing ---------------------------------------------------------------------------------------------------


class _Behind(nn.Module):
    """A small network behind something that is done to images with values in [0, 1]."""

    def __init__(self, prepare: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.prepare = prepare
        self.network = nn.Sequential(
            nn.LazyConv2d(8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """The logits of prepared images."""
        prepared = self.prepare(x)
        if isinstance(prepared, (tuple, list)):
            prepared = torch.cat(list(prepared), 1)
        result: Tensor = self.network(prepared.to(self.network[-1].weight.dtype))
        return result


def _transforms(module: str) -> Cases:
    chosen = importlib.import_module(module)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    one_to_one: dict[str, tuple[Any, ...]] = {
        "Normalize": (mean, std), "Resize": (48,), "CenterCrop": (48,), "Pad": (4,), "Grayscale": (3,),
        "GaussianBlur": (5, (1.0, 1.0)), "ConvertImageDtype": (torch.float64,), "ColorJitter": ((1.2, 1.2),),
        "RandomHorizontalFlip": (1.0,), "RandomVerticalFlip": (1.0,), "RandomInvert": (1.0,), "RandomSolarize": (0.5, 1.0),
        "RandomAdjustSharpness": (2.0, 1.0), "RandomAutocontrast": (1.0,), "RandomGrayscale": (1.0,),
        "RandomRotation": ((10, 10),), "RandomAffine": ((10, 10),), "FiveCrop": (32,), "TenCrop": (32,),
    }  # fmt: skip
    for name, args in one_to_one.items():
        yield name, lambda name=name, args=args: _Behind(getattr(chosen, name)(*args))
    yield "Resize, bicubic", lambda: _Behind(chosen.Resize(48, chosen.InterpolationMode.BICUBIC))
    yield "Resize, no antialias", lambda: _Behind(chosen.Resize(48, antialias=False))
    yield "Resize, nearest", lambda: _Behind(chosen.Resize(48, chosen.InterpolationMode.NEAREST))
    yield "Pad, reflect", lambda: _Behind(chosen.Pad(4, padding_mode="reflect"))
    for what, number in (("contrast", 1.3), ("saturation", 1.3), ("hue", 0.1)):
        yield (
            f"ColorJitter, {what}",
            lambda what=what, number=number: _Behind(chosen.ColorJitter(**{what: (number, number)})),
        )
    yield "Compose", lambda: _Behind(chosen.Compose([chosen.CenterCrop(56), chosen.Normalize(mean, std)]))
    if module.endswith("v2"):
        yield "ToDtype", lambda: _Behind(chosen.ToDtype(torch.float32, scale=True))
        yield "RGB", lambda: _Behind(chosen.RGB())


def _of_kornia() -> Cases:
    import kornia as k

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    filters, enhance, geometry = k.filters, k.enhance, k.geometry
    makers: dict[str, Callable[[], Any]] = {
        "filters.BoxBlur": lambda: filters.BoxBlur((3, 3)),
        "filters.Laplacian": lambda: filters.Laplacian(3),
        "filters.GaussianBlur2d": lambda: filters.GaussianBlur2d((5, 5), (1.0, 1.0)),
        "filters.Sobel": filters.Sobel,
        "filters.MedianBlur": lambda: filters.MedianBlur((3, 3)),
        "filters.UnsharpMask": lambda: filters.UnsharpMask((3, 3), (1.0, 1.0)),
        "filters.BlurPool2D": lambda: filters.BlurPool2D(3, 2),
        "filters.MotionBlur": lambda: filters.MotionBlur(3, 35.0, 0.5),
        "filters.MaxBlurPool2D": lambda: filters.MaxBlurPool2D(3),
        "filters.BilateralBlur": lambda: filters.BilateralBlur((3, 3), 0.1, (1.5, 1.5)),
        "filters.SpatialGradient": lambda: nn.Sequential(filters.SpatialGradient(), nn.Flatten(1, 2)),
        "enhance.Normalize": lambda: enhance.Normalize(mean, std),
        "enhance.Denormalize": lambda: enhance.Denormalize(mean, std),
        "enhance.AdjustBrightness": lambda: enhance.AdjustBrightness(0.1),
        "enhance.AdjustContrast": lambda: enhance.AdjustContrast(1.2),
        "enhance.AdjustGamma": lambda: enhance.AdjustGamma(1.2),
        "enhance.AdjustHue": lambda: enhance.AdjustHue(0.1),
        "enhance.AdjustSaturation": lambda: enhance.AdjustSaturation(1.2),
        "enhance.AdjustSigmoid": enhance.AdjustSigmoid,
        "enhance.AdjustLog": enhance.AdjustLog,
        "enhance.Invert": enhance.Invert,
        "augmentation.Normalize": lambda: k.augmentation.Normalize(mean, std),
        "augmentation.CenterCrop": lambda: k.augmentation.CenterCrop(48),
        "augmentation.Resize": lambda: k.augmentation.Resize((48, 48)),
        "augmentation.PadTo": lambda: k.augmentation.PadTo((72, 72)),
        "geometry.Resize": lambda: geometry.Resize((48, 48)),
        "geometry.CenterCrop2D": lambda: geometry.CenterCrop2D((48, 48)),
        "geometry.Hflip": geometry.Hflip,
        "geometry.Vflip": geometry.Vflip,
        "geometry.Rot180": geometry.Rot180,
        "geometry.PyrDown": geometry.PyrDown,
        "geometry.Rotate": lambda: geometry.Rotate(torch.tensor([10.0])),
    }
    spaces = "Bgr Grayscale Hls Hsv Lab LinearRgb Luv Xyz Ycbcr Yuv".split()
    for name in (*(f"RgbTo{space}" for space in spaces), "Sepia"):
        makers[f"color.{name}"] = getattr(k.color, name)
    for name, make in makers.items():
        yield name, lambda make=make: _Behind(make())


LIBRARIES: dict[str, tuple[str, Callable[[], Cases]]] = {
    "constructs": ("torch", constructs),
    "transformers": ("transformers", _of_transformers),
    "segmentation_models_pytorch": ("segmentation_models_pytorch", _of_smp),
    "MONAI, two dimensions": ("monai", _of_monai),
    "pytorchcv": ("pytorchcv", _of_pytorchcv),
    "open_clip": ("open_clip", _of_open_clip),
    "torchxrayvision": ("torchxrayvision", _of_torchxrayvision),
    "facenet_pytorch": ("facenet_pytorch", _of_facenet),
    "lightly": ("lightly", _of_lightly),
    "peft": ("peft", _of_peft),
    "torch_pruning": ("torch_pruning", _of_torch_pruning),
    "timm, EVA and its kin": ("timm", _of_timm_eva),
    "torchvision, quantization and segmentation": ("torchvision", _of_torchvision),
    "torchvision, transforms": ("torchvision", partial(_transforms, "torchvision.transforms")),
    "torchvision, transforms v2": ("torchvision", partial(_transforms, "torchvision.transforms.v2")),
    "kornia": ("kornia", _of_kornia),
}
