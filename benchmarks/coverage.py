"""Which architectures can be layer-masked, and do the laws hold for them: timm's families, torchvision's classifiers.

Of each family of timm, the smallest model is built with random weights; of torchvision, every classifier. For each: which
torch functions have no rule, and the largest violation of each law. Writes JSON, from which the documentation makes its
table.

    python benchmarks/coverage.py --out docs/coverage.json
    python benchmarks/coverage.py --filter efficientnet
"""

import argparse
import json
import platform
import re
import sys
import time
import warnings
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

import timm
import torch
import torchvision
from torch import Tensor, nn
from tqdm import tqdm

import lm_plugins as lm
from lm_plugins.masking import observing, run_masked
from lm_plugins.testing import overwrite_hidden

# Modules of timm without a single convolutional family, and why: everything in them looks through attention or mixes
# positions by a dense layer. `--all` runs them too.
NOT_CONVOLUTIONAL = {
    **dict.fromkeys(
        "beit cait convit crossvit deepseek_vit deit eva gemma4_vit hiera hieradet_sam2 mvitv2 naflexvit nest pit pvt_v2 "
        "qwen3_vit swin_transformer swin_transformer_v2 swin_transformer_v2_cr tnt twins vision_transformer "
        "vision_transformer_hybrid vision_transformer_relpos vision_transformer_sam vitamin volo xcit".split(),
        "vision transformer",
    ),
    **dict.fromkeys(
        "byoanet coat csatv2 davit edgenext efficientformer efficientformer_v2 efficientvit_mit efficientvit_msra gcvit "
        "cpubone iformer levit lowformer maxxvit mobilenetv5 mobilevit nextvit shvit swiftformer tiny_vit "
        "visformer".split(),
        "convolutions and attention",
    ),
    "mlp_mixer": "dense layers over positions",
    "sequencer": "recurrent over positions",
    "efficientvim": "state space over positions",
}

# What is no word for the behaviour of a model: its size.
SIZES = set("a b c d e f g h l m s t x xs xl xx xxs xxl xlarge xxlarge large base small medium tiny".split()) | set(
    "nano pico femto atto zepto huge plus kobe short tall wide lrf srf el em es".split()
)
TRANSFORMERS = ("maxvit", "swin_transformer", "vision_transformer")  # modules of torchvision
STEM = re.compile(r"[a-z]+?(?:v\d+|2next|2net|3[a-z]+)|[a-z]+")
ATTENTION = re.compile("Attention|Attn|Lambda|Halo|NonLocal")
CHANNEL_ATTENTION = {"SplitAttn", "SelectiveKernelAttn", "ChannelAttn", "SpatialAttn", "LightChannelAttn"}

SIDES = (96, 128, 160, 192, 224, 256, 288, 320)
TOLERANCE = 1e-5


