"""Which machine, and which versions, measured."""

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import lm_plugins as lm
from benchmarks.speed.settings import Settings

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


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found.group(1).strip() if found else platform.processor() or platform.machine()
