"""Short texts and seeds that stand for what numbers depend on."""

import hashlib
from typing import Any

import torch
from torch import Tensor

__all__ = ["digest", "seed_from"]


def digest(tensor: Tensor) -> str:
    """The content of a tensor in 16 letters."""
    flat = tensor.detach().cpu().contiguous()
    raw = flat.reshape(-1).view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return hashlib.sha256(f"{flat.dtype} {tuple(flat.shape)} ".encode() + raw).hexdigest()[:16]


def seed_from(*key: Any) -> int:
    """A seed from anything that has a stable text."""
    return int.from_bytes(hashlib.sha256("\n".join(map(str, key)).encode()).digest()[:6], "big")
