"""Whether numbers are numbers: asked of every update, several times on its way."""

from __future__ import annotations

import math

import torch


def all_finite(values: torch.Tensor) -> bool:
    """Whether no value of a tensor of any shape is NaN or infinite.

    A finite sum has no other summands, and one sum takes a tenth of the time of looking at each
    value, which is left for sums that are not finite: finite values can overflow together.
    """
    return math.isfinite(float(values.sum())) or bool(torch.isfinite(values).all())
