"""Rounding of calibrated noise: up, so that it never proves less than it was calibrated for."""

from __future__ import annotations

import math

DIGITS = 5
"""Significant digits of the noise: a few last bits must not make another cell."""


def rounded_up(value: float) -> float:
    """A number above 0, rounded up to ``DIGITS`` significant digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - DIGITS + 1)
    # Through text, so that the number is the one that its digits name.
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.{DIGITS}g}")
