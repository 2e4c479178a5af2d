"""How alike a reconstruction is to its original."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]

_SIGMA, _TRUNCATE = 1.5, 3.5  # a window of 11 along each axis
_K1, _K2 = 0.01, 0.03


def structural_similarity(one: Floats, other: Floats, data_range: float) -> float:
    """Mean structural similarity of two images or volumes, 1 for equal ones.

    Wang, Bovik, Sheikh & Simoncelli 2004, equation 13, Gaussian window of 11 and deviation 1.5;
    windows at the rim see the mirrored image.

    Args:
        one: ``(h, w)`` or ``(d, h, w)``.
        other: of the same shape.
        data_range: largest minus smallest value that is possible.
    """
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2

    def mean(values: Floats) -> Floats:
        return np.asarray(ndimage.gaussian_filter(values, _SIGMA, truncate=_TRUNCATE))

    a, b = mean(one), mean(other)
    spread_a, spread_b = mean(one * one) - a * a, mean(other * other) - b * b
    shared = mean(one * other) - a * b
    top = (2 * a * b + c1) * (2 * shared + c2)
    bottom = (a * a + b * b + c1) * (spread_a + spread_b + c2)
    return float(np.mean(top / bottom))


def cosine_similarity(one: Floats, other: Floats) -> float:
    """Cosine of the angle between two rows; 0 where one of them is zero."""
    norms = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one.ravel() @ other.ravel()) / norms if norms > 0 else 0.0


def relative_error(original: Floats, found: Floats) -> float:
    """L2 distance over the original's norm; infinite for an original of zero."""
    norm = float(np.linalg.norm(original))
    return float(np.linalg.norm(original - found)) / norm if norm > 0 else float("inf")


def leakage_value(with_attack: float, with_prior: float) -> float | None:
    """Relative data leakage value of one reconstruction.

    (SIM(x, r) - SIM(x, p)) / SIM(x, p), p a public prior: what the attacker has without the
    gradient (Hatamizadeh et al. 2023, arXiv 2202.06924, equation 4): 0 is no better than the
    prior, negative is worse. The search starts from it, as there, and from mid-range
    too. None where the prior is unlike the original altogether: the ratio means nothing then.

    Args:
        with_attack: similarity of the original to the reconstruction.
        with_prior: similarity of the original to the public prior.
    """
    return None if with_prior <= 0 else (with_attack - with_prior) / with_prior
