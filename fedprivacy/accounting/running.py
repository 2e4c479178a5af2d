"""The total privacy loss after each of many rounds, at one inverse transform a round.

The transform of the total is multiplied by that of each further round and turned back, so that a
round costs half a convolution. Once the total no longer fits the transform's length it is
transformed anew, at a length that serves some more rounds. Totals longer than ``LONGEST`` are
rounded up to a grid twice as coarse, so that no round costs more than a transform of about that
length: the time of a curve is proportional to its rounds.
"""

from __future__ import annotations

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

LONGEST = 1 << 15
"""Atoms of a total; rounding a longer one up adds no more than 1/16,000 of the span of its loss."""


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
        """Round every loss up to a grid twice as coarse."""
        if self._total is None:
            return
        old, self._length = self._total, 0
        lowest = (old._lower_loss + 1) // 2
        probs = np.zeros(2 * (old.size // 2 + 1))
        start = 1 - (old._lower_loss % 2)  # an even loss is the upper one of its pair
        probs[start : start + old.size] = old._probs
        self._total = pld_pmf.DensePLDPmf(
            2 * old._discretization, lowest, probs.reshape(-1, 2).sum(1), old._infinity_mass, True
        )

    def add(self, one: pld_pmf.DensePLDPmf) -> pld_pmf.DensePLDPmf:
        """The total with one more loss on the same grid."""
        total = self._total
        if total is None:
            self._total = one
            return one
        total.validate_composable(one)
        lowest, size = total._lower_loss + one._lower_loss, total.size + one.size - 1
        if size > self._length:
            self._begin(total, size)
        found = self._turned_back(one, lowest, size)
        left = prefix(found, TAILS)
        right = max(size - prefix(found[::-1], TAILS), left + 1)
        # What is cut here stays in the transform: next time it is a mass of TAILS beyond what is
        # looked at, and wraps around to wherever it may. All of it is billed as infinite.
        self._cut += TAILS
        infinite = min(1.0, 1 - self._finite + self._cut)
        self._total = pld_pmf.DensePLDPmf(
            one._discretization, lowest + left, found[left:right].copy(), infinite, True
        )
        return self._total

    def _begin(self, total: pld_pmf.DensePLDPmf, size: int) -> None:
        """Transform the total so far, at a length for ``size`` atoms and some more."""
        self._length = fft.next_fast_len(step_up(size), real=True)
        self._spectrum = fft.rfft(np.asarray(total._probs), self._length)
        self._first = total._lower_loss
        self._finite, self._cut = 1 - float(total._infinity_mass), 0.0

    def _turned_back(self, one: pld_pmf.DensePLDPmf, lowest: int, size: int) -> Floats:
        """Probabilities of ``size`` losses from ``lowest`` on, once ``one`` is added."""
        self._spectrum = self._spectrum * spectrum(one, self._length)
        self._first += one._lower_loss
        self._finite *= 1 - float(one._infinity_mass)
        turned = fft.irfft(self._spectrum, self._length)
        start = (lowest - self._first) % self._length
        if start + size <= self._length:
            return np.asarray(turned[start : start + size])
        return np.concatenate([turned[start:], turned[: start + size - self._length]])