@dataclass
class Row:
    """What was found about one model. The deviations are relative to the largest logit."""

    suite: str
    module: str
    family: str
    model: str
    parameters: int = 0
    side: int = 0
    attention: bool = False
    missing: list[str] = field(default_factory=list)
    error: str | None = None
    all_visible: float | None = None  # |masked - plain|, float32: 0 is bit for bit
    pixels: float | None = None  # 1e30 and NaN in hidden pixels, float64
    hidden: float | None = None  # garbage at hidden positions after every rule, float64
    batch: float | None = None  # a batch against its images, float64
    nothing: bool | None = None  # finite, and the same for two images, with nothing visible
    change: float | None = None  # what the masks changed: the laws are about something
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether every law holds: deviations are small beside what the masks changed."""
        deviations = (self.pixels, self.hidden, self.batch)
        small = all(one is not None and one <= TOLERANCE * (self.change or 0.0) for one in deviations)
        return not self.missing and self.error is None and self.all_visible == 0 and small and bool(self.nothing)


def family_of(name: str) -> str:
    """The name of a timm model without its sizes: ``tf_efficientnet_lite0`` is of the family ``tf_efficientnet_lite``."""
    words = []
    for i, word in enumerate(name.split("_")):
        found = STEM.match(word)
        stem = found.group() if found else ""
        if word in SIZES or (stem != word and i and len(stem) < 4):
            continue
        words.append(stem)
    return "_".join(words)


def has_attention(model: nn.Module) -> bool:
    """Whether a part of the model is called attention, other than over channels."""
    names = {type(module).__name__ for module in model.modules()} - CHANNEL_ATTENTION
    return any(ATTENTION.search(name) for name in names)


def _count(name: str) -> tuple[int, bool]:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = timm.create_model(name)
    return sum(one.numel() for one in model.parameters()), has_attention(model)


def timm_rows(everything: bool, wanted: str) -> list[Row]:
    """The smallest model of each family."""
    names = defaultdict(list)
    for module in timm.list_modules():
        if everything or module not in NOT_CONVOLUTIONAL:
            for name in timm.list_models(module=module):
                if wanted in f"timm/{module}/{family_of(name)}":
                    names[module, family_of(name)].append(name)
    rows = []
    for (module, family), members in tqdm(sorted(names.items()), desc="counting parameters"):
        counted = sorted((*_count(name), name) for name in members)
        parameters, attention, name = counted[0]
        rows.append(Row("timm", module, family, name, parameters, attention=attention))
    return rows


def torchvision_rows(wanted: str) -> list[Row]:
    """Every classifier of torchvision."""
    rows = []
    for name in torchvision.models.list_models(module=torchvision.models):
        builder = torchvision.models.get_model_builder(name)
        module = builder.__module__.rsplit(".", 1)[-1]
        if wanted not in f"torchvision/{module}/{name}":
            continue
        parameters = torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
        rows.append(Row("torchvision", module, name, name, parameters, attention=module in TRANSFORMERS))
    return rows


def _torchvision(name: str) -> nn.Module:
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, **extra)


def build(row: Row) -> nn.Module:
    """The model with random weights of which none is without effect, in evaluation mode."""
    torch.manual_seed(0)
    model = (timm.create_model(row.model) if row.suite == "timm" else _torchvision(row.model)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() == max(parameter.shape, default=1):  # scales and shifts, many of them 0 or 1e-6
                parameter.add_(0.1 * torch.randn_like(parameter))
        for buffer in model.buffers():
            if buffer.is_floating_point() and buffer.ndim == 1:  # statistics
                buffer.mul_(torch.empty_like(buffer).uniform_(0.8, 1.2))
    return model


def settle(model: nn.Module, x: Tensor) -> None:
    """Give batch norms the statistics of `x`, as training would: otherwise activations vanish or explode with depth."""
    norms = [one for one in model.modules() if isinstance(one, nn.BatchNorm2d) and one.track_running_stats]
    momenta = [one.momentum for one in norms]
    for one in norms:
        one.momentum = 0.9
        one.train()
    model(x)
    for one, momentum in zip(norms, momenta, strict=True):
        one.momentum = momentum
        one.eval()


def smallest_side(model: nn.Module) -> int:
    """The side of the smallest images that the model takes."""
    for side in SIDES:
        try:
            model(torch.zeros(1, 3, side, side))
        except (AssertionError, RuntimeError, ValueError) as error:
            last = error
        else:
            return side
    raise last


def masks(side: int) -> Tensor:
    """Bool ``(3, side, side)``: half of the patches; a disc; nothing."""
    patches = torch.rand(-(-side // 16), -(-side // 16)) > 0.5
    patches = patches.repeat_interleave(16, 0).repeat_interleave(16, 1)[:side, :side]
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    disc = (rows - 0.4 * side) ** 2 + (columns - 0.55 * side) ** 2 < (0.3 * side) ** 2
    return torch.stack([patches, disc, torch.zeros_like(disc)])


def _logits(output: object) -> Tensor:
    if isinstance(output, Tensor):
        return output.flatten(1)
    return output[0].flatten(1)  # type: ignore[index]


def _deviation(got: Tensor, expected: Tensor) -> float:
    scale = expected.abs().amax(1).clamp(min=1e-12)
    return float(((got - expected).abs().amax(1) / scale).nan_to_num(torch.inf).max())


@torch.no_grad()
def check(row: Row) -> Row:
    """Fill in what is missing and how far each law holds."""
    start = time.perf_counter()
    try:
        model = build(row)
        row.side = smallest_side(model)
        torch.manual_seed(1)
        x, visible = torch.randn(3, 3, row.side, row.side), masks(row.side)
        settle(model, x)
        found = lm.coverage(model, x[:1])
        row.missing, row.error = sorted(found.missing), found.stopped
        if found:
            _laws(row, model, x, visible)
    except Exception as error:  # the table says which, the others go on
        row.error = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    row.seconds = round(time.perf_counter() - start, 1)
    return row


def _laws(row: Row, model: nn.Module, x: Tensor, visible: Tensor) -> None:
    options = lm.MaskingOptions()
    plain = _logits(model(x))
    everything = _logits(run_masked(model, x, torch.ones_like(visible), options))
    row.all_visible = 0.0 if torch.equal(everything, plain) else _deviation(everything, plain)
    # In float64, what a deep network with random weights makes of rounding stays far below the tolerance.
    model, x = model.double(), x.double()
    plain, masked = _logits(model(x)), _logits(run_masked(model, x, visible, options))
    painted = [torch.where(visible[:, None], x, value) for value in (1e30, torch.nan)]
    row.pixels = max(_deviation(_logits(run_masked(model, one, visible, options)), masked) for one in painted)
    with observing(overwrite_hidden()):
        row.hidden = _deviation(_logits(run_masked(model, x, visible, options)), masked)
    alone = [_logits(run_masked(model, x[i : i + 1], visible[i : i + 1], options)) for i in range(len(x))]
    row.batch = _deviation(torch.cat(alone), masked)
    other = _logits(run_masked(model, x[:1] * 1e6, visible[2:], options))
    row.nothing = bool(masked.isfinite().all()) and _deviation(other, masked[2:]) <= TOLERANCE
    row.change = float(((masked - plain).abs().amax(1) / plain.abs().amax(1)).min())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON to write after every model")
    parser.add_argument("--filter", default="", help="only what holds this text in SUITE/MODULE/FAMILY")
    parser.add_argument("--largest", type=float, default=60.0, help="million parameters; larger models are left out")
    parser.add_argument("--all", action="store_true", help="also modules that are not convolutional")
    parser.add_argument("--resume", action="store_true", help="keep the rows of --out in which every law holds")
    arguments = parser.parse_args()

    rows = [*timm_rows(arguments.all, arguments.filter), *torchvision_rows(arguments.filter)]
    done = {}
    if arguments.resume and arguments.out and arguments.out.exists():
        record = json.loads(arguments.out.read_text())
        before, now = record.get("versions", {}), versions()
        changed = [f"{name} was {before.get(name)}, is {now[name]}" for name in now if before.get(name) != now[name]]
        if changed:
            parser.error(f"{arguments.out} holds rows of other versions ({'; '.join(changed)}): take another file.")
        for one in record["rows"]:
            row = Row(**{name: value for name, value in one.items() if name != "holds"})
            if row.holds:
                done[row.suite, row.model] = row
    results = []
    for row in tqdm(rows, desc="checking"):
        known = done.get((row.suite, row.model))
        if known is None and row.parameters > arguments.largest * 1e6:
            row.error = f"left out: {row.parameters / 1e6:.0f} million parameters"
        results.append(known or (row if row.error else check(row)))
        if arguments.out:
            write(results, arguments.out)
        if not results[-1].holds:
            tqdm.write(report(results[-1]))
    for row in results if arguments.filter else []:
        print(report(row))
    for suite in ("timm", "torchvision"):
        of_suite = [row for row in results if row.suite == suite and not row.attention]
        print(f"{suite}, without attention: every law holds for {sum(r.holds for r in of_suite)} of {len(of_suite)}")
    sys.exit(any(not row.holds for row in results))


def report(row: Row) -> str:
    """One line about a row."""
    laws = f"all visible {row.all_visible}, pixels {row.pixels}, hidden {row.hidden}, batch {row.batch}, {row.nothing}"
    why = row.error or ", ".join(row.missing) or f"{laws}, change {row.change}"
    return f"{'ok' if row.holds else 'NO':2} {row.suite}/{row.module}/{row.family}: {row.model}, {row.side} px: {why}"


def versions() -> dict[str, str]:
    """Of all that decides whether a law holds."""
    ours = {"python": platform.python_version(), "lm_plugins": lm.__version__}
    return ours | {one.__name__: one.__version__ for one in (torch, torchvision, timm)}


def write(rows: list[Row], out: Path) -> None:
    """Write JSON with the versions that it was made with."""
    listed = [{**asdict(row), "holds": row.holds} for row in rows]
    lines = ",\n".join(f"    {json.dumps(one)}" for one in listed)
    out.write_text(f'{{\n  "versions": {json.dumps(versions())},\n  "rows": [\n{lines}\n  ]\n}}\n')


if __name__ == "__main__":
    main()
