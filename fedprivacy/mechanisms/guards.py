"""What every mechanism refuses: an update that it cannot protect never leaves the site."""

from __future__ import annotations

import torch

from fedprivacy.errors import ProtectionError


def check_update(update: torch.Tensor) -> None:
    """Fail closed on anything but a finite, non-empty ``(d,)`` float32 vector.

    Raises:
        ProtectionError: says what is wrong; nothing may leave the site.
    """
    if not isinstance(update, torch.Tensor):
        raise ProtectionError(
            f"the update must be a torch tensor, got {type(update).__name__}; nothing was sent"
        )
    if update.ndim != 1:
        raise ProtectionError(
            f"the update must be one flat vector of all parameters, got shape "
            f"{tuple(update.shape)}; nothing was sent"
        )
    if update.dtype != torch.float32:
        raise ProtectionError(f"the update must be float32, got {update.dtype}; nothing was sent")
    if update.numel() == 0:
        raise ProtectionError("the update is empty; nothing was sent")
    bad = int((~torch.isfinite(update)).sum())
    if bad:
        raise ProtectionError(
            f"{bad} of {update.numel()} values of the update are NaN or infinite; nothing was "
            "sent. Training became non-finite: lower federation.lr."
        )
