"""What a model returns comes back packed as it was, with ordinary tensors."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import lm_plugins as lm
from tests.masking import samples

VISIBLES = samples.region(3, 12, 14, seed=2)


@pytest.fixture
def x():
    return torch.randn(3, 3, 12, 14)


Named = namedtuple("Named", ["map", "logits"])


@dataclass
class Output:
    map: Tensor
    logits: Tensor
    note: str = "kept"


class Returning(nn.Module):
    """A map and logits, packed by `pack`."""

    def __init__(self, pack):
        super().__init__()
        self.conv, self.pack = nn.Conv2d(3, 4, 3, padding=1), pack

    def forward(self, x):
        features = self.conv(x)
        return self.pack(features, features.mean((2, 3)))


PACKS = {
    "tuple": (lambda a, b: (a, b), lambda out: out),
    "list": (lambda a, b: [a, b], lambda out: out),
    "dict": (lambda a, b: {"map": a, "logits": b}, lambda out: (out["map"], out["logits"])),
    "OrderedDict": (lambda a, b: OrderedDict(map=a, logits=b), lambda out: (out["map"], out["logits"])),
    "namedtuple": (Named, lambda out: (out.map, out.logits)),
    "dataclass": (Output, lambda out: (out.map, out.logits)),
    "nested": (lambda a, b: {"out": [a, (b, 3)]}, lambda out: (out["out"][0], out["out"][1][0])),
}


@pytest.mark.parametrize("kind", PACKS)
def test_outputs_of_any_kind(kind, x):
    pack, unpack = PACKS[kind]
    model = Returning(pack).eval().requires_grad_(False)
    output = lm.LayerMasked(model)(x, VISIBLES)
    assert type(output) is type(model(x))
    features, logits = unpack(output)
    assert type(features) is Tensor
    assert type(logits) is Tensor
    assert logits.shape == (3, 4)
    if kind == "dataclass":
        assert output.note == "kept"


def test_maps_come_back_with_zeros_where_hidden(x):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval().requires_grad_(False)
    output = lm.LayerMasked(model)(x, VISIBLES)
    assert (output[(~VISIBLES)[:, None].expand_as(output)] == 0).all()
    torch.testing.assert_close(output, torch.where(VISIBLES[:, None], model(x), 0.0))


def test_outputs_that_are_no_tensors_pass(x):
    model = Returning(lambda a, b: (None, "text", b)).eval()
    output = lm.LayerMasked(model)(x, VISIBLES)
    assert output[:2] == (None, "text")
