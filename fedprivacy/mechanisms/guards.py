"""What every mechanism refuses: an update that it cannot protect never leaves the site."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

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


def checked_values(update: NDArray[np.float64], filter_name: str) -> NDArray[np.float64]:
    """The ``(d,)`` update as float64, for a filter that is called with an array.

    Integers become floats: noise added in their type would be cut off.

    Raises:
        ProtectionError: not a numeric array, not flat, empty, or not finite; nothing may leave.
    """
    if not isinstance(update, np.ndarray) or update.dtype.kind not in "fiu":
        kind = getattr(update, "dtype", type(update).__name__)
        raise ProtectionError(f"{filter_name} filter: the update is {kind}; nothing was sent")
    if update.ndim != 1 or update.size == 0 or not np.isfinite(update).all():
        raise ProtectionError(
            f"{filter_name} filter: the update is not finite and flat; nothing was sent"
        )
    return update.astype(np.float64)


def check_steps(steps: int, filter_name: str) -> None:
    """Refuse a number of local steps that nothing can be divided by.

    Raises:
        ProtectionError: below 1, or not a finite number.
    """
    if not (math.isfinite(steps) and steps >= 1):
        raise ProtectionError(f"{filter_name} filter: steps={steps}; nothing was sent")
