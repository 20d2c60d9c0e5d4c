"""Captum's own tutorials, with their calls, kernels and settings, after the one or two documented changes of a line.

The models are small and random: what is tested is that the code runs as it is written there and keeps its shapes.
"""

import captum.attr
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from captum._utils.models.linear_model import SkLearnLasso, SkLearnLinearRegression
from captum.attr import visualization as viz
from captum.attr._core.lime import get_exp_kernel_similarity_function
from torch import Tensor, nn
from torchvision.models import resnet18

import lm_plugins as lm
import lm_plugins.captum as ours
from lm_plugins.features import grid

BASELINES_WARNING = "baselines is not used"


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return resnet18(num_classes=10).eval()


@pytest.fixture
def image() -> Tensor:
    return torch.randn(1, 3, 64, 64)


def test_torchvision_interpret_occlusion(resnet: nn.Module, image: Tensor) -> None:
    """TorchVision_Interpret, section 3: the import changes."""
    occlusion = ours.Occlusion(resnet)
    settings = {"strides": (3, 8, 8), "target": torch.tensor(3), "sliding_window_shapes": (3, 15, 15)}
    with pytest.warns(UserWarning, match=BASELINES_WARNING):
        attributions_occ = occlusion.attribute(image, baselines=0, **settings)
    figure, _ = viz.visualize_image_attr_multiple(
        np.transpose(attributions_occ.squeeze().cpu().detach().numpy(), (1, 2, 0)),
        np.transpose(image.squeeze().cpu().detach().numpy(), (1, 2, 0)),
        ["original_image", "heat_map"],
        ["all", "positive"],
        show_colorbar=True,
        outlier_perc=2,
        use_pyplot=False,
    )
    plt.close(figure)
    # The other road: the model and the baseline change.
    same = captum.attr.Occlusion(lm.LayerMasked(resnet)).attribute(image, baselines=lm.MASKED, **settings)
    torch.testing.assert_close(attributions_occ, same, atol=1e-5, rtol=1e-4)


def test_resnet_torchvision_ablation(resnet: nn.Module, image: Tensor) -> None:
    """Resnet_TorchVision_Ablation: a VOC mask, whose ids have gaps; the import changes."""
    voc = grid((64, 64), 32)
    voc[voc == 2] = 15
    voc[voc == 3] = 255
    feature_mask = voc.unsqueeze(0).unsqueeze(0)
    ablator = ours.FeatureAblation(resnet)
    attribution_map = ablator.attribute(image, target=3, feature_mask=feature_mask)
    assert attribution_map.shape == image.shape
    viz.visualize_image_attr(
        np.transpose(attribution_map.squeeze().cpu().detach().numpy(), (1, 2, 0)),
        method="heat_map",
        sign="all",
        show_colorbar=True,
        use_pyplot=False,
    )
    plain = captum.attr.FeatureAblation(lm.LayerMasked(resnet))
    same = plain.attribute(image, baselines=lm.MASKED, target=3, feature_mask=feature_mask)
    torch.testing.assert_close(attribution_map, same, atol=1e-5, rtol=1e-4)


