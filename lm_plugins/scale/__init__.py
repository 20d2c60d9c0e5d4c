"""Explanations of a data set: on one machine or many, whole or resumed, read back without loops."""

import importlib
from typing import Any

_FROM = {
    "DataSetResults": "results",
    "explain": "explaining",
    "images_of": "sources",
    "open_results": "results",
    "write_gallery": "gallery",
}

__all__ = ["DataSetResults", "explain", "images_of", "open_results", "write_gallery"]


def __getattr__(name: str) -> Any:
    # The methods and the decoding of images, which the command line uses too, need none of what results are stored with.
    if name not in _FROM:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{_FROM[name]}"), name)
