"""Which machine, and which versions, measured; and an allocator that treats all alike."""

import ctypes
import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import lm_plugins as lm
from benchmarks.speed.settings import Settings

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
PACKAGES = ("torch", "torchvision", "captum", "lime", "shap", "numpy", "scikit-learn")


def machine(settings: Settings) -> dict[str, Any]:
    """Processor, cores, threads, load and system, and the GPU if there is one in use."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": settings.threads,
        "load before": load,
        "system": platform.system(),
        "device": str(settings.device),
    }
    if settings.device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(settings.device)
        found["cuda"] = torch.version.cuda
        found["tf32"] = torch.backends.cudnn.allow_tf32
    return found


def versions() -> dict[str, str]:
    """Of Python and of what was measured."""
    return {
        "python": platform.python_version(),
        "lm_plugins": lm.__version__,
        **{name: metadata.version(name) for name in PACKAGES},
    }


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed, where it can: glibc. Returns whether it does.

    By default it hands large blocks back to the system, or not, depending on the order in which a process happened to take
    them. Fetching them again, page by page, takes up to a quarter of a forward pass, of the plain model as of any other.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found.group(1).strip() if found else platform.processor() or platform.machine()
