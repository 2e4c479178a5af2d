"""The total privacy loss after each of many rounds, at one inverse transform a round.

The transform of the total is multiplied by that of each further round and turned back, so that a
round costs half a convolution. Once the total no longer fits the transform's length it is
transformed anew, at a length that serves some more rounds. Totals longer than ``LONGEST`` are
moved to a grid twice as coarse, so that the time of a curve is proportional to its rounds.

All of it is pessimistic but for the rounding of a transform, about 1e-16 of all mass. What is cut
off a total stays in its transform and may wrap around to anywhere: all of it is billed as infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from dp_accounting.pld import pld_pmf
from dp_accounting.pld import privacy_loss_distribution as plds
from numpy.typing import NDArray
from scipy import fft

from fedprivacy.accounting.convolution import Pld, prefix, spectrum, step_up

Floats = NDArray[np.float64]

TAILS = 1e-14
"""Mass of both tails that is cut in each round and billed as infinite, well above rounding."""

_LIVES = 64
"""Rounds after which a total is transformed anew, so that roundings do not add up."""

LONGEST = 1 << 15
"""Atoms of a total. Coarser grids lose little (second order), and only where losses are large."""


class RunningLoss:
    """The total of the losses of all rounds so far, in both directions of a relation.

    Attributes:
        interval: grid of the total, which coarsens as the total grows.
    """

    def __init__(self, interval: float) -> None:
        """Nothing is released yet."""
        self.interval = interval
        self._sides: list[_Direction] = []

    def add(self, round_on: Callable[[float], Pld]) -> Pld:
        """The distribution of the total with one more round.

        Args:
            round_on: gives the distribution of the round's loss, pessimistic, on a grid.
        """
        while any(side.size > LONGEST for side in self._sides):
            self.interval *= 2
            for side in self._sides:
                side.coarsen()
        one = round_on(self.interval)
        if not self._sides:
            self._sides = [_Direction()]
        if len(self._sides) == 1 and not one._symmetric:  # until now both directions were alike
            self._sides.append(self._sides[0].again())
        pmfs = (one._pmf_remove, one._pmf_add)
        sides = zip(self._sides, pmfs, strict=False)
        return plds.PrivacyLossDistribution(*(side.add(pmf.to_dense_pmf()) for side, pmf in sides))


class _Direction:
    """One direction's total, with the transform that it is carried on by."""

    _total: pld_pmf.DensePLDPmf | None = None
    _length = 0

    @property
    def size(self) -> int:
        """Atoms of the total."""
        return 0 if self._total is None else int(self._total.size)

    def again(self) -> _Direction:
        """Another with the same total."""
        other = _Direction()
        other._total = self._total
        return other

    def coarsen(self) -> None:
        """Move to a grid twice as coarse, each odd loss to both of its neighbours.

        An atom of loss l is split so that its probabilities under both distributions, p and
        p exp(-l), stay what they are. Whoever merges the two has the old atom again, so the new
        pair dominates the old one: dots are connected as by Doroshenko et al. 2022 (arXiv
        2207.04380, algorithm 1).
        """
        if self._total is None:
            return
        old, self._length = self._total, 0
        first = old._lower_loss - old._lower_loss % 2
        fine = np.zeros(2 * ((old._lower_loss + old.size - first) // 2) + 1)
        fine[old._lower_loss - first :][: old.size] = old._probs
        even, odd = fine[0::2].copy(), fine[1::2]
        upwards = 1 / (1 + math.exp(-old._discretization))
        even[:-1] += (1 - upwards) * odd
        even[1:] += upwards * odd
        self._total = pld_pmf.DensePLDPmf(
            2 * old._discretization, first // 2, even, old._infinity_mass, True
        )

    def add(self, one: pld_pmf.DensePLDPmf) -> pld_pmf.DensePLDPmf:
        """The total with one more loss on the same grid."""
        total = self._total
        if total is None:
            probs, lowest = np.asarray(one._probs), one._lower_loss
            infinite = min(1.0, TAILS + float(one._infinity_mass))
        else:
            total.validate_composable(one)
            lowest, size = total._lower_loss + one._lower_loss, total.size + one.size - 1
            if size > self._length or self._lived == _LIVES:
                self._begin(total, size)
            probs = self._turned_back(one, lowest, size)
            self._cut += TAILS
            infinite = min(1.0, self._cut - math.expm1(self._log_finite))
        left = min(prefix(probs, TAILS), len(probs) - 1)
        right = max(len(probs) - prefix(probs[::-1], TAILS), left + 1)
        self._total = pld_pmf.DensePLDPmf(
            one._discretization, lowest + left, probs[left:right].copy(), infinite, True
        )
        return self._total

    def _begin(self, total: pld_pmf.DensePLDPmf, size: int) -> None:
        """Transform the total so far, at a length for ``size`` atoms and some more."""
        self._length, self._lived = fft.next_fast_len(step_up(size), real=True), 0
        self._spectrum = fft.rfft(np.asarray(total._probs), self._length)
        self._first, self._cut = total._lower_loss, 0.0
        self._log_finite = _log_finite(total)

    def _turned_back(self, one: pld_pmf.DensePLDPmf, lowest: int, size: int) -> Floats:
        """Probabilities of ``size`` losses from ``lowest`` on, once ``one`` is added."""
        self._spectrum *= spectrum(one, self._length)
        self._first += one._lower_loss
        self._lived += 1
        self._log_finite += _log_finite(one)
        turned = fft.irfft(self._spectrum, self._length)
        start = (lowest - self._first) % self._length
        if start + size <= self._length:
            return np.asarray(turned[start : start + size])
        return np.concatenate([turned[start:], turned[: start + size - self._length]])


def _log_finite(one: pld_pmf.DensePLDPmf) -> float:
    """Log of the mass that is not at infinity."""
    infinite = float(one._infinity_mass)
    return math.log1p(-infinite) if infinite < 1 else -math.inf
