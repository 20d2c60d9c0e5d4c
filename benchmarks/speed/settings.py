"""What a run of the benchmark is asked to do."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Settings:
    """The options that every section needs.

    Args:
        device: Where everything runs.
        threads: Of torch, on the CPU.
        models: Names of `benchmarks.speed.subjects.MODELS`.
        rounds: Times that each forward pass is measured.
        quick: Measure a small part, to see that everything works.
        full: Combine all batch sizes, fractions and features for every model.
        seed: Of weights, images and masks.
    """

    device: torch.device
    threads: int
    models: tuple[str, ...]
    rounds: int = 3
    quick: bool = False
    full: bool = False
    seed: int = 0
