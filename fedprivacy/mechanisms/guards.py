"""What every mechanism refuses: an update that it cannot protect never leaves the site."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from fedprivacy.errors import ProtectionError
from fedprivacy.finite import all_finite


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
    if not all_finite(update):
        bad = int((~torch.isfinite(update)).sum())
        raise ProtectionError(
            f"{bad} of {update.numel()} values of the update are NaN or infinite; nothing was "
            "sent. Training became non-finite: lower federation.lr."
        )


def check_values(values: NDArray[np.float64], who: str) -> None:
    """Fail closed on anything but a finite, non-empty ``(d,)`` float64 array.

    What ``check_update`` is to a mechanism, for those who call a filter's function by itself.

    Args:
        values: what is to be protected.
        who: the filter, for the message.

    Raises:
        ProtectionError: says what is wrong; nothing may leave the site.
    """
    if not isinstance(values, np.ndarray):
        raise ProtectionError(
            f"{who}: the update must be a numpy array, got {type(values).__name__}; nothing was "
            "sent"
        )
    if values.ndim != 1 or values.size == 0:
        raise ProtectionError(
            f"{who}: the update must be one flat vector of at least one value, got shape "
            f"{values.shape}; nothing was sent"
        )
    if values.dtype != np.float64:
        # Noise written into integers is cut off, down to the raw value.
        raise ProtectionError(
            f"{who}: the update must be float64, got {values.dtype}; nothing was sent. Convert a "
            "difference of weights with .astype(numpy.float64); counts are none."
        )
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise ProtectionError(
            f"{who}: the update is not finite: {bad} of {values.size} values are NaN or infinite; "
            "nothing was sent"
        )


def check_noisy(values: NDArray[np.float64], who: str) -> NDArray[np.float64]:
    """The protected ``(d,)`` values, which may not have overflown.

    Raises:
        ProtectionError: a value is NaN or infinite.
    """
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise ProtectionError(
            f"{who}: {bad} of {values.size} protected values are NaN or infinite: the noise or the "
            "update is too large for a number; nothing was sent"
        )
    return values


def check_steps(steps: int, who: str) -> None:
    """Refuse a number of local steps that is not a whole number of at least 1.

    Raises:
        ProtectionError: names the number.
    """
    if not (isinstance(steps, int | np.integer) and steps >= 1):
        raise ProtectionError(
            f"{who}: steps={steps!r}, allowed is a whole number of at least 1; nothing was sent"
        )


def check_strength(strength: float, who: str) -> None:
    """Refuse a strength that no schedule gives.

    Raises:
        ProtectionError: names the strength.
    """
    if not (math.isfinite(strength) and strength >= 0):
        raise ProtectionError(
            f"{who}: strength={strength}, allowed is a finite number from 0 up; nothing was sent"
        )
