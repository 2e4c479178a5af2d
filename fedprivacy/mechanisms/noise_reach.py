"""How far the noise of each step reaches into the weights that leave the site."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedprivacy.training.task import OptimizerSpec


def noise_in_weights(
    optimizer: OptimizerSpec, sigmas: Sequence[float], size: int, ema: float = 0.0
) -> float:
    """Expected L2 norm of what the steps' noise adds to the weights of ``size`` scalars.

    SGD with momentum m: the noise of step t (of T) reaches the weights of step s >= t with the
    factor ``lr (1 - m^(s - t + 1)) / (1 - m)``; the average of the weights with decay a takes
    these with weights proportional to ``a^(T - s)``. The noise's effect on later gradients is not
    counted.

    Args:
        optimizer: the local optimiser.
        sigmas: standard deviation of the noise in each step's gradient, in their order.
        size: d.
        ema: decay of the average of the weights; 0: the last weights alone.

    Returns:
        0.0 for Adam: its normalisation mixes signal and noise, so no such figure exists.
    """
    if optimizer.name != "sgd":
        return 0.0
    reach = averaged = square = total = 0.0
    for sigma in reversed(sigmas):
        reach = optimizer.momentum * reach + 1
        averaged = ema * averaged + reach
        total = ema * total + 1
        square += (sigma * averaged) ** 2
    return optimizer.lr * math.sqrt(size * square) / total if total else 0.0
