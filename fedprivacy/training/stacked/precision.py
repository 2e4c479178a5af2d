"""In which precision models are run forward and backward."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

PRECISIONS = ("float32", "bf16")


def model_precision(name: str, device: torch.device) -> AbstractContextManager[object]:
    """A context in which matrix products and convolutions run in that precision.

    Parameters, losses, gradients that are summed, norms, clipping and noise stay float32: what a
    record contributes is measured on the very numbers that are summed, so that its bound holds
    however coarsely they were computed.

    Args:
        name: ``float32`` or ``bf16``.
        device: where the model runs.
    """
    if name == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