def test_image_classification_lime(resnet: nn.Module, image: Tensor) -> None:
    """Image_and_Text_Classification_LIME, image part: the euclidean kernel, forty samples, then every combination."""
    seg_mask = grid((64, 64), 32)
    n_interpret_features = 4
    exp_eucl_distance = get_exp_kernel_similarity_function("euclidean", kernel_width=1000)
    label_idx = resnet(image).argmax(dim=1)

    lr_lime = ours.Lime(resnet, interpretable_model=SkLearnLinearRegression(), similarity_func=exp_eucl_distance)
    attrs = lr_lime.attribute(
        image,
        target=label_idx,
        feature_mask=seg_mask.unsqueeze(0),
        n_samples=40,
        perturbations_per_eval=16,
        show_progress=False,
    ).squeeze(0)
    assert attrs.shape == image.shape[1:]

    def iter_combinations(*args: object, **kwargs: object) -> object:
        for i in range(2**n_interpret_features):
            yield torch.tensor([int(d) for d in bin(i)[2:].zfill(n_interpret_features)]).unsqueeze(0)

    settings = {"interpretable_model": SkLearnLasso(alpha=0.0001), "perturb_func": iter_combinations}
    call = {"target": label_idx, "feature_mask": seg_mask.unsqueeze(0), "n_samples": 2**n_interpret_features}
    call["perturbations_per_eval"] = 16
    exact = ours.Lime(resnet, similarity_func=ours.feature_similarity(), **settings).attribute(image, **call)
    # The other road: model, baseline, and a kernel that does not look at pixel values.
    other = captum.attr.Lime(lm.LayerMasked(resnet), similarity_func=ours.feature_similarity(), **settings)
    same = other.attribute(image, baselines=lm.MASKED, **call)
    torch.testing.assert_close(exact, same, atol=1e-5, rtol=1e-4)
    assert exact.abs().max() > 1e-3
    # The tutorial's own kernel does not underflow on the sentinel either.
    kernel = captum.attr.Lime(lm.LayerMasked(resnet), similarity_func=exp_eucl_distance, **settings)
    assert kernel.attribute(image, baselines=lm.MASKED, **call).isfinite().all()


class Segmenter(nn.Module):
    """A small fully convolutional network with torchvision's output, a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 3, padding=1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.layers(x)}


def test_segmentation_interpret(image: Tensor) -> None:
    """Segmentation_Interpret, feature ablation: the import changes, and the user's wrapper is passed as output=."""
    fcn = Segmenter().eval()
    out_max = torch.argmax(fcn(image)["out"], dim=1, keepdim=True)

    def selected(model_out: dict[str, Tensor]) -> Tensor:
        out = model_out["out"]
        selected_inds = torch.zeros_like(out[0:1]).scatter_(1, out_max, 1)
        return (out * selected_inds).sum(dim=(2, 3))

    fa = ours.FeatureAblation(fcn, output=selected)
    fa_attr = fa.attribute(image, feature_mask=out_max, perturbations_per_eval=2, target=1)
    assert fa_attr.shape == image.shape
    assert fa_attr.abs().max() > 0

    # With a wrapper as it is in the tutorial, the model inside of it becomes the masked one.
    masked = lm.LayerMasked(fcn)
    plain = captum.attr.FeatureAblation(lambda inp: selected(masked(inp)))
    settings = {"feature_mask": out_max, "perturbations_per_eval": 2, "target": 1}
    torch.testing.assert_close(fa_attr, plain.attribute(image, baselines=lm.MASKED, **settings), atol=1e-4, rtol=1e-4)


def _gather(rank: int, size: int, part: Tensor, port: int, results: object) -> None:
    import torch.distributed as dist

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    attr = ours.FeatureAblation(model).attribute(part, target=0, feature_mask=grid((16, 16), 8))
    output_list = [torch.zeros_like(attr) for _ in range(size)] if rank == 0 else None
    dist.gather(attr, gather_list=output_list)
    if rank == 0:
        torch.save(torch.cat(output_list), results)
    dist.destroy_process_group()


@pytest.mark.slow
def test_distributed_attribution(tmp_path: object) -> None:
    """Distributed_Attribution: one part of the batch for each process, gathered on rank 0."""
    import socket

    import torch.multiprocessing as multiprocessing

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    batch = torch.randn(4, 3, 16, 16)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_gather, args=(rank, 2, part, port, str(tmp_path / "gathered.pt")))
        for rank, part in enumerate(batch.chunk(2))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    alone = ours.FeatureAblation(model).attribute(batch, target=0, feature_mask=grid((16, 16), 8))
    torch.testing.assert_close(torch.load(tmp_path / "gathered.pt", weights_only=True), alone, atol=1e-6, rtol=1e-5)
