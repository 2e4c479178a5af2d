"""Composing two privacy loss distributions as dp-accounting does, in less time.

dp-accounting looks for where a tail may be cut one atom at a time in Python, and transforms both
distributions anew for each convolution. Here tails are cut by arrays, and the transform of what is
composed again and again is kept, for lengths that grow by steps. The forty moments that bound the
tails of a power follow from one another by multiplication, and take less time than its transform
instead of ten times as much. All are convolutions by FFT, and differ by rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from dp_accounting.pld import pld_pmf
from dp_accounting.pld import privacy_loss_distribution as plds
from numpy.typing import NDArray
from scipy import fft

Pld: TypeAlias = Any
"""``dp_accounting``'s PrivacyLossDistribution; the library ships no types."""

TAILS = 1e-15
"""Mass of both tails that may be cut: the lower is rounded up, the upper becomes infinite."""

_MOST_KEPT, _ORDERS = 4, 20
_SPARSE = math.log(1000)
_FIRST = 8192


def compose(one: Pld, other: Pld) -> Pld:
    """The distribution of the sum of two losses; equals ``one.compose(other)`` to rounding.

    Args:
        one: pessimistic, on a grid.
        other: on the same grid; its transform is kept for the next time.
    """
    sides = [_convolved(one._pmf_remove, other._pmf_remove)]
    if not (one._symmetric and other._symmetric):
        sides.append(_convolved(one._pmf_add, other._pmf_add))
    return plds.PrivacyLossDistribution(*sides)


def composed_of(factors: Iterable[Pld]) -> Pld:
    """The distribution of the sum of all losses, neighbours first so that lengths grow together.

    Args:
        factors: one or more, on the same grid; they are taken one by one, so that those of a long
            history need not be held at once.
    """
    sums: list[tuple[int, Pld]] = []  # of 2^level neighbours each, levels falling
    for factor in factors:
        level, total = 0, factor
        while sums and sums[-1][0] == level:
            level, total = level + 1, compose(sums.pop()[1], total)
        sums.append((level, total))
    _, total = sums.pop()
    while sums:
        total = compose(sums.pop()[1], total)
    return total


def self_compose(one: Pld, count: int) -> Pld:
    """The distribution of the sum of ``count`` losses; ``one.self_compose(count)`` to rounding.

    Args:
        one: pessimistic, on a grid.
        count: 1 or more.
    """
    if count == 1:
        return one
    sides = [_power(one._pmf_remove, count)]
    if not one._symmetric:
        sides.append(_power(one._pmf_add, count))
    return plds.PrivacyLossDistribution(*sides)


def _power(one: pld_pmf.PLDPmf, count: int) -> pld_pmf.PLDPmf:
    if isinstance(one, pld_pmf.SparsePLDPmf) and count * math.log(one.size) < _SPARSE:
        return one.self_compose(count, TAILS)
    dense = one.to_dense_pmf()
    probs = np.asarray(dense._probs)
    lowest, highest = _bounds(probs, count)
    size = highest - lowest + 1
    length = fft.next_fast_len(max(size, len(probs)), real=True)
    # What lies beyond the bounds wraps around, and is billed as infinite as well.
    wrapped = fft.irfft(fft.rfft(probs, length) ** count, length)
    kept = np.roll(wrapped, -lowest)[:size]
    infinite = TAILS - math.expm1(count * math.log1p(-dense._infinity_mass))
    start = dense._lower_loss * count + lowest
    return pld_pmf.DensePLDPmf(dense._discretization, start, kept, infinite, True)


def _bounds(probs: NDArray[np.float64], count: int) -> tuple[int, int]:
    """First and last atom of a power, but for a mass of ``TAILS``, by Chernoff's bound.

    Moments of orders k / n, as dp-accounting takes them; ``exp(k i / n)`` is a power of
    ``exp(i / n)``, at most e^20.

    Args:
        probs: ``(n,)``.
        count: of the power.
    """
    n, spare = len(probs), math.log(2 / TAILS)
    rising = np.exp(np.arange(n) / n)
    up, down, sums = probs, probs, np.empty((2, _ORDERS))
    for order in range(_ORDERS):
        up, down = up * rising, down / rising
        sums[:, order] = up.sum(), down.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        above, below = (count * np.log(sums) + spare) * n / np.arange(1, _ORDERS + 1)
    ends = np.ceil(above[np.isfinite(above)]), np.floor(-below[np.isfinite(below)])
    return int(ends[1].max(initial=0)), int(ends[0].min(initial=(n - 1) * count))


def _convolved(one: pld_pmf.PLDPmf, other: pld_pmf.PLDPmf) -> pld_pmf.PLDPmf:
    if isinstance(one, pld_pmf.SparsePLDPmf) and isinstance(other, pld_pmf.SparsePLDPmf):
        return pld_pmf.compose_pmfs(one, other, TAILS)
    a, b = one.to_dense_pmf(), other.to_dense_pmf()
    a.validate_composable(b)
    probs = _sums(np.asarray(a._probs), b)
    infinite = a._infinity_mass + b._infinity_mass - a._infinity_mass * b._infinity_mass
    left = min(prefix(probs), len(probs) - 1)
    right = max(len(probs) - prefix(probs[::-1]), left + 1)
    kept = probs[left:right].copy()
    kept[0] += np.sum(probs[:left])
    infinite += np.sum(probs[right:])
    lowest = a._lower_loss + b._lower_loss + left
    return pld_pmf.DensePLDPmf(a._discretization, lowest, kept, infinite, True)


def _sums(probs: NDArray[np.float64], other: pld_pmf.DensePLDPmf) -> NDArray[np.float64]:
    """Probabilities of the sums of two losses, by FFT."""
    size = len(probs) + other.size - 1
    length = fft.next_fast_len(step_up(size), real=True)
    transformed = fft.rfft(probs, length) * spectrum(other, length)
    return np.asarray(fft.irfft(transformed, length)[:size])


def step_up(size: int) -> int:
    """At least ``size``, by a quarter more at most, so that few lengths occur."""
    unit = 1 << max(0, size.bit_length() - 3)
    return -(-size // unit) * unit


# Of the last distributions the last transform: the lengths of a curve only grow. Two rounds of two
# directions: a curve whose rounds all differ would otherwise keep a long transform of each.
_kept: WeakKeyDictionary[pld_pmf.DensePLDPmf, tuple[int, NDArray[np.complex128]]] = (
    WeakKeyDictionary()
)


def spectrum(one: pld_pmf.DensePLDPmf, length: int) -> NDArray[np.complex128]:
    """Transform of a distribution padded to ``length`` atoms; the last few are kept."""
    found = _kept.get(one)
    if found is None or found[0] != length:
        found = length, np.asarray(fft.rfft(one._probs, length))
        while len(_kept) >= _MOST_KEPT:
            _kept.pop(next(iter(_kept)), None)
        _kept[one] = found
    return found[1]


def prefix(probs: NDArray[np.float64], tails: float = TAILS) -> int:
    """How many of the first atoms have no more than half of ``tails`` together."""
    size = _FIRST
    while True:  # tails are short: few atoms are summed in vain
        beyond = np.cumsum(probs[:size]) > tails / 2
        if beyond.any():
            return int(np.argmax(beyond))
        if size >= len(probs):
            return len(probs)
        size *= 4
