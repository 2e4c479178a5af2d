"""Composing two privacy loss distributions: dp-accounting's convolution, its tails cut by arrays.

dp-accounting looks for where a tail may be cut one atom at a time in Python, which takes longer
than the convolution itself. These are the same sums in the same order, so the same cuts and the
same bits; a curve over a hundred rounds, a convolution for each, takes half the time.
"""

from __future__ import annotations

import numpy as np
from dp_accounting.pld import pld_pmf
from dp_accounting.pld import privacy_loss_distribution as plds
from numpy.typing import NDArray

from fedprivacy.accounting.pld import Pld

TAILS = 1e-15
"""Mass of both tails that may be cut: the lower is rounded up, the upper becomes infinite."""

_FIRST = 1024


def compose(one: Pld, other: Pld) -> Pld:
    """The distribution of the sum of two losses; equals ``one.compose(other)`` bit by bit.

    Args:
        one: pessimistic, on a grid.
        other: on the same grid.
    """
    sides = [_convolved(one._pmf_remove, other._pmf_remove)]
    if not (one._symmetric and other._symmetric):
        sides.append(_convolved(one._pmf_add, other._pmf_add))
    return plds.PrivacyLossDistribution(*sides)


def _convolved(one: pld_pmf.PLDPmf, other: pld_pmf.PLDPmf) -> pld_pmf.PLDPmf:
    if isinstance(one, pld_pmf.SparsePLDPmf) and isinstance(other, pld_pmf.SparsePLDPmf):
        return pld_pmf.compose_pmfs(one, other, TAILS)
    whole = one.to_dense_pmf().compose(other.to_dense_pmf())
    probs = whole._probs
    left = _prefix(probs)
    right = max(len(probs) - _prefix(probs[::-1]), left + 1)
    kept = probs[left:right].copy()
    kept[0] += np.sum(probs[:left])
    infinite = whole._infinity_mass + np.sum(probs[right:])
    lowest = whole._lower_loss + left
    return pld_pmf.DensePLDPmf(whole._discretization, lowest, kept, infinite, True)


def _prefix(probs: NDArray[np.float64]) -> int:
    """How many of the first atoms have no more than half of ``TAILS`` together."""
    size = _FIRST
    while True:  # tails are short: few atoms are summed in vain
        beyond = np.cumsum(probs[:size]) > TAILS / 2
        if beyond.any():
            return int(np.argmax(beyond))
        if size >= len(probs):
            return len(probs)
        size *= 4
