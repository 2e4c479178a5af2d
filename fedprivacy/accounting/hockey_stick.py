"""Reading a privacy loss distribution: epsilon at a delta, delta at an epsilon, by whole arrays.

dp-accounting composes and rounds the distributions; what it reads off them it finds one atom of the
distribution at a time. These are the same sums in the same order, over arrays, a hundred times
faster, which is what an epsilon for each of a hundred rounds needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedprivacy.accounting.convolution import Pld

Floats = NDArray[np.float64]

_ENOUGH, _BLOCK = 64, 512


def epsilon_at(distribution: Pld, delta: float) -> float:
    """Smallest epsilon >= 0 at which the hockey-stick divergence is at most delta; may be infinite.

    Equals ``distribution.get_epsilon_for_delta(delta)``, to rounding.

    Args:
        distribution: of all releases together.
        delta: from 0 to 1.
    """
    return max(_epsilon(atoms, delta) for atoms in _directions(distribution))


def deltas_at(distribution: Pld, epsilons: ArrayLike) -> Floats:
    """The hockey-stick divergence at each epsilon.

    Equals ``distribution.get_delta_for_epsilon(epsilons)``, to rounding.

    Args:
        distribution: of all releases together.
        epsilons: ``(n,)`` from 0 up, in any order; may be infinite.
    """
    wanted = np.asarray(epsilons, dtype=float)
    found = [_deltas(atoms, wanted) for atoms in _directions(distribution)]
    return np.asarray(np.max(found, axis=0), dtype=float)


@dataclass(frozen=True)
class _Atoms:
    """Positive losses, descending, with their probabilities; smaller ones count for no epsilon.

    Attributes:
        losses: ``(n,)``.
        probs: ``(n,)`` under the first of both distributions.
        ratios: ``(n,)`` ``exp(-losses)``, of the second distribution's probability to the first's.
        infinite: mass at infinity.
    """

    losses: Floats
    probs: Floats
    ratios: Floats
    infinite: float

    def first(self, size: int) -> _Atoms:
        """The largest losses alone."""
        return replace(
            self, losses=self.losses[:size], probs=self.probs[:size], ratios=self.ratios[:size]
        )


def _directions(distribution: Pld) -> Iterator[_Atoms]:
    """The atoms for removal and, where they differ, for addition."""
    sides = [distribution._pmf_remove]
    if not distribution._symmetric:
        sides.append(distribution._pmf_add)
    for side in sides:
        dense = side.to_dense_pmf()
        first = max(1, dense._lower_loss)
        end = max(first, dense._lower_loss + dense.size)
        losses = np.arange(first, end)[::-1] * dense._discretization
        ratios = _ratios(dense._discretization, 1 << end.bit_length())[first:end][::-1]
        probs = np.asarray(dense._probs)[first - dense._lower_loss :][::-1]
        yield _Atoms(losses, probs, ratios, float(dense._infinity_mass))


@lru_cache(maxsize=2)
def _ratios(interval: float, size: int) -> Floats:
    """``exp`` of the opposites of the first losses of a grid from 0 up."""
    with np.errstate(under="ignore"):
        return np.asarray(np.exp(-(np.arange(size) * interval)), dtype=np.float64)


def _masses(atoms: _Atoms) -> tuple[Floats, Floats]:
    """Mass of both distributions above each loss, ``(n + 1,)``: before the first, ..., after all.

    delta(epsilon) = upper - exp(epsilon) lower, of what lies above epsilon (Koskela, Jaelkoe &
    Honkela 2020, arXiv 1906.03049, lemma 5).
    """
    lower = np.concatenate([[0.0], np.cumsum(atoms.ratios * atoms.probs)])
    return np.cumsum(np.concatenate([[atoms.infinite], atoms.probs])), lower


def _epsilon(atoms: _Atoms, delta: float) -> float:
    if atoms.infinite > delta:
        return math.inf
    if not len(atoms.probs):
        return 0.0
    # The answer lies where not much more than delta is above; all the rest is summed in vain.
    blocks = np.add.reduceat(atoms.probs, np.arange(0, len(atoms.probs), _BLOCK))
    enough = np.cumsum(blocks) > _ENOUGH * delta
    size = _BLOCK * (int(np.argmax(enough)) + 1)
    found = _among(atoms.first(size), delta, False) if enough.any() else None
    if found is None:
        found = _among(atoms, delta, True)
    assert found is not None
    return found


def _among(atoms: _Atoms, delta: float, whole: bool) -> float | None:
    """Epsilon if it follows from these largest losses; None if not, unless they are all."""
    (upper, lower), losses = _masses(atoms), atoms.losses
    # Where no more than delta is above, nothing is left for the other distribution.
    more = upper > delta
    start = int(np.argmax(more)) if more.any() else len(losses)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        root = np.log((upper[start:] - delta) / lower[start:])
    stops = more[start:-1] & (lower[start:-1] > 0) & (root[:-1] >= losses[start:])
    stopped = bool(stops.any())
    at = start + int(np.argmax(stops)) if stopped else len(losses)
    # Losses so large that exp(-loss) is 0: the divergence falls below delta between two of them.
    beyond = (upper[1 : at + 1] >= delta) & (lower[1 : at + 1] == 0)
    if beyond.any():
        return max(0.0, float(losses[int(np.argmax(beyond))]))
    if not (stopped or whole):
        return None
    if upper[at] <= lower[at] + delta:
        return 0.0
    return max(0.0, float(root[at - start]))


def _deltas(atoms: _Atoms, epsilons: Floats) -> Floats:
    upper, lower = _masses(atoms)
    above = np.searchsorted(-atoms.losses, -epsilons, side="left")
    # Beyond epsilon 709 exp(epsilon) overflows; its product with the mass need not. A mass that has
    # become 0, or less by the rounding of a convolution, leaves an upper bound.
    with np.errstate(divide="ignore", invalid="ignore"):
        found = upper[above] - np.exp(epsilons + np.log(np.maximum(lower[above], 0.0)))
    return np.where(np.isposinf(epsilons), atoms.infinite, found)
