"""Reading a privacy loss distribution: epsilon at a delta, delta at an epsilon, by whole arrays.

dp-accounting composes and rounds the distributions; what it reads off them it finds one atom of the
distribution at a time. These are the same sums in the same order, over arrays, a hundred times
faster, which is what an epsilon for each of a hundred rounds needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedprivacy.accounting.pld import Pld

Floats = NDArray[np.float64]


def epsilon_at(distribution: Pld, delta: float) -> float:
    """Smallest epsilon >= 0 at which the hockey-stick divergence is at most delta; may be infinite.

    Equals ``distribution.get_epsilon_for_delta(delta)``, to rounding.

    Args:
        distribution: of all releases together.
        delta: from 0 to 1.
    """
    return max(_epsilon(*atoms, delta) for atoms in _directions(distribution))


def deltas_at(distribution: Pld, epsilons: ArrayLike) -> Floats:
    """The hockey-stick divergence at each epsilon.

    Equals ``distribution.get_delta_for_epsilon(epsilons)``, to rounding.

    Args:
        distribution: of all releases together.
        epsilons: ``(n,)`` from 0 up, in any order; may be infinite.
    """
    wanted = np.asarray(epsilons, dtype=float)
    found = [_deltas(*atoms, wanted) for atoms in _directions(distribution)]
    return np.asarray(np.max(found, axis=0), dtype=float)


def _directions(distribution: Pld) -> Iterator[tuple[Floats, Floats, float]]:
    """Positive losses, descending, their probabilities, the mass at infinity: removal, addition.

    Smaller losses count for no epsilon from 0 up.
    """
    sides = [distribution._pmf_remove]
    if not distribution._symmetric:
        sides.append(distribution._pmf_add)
    for side in sides:
        dense = side.to_dense_pmf()
        losses = (np.arange(dense.size) + dense._lower_loss) * dense._discretization
        kept = int(np.searchsorted(-losses[::-1], 0.0, side="left"))
        probs = np.asarray(dense._probs)[::-1]
        yield losses[::-1][:kept], probs[:kept], float(dense._infinity_mass)


def _masses(losses: Floats, probs: Floats, infinite: float) -> tuple[Floats, Floats]:
    """Mass of both distributions above each loss, ``(n + 1,)``: before the first, ..., after all.

    delta(epsilon) = upper - exp(epsilon) lower, of what lies above epsilon (Koskela, Jaelkoe &
    Honkela 2020, arXiv 1906.03049, lemma 5).
    """
    with np.errstate(over="ignore", under="ignore"):
        lower = np.concatenate([[0.0], np.cumsum(np.exp(-losses) * probs)])
    return np.cumsum(np.concatenate([[infinite], probs])), lower


def _epsilon(losses: Floats, probs: Floats, infinite: float, delta: float) -> float:
    if infinite > delta:
        return math.inf
    upper, lower = _masses(losses, probs, infinite)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        root = np.log((upper - delta) / lower)
    stops = (upper[:-1] > delta) & (lower[:-1] > 0) & (root[:-1] >= losses)
    at = int(np.argmax(stops)) if stops.any() else len(probs)
    # Losses so large that exp(-loss) is 0: the divergence falls below delta between two of them.
    beyond = (upper[1 : at + 1] >= delta) & (lower[1 : at + 1] == 0)
    if beyond.any():
        return max(0.0, float(losses[int(np.argmax(beyond))]))
    if upper[at] <= lower[at] + delta:
        return 0.0
    return max(0.0, float(root[at]))


def _deltas(losses: Floats, probs: Floats, infinite: float, epsilons: Floats) -> Floats:
    upper, lower = _masses(losses, probs, infinite)
    above = np.searchsorted(-losses, -epsilons, side="left")
    # Beyond epsilon 709 exp(epsilon) overflows; its product with the mass need not. A mass that has
    # become 0, or less by the rounding of a convolution, leaves an upper bound.
    with np.errstate(divide="ignore", invalid="ignore"):
        found = upper[above] - np.exp(epsilons + np.log(np.maximum(lower[above], 0.0)))
    return np.where(np.isposinf(epsilons), infinite, found)
