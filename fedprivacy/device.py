"""Which device trains: CUDA where there is one, the CPU otherwise."""

from __future__ import annotations

import torch

from fedprivacy.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda")


def resolve_device(name: str) -> torch.device:
    """The device that ``device=auto|cpu|cuda`` means on this machine.

    Raises:
        ConfigError: cuda was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(
            "device", name, "cuda needs a CUDA device that torch can see", "device=auto or cpu"
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")
