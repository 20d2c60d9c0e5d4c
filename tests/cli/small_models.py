"""Factories for ``--model tests.cli.small_models:NAME``."""

import sys
import warnings

import torch
from torch import nn

CONFIG = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3, "crop_pct": 1.0}


class Classifier(nn.Sequential):
    """Three classes: how red, green and blue an image is."""

    classes = ("red", "green", "blue")
    pretrained_cfg = CONFIG

    def __init__(self):
        conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        nn.init.zeros_(conv.weight)
        with torch.no_grad():
            conv.weight[range(3), range(3), 1, 1] = 3.0
        super().__init__(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Uncovered(Classifier):
    """Calls a function that has no rule."""

    def forward(self, x):
        return super().forward(torch.erfinv(x / 100))


class Warner(Classifier):
    """Has something to say at every call."""

    def forward(self, x):
        warnings.warn("mind the gap (output='logits')", stacklevel=1)
        return super().forward(x)


class Spatial(nn.Module):
    """Returns a map instead of logits."""

    pretrained_cfg = CONFIG

    def forward(self, x):
        return x


def classifier():
    return Classifier()


def uncovered():
    return Uncovered()


def warns():
    return Warner()


def spatial():
    return Spatial()


def no_module():
    return 3


def broken():
    raise RuntimeError("out of glue")


def leaves():
    sys.exit(0)


class Leaving(Classifier):
    """Leaves the program when it is asked."""

    def forward(self, x):
        sys.exit(0)


class Failing(Classifier):
    """Cannot take any image."""

    def forward(self, x):
        raise ZeroDivisionError("no image is good enough")


class Talkative(Classifier):
    """Prints while it computes."""

    def forward(self, x):
        print("hello")
        return super().forward(x)


class Undefined(Classifier):
    """Returns NaN."""

    def forward(self, x):
        return super().forward(x) * float("nan")


def ends_in_softmax():
    return Ending(nn.Softmax(1))


def ends_in_sigmoid():
    return Ending(nn.Sigmoid())


class InDictionary(nn.Module):
    """A classifier that returns its logits among other things."""

    pretrained_cfg = CONFIG

    def __init__(self):
        super().__init__()
        self.inner = classifier()

    def forward(self, x):
        return {"aux": x.mean((1, 2, 3)), "scores": self.inner(x)}


def in_dictionary():
    return InDictionary()


class Dense(nn.Module):
    """Segments an image into red, green and blue, and returns a dictionary as torchvision's models do."""

    pretrained_cfg = CONFIG

    def __init__(self):
        super().__init__()
        self.inner = classifier()[0]

    def forward(self, x):
        return {"out": self.inner(x)}


def dense():
    return Dense()


class Detector(nn.Module):
    """Four boxes of fixed places; two classes and "no object" of each, as transformers' detectors return them."""

    pretrained_cfg = CONFIG

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.classes = nn.Linear(4, 12)
        self.register_buffer("boxes", torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]]).repeat(2, 1))

    def forward(self, x):
        logits = self.classes(self.body(x).mean((2, 3))).unflatten(1, (4, 3))
        return {"logits": logits, "pred_boxes": self.boxes.expand(len(x), -1, -1)}


def detector():
    return Detector()


def single_logit():
    """Whether an image is red."""
    model = Ending(nn.Linear(3, 1))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.3, -0.2, -0.2]]))
        model[1].bias.fill_(0.1)
    return model


class Ending(nn.Sequential):
    """The classifier, and what follows it."""

    pretrained_cfg = CONFIG

    def __init__(self, last):
        super().__init__(Classifier(), last)
