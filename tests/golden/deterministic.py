"""Weights, images and masks behind the logits of the published code beside this file: of names, shapes and seeds only."""

import zlib

import numpy as np
import torch


def fill(model: torch.nn.Module) -> torch.nn.Module:
    """Give a torchvision model weights that depend only on parameter names and shapes; returns it in eval mode."""
    state = model.state_dict()
    for name, t in state.items():
        if not t.dtype.is_floating_point:
            continue
        r = np.random.RandomState(zlib.crc32(name.encode()))
        if name.endswith("running_mean"):
            v = r.normal(0, 0.1, t.shape)
        elif name.endswith("running_var") or (t.dim() == 1 and name.endswith("weight")):
            v = r.uniform(0.5, 1.5, t.shape)
        elif t.dim() == 1:
            v = r.normal(0, 0.1, t.shape)
        else:
            fan_in = int(np.prod(t.shape[1:]))
            v = r.normal(0, (2.0 / fan_in) ** 0.5, t.shape)
        state[name] = torch.from_numpy(np.asarray(v, dtype=np.float32))
    model.load_state_dict(state)
    return model.eval()


def image(n: int = 2, size: int = 224) -> torch.Tensor:
    """Noise ``(n, 3, size, size)``."""
    return torch.from_numpy(np.random.RandomState(0).normal(0, 1, (n, 3, size, size)).astype(np.float32))


def masks(n: int = 2, size: int = 224) -> torch.Tensor:
    """``(n, 1, size, size)`` float, 1 = visible, about half: random 16x16 patches (even index), Voronoi cells (odd)."""
    r = np.random.RandomState(1)
    out = []
    for i in range(n):
        if i % 2 == 0:
            g = r.rand(size // 16, size // 16) > 0.5
            m = np.kron(g, np.ones((16, 16), bool))
        else:
            p = r.rand(60, 2) * size
            keep = r.rand(60) > 0.5
            yy, xx = np.mgrid[:size, :size]
            d = (yy[..., None] - p[:, 0]) ** 2 + (xx[..., None] - p[:, 1]) ** 2
            m = keep[d.argmin(-1)]
        out.append(m)
    return torch.from_numpy(np.stack(out)[:, None].astype(np.float32))
