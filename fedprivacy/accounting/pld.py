"""Privacy loss distributions of histories, from dp-accounting, with pessimistic rounding.

Two gaps of dp-accounting 0.6 are closed here. Its PLD accountant ignores how often a randomised
response was applied, and refuses Laplace noise under replace_one; both follow from the same
definitions that it uses elsewhere (a noise multiplier is relative to the norm bounding one
contribution, so a replacement has sensitivity 2: it prices Gaussians that way).

The estimates are upper bounds: Doroshenko, Ghazi, Kamath, Kumar & Manurangsi 2022, "Connect the
Dots", with each direction of the neighbouring relation composed on its own and the worse taken
(Lebeda, Regehr, Kamath & Steinke 2024, arXiv 2405.20769).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from threading import Lock

import numpy as np
from cachetools import LRUCache, cached
from dp_accounting import NeighboringRelation
from dp_accounting import dp_event as dp
from dp_accounting.pld import privacy_loss_distribution as plds

from fedprivacy.accounting.convolution import Pld, composed_of, self_compose
from fedprivacy.accounting.history import History
from fedprivacy.accounting.mixtures import mixture_pld
from fedprivacy.accounting.units import Neighbouring
from fedprivacy.errors import AccountingError

RELATIONS: dict[Neighbouring, NeighboringRelation] = {
    "zero_out": NeighboringRelation.REPLACE_SPECIAL,
    "add_remove": NeighboringRelation.ADD_OR_REMOVE_ONE,
    "replace_one": NeighboringRelation.REPLACE_ONE,
}

MAX_GRID = 400_000
"""Points of the longest grid of losses; beyond it the grid is made coarser, still pessimistic."""

KEPT_BYTES = 1 << 26
"""Of distributions that are kept: those of some 200 rounds with another noise in each."""


def _bytes(distribution: Pld) -> int:
    return 16 * int(distribution._pmf_remove.size + distribution._pmf_add.size)


@lru_cache(maxsize=8)
def composed(parts: History, neighbouring: Neighbouring, interval: float) -> Pld:
    """The distribution of the total loss of a history on a grid of ``interval``.

    Raises:
        AccountingError: an event has no known distribution under this relation.
    """
    if not parts:
        return plds.identity(value_discretization_interval=interval)
    return composed_of(power(event, count, neighbouring, interval) for event, count in parts)


@cached(LRUCache(KEPT_BYTES, getsizeof=_bytes), lock=Lock(), info=True)
def power(event: dp.DpEvent, count: int, neighbouring: Neighbouring, interval: float) -> Pld:
    """The distribution of ``count`` applications of one elementary event."""
    return self_compose(_single(event, neighbouring, interval), count)


@lru_cache(maxsize=8)
def _single(event: dp.DpEvent, neighbouring: Neighbouring, interval: float) -> Pld:
    relation = RELATIONS[neighbouring]
    replaced = neighbouring == "replace_one"
    grid = {"value_discretization_interval": interval}
    if isinstance(event, dp.GaussianDpEvent):
        return plds.from_gaussian_mechanism(
            event.noise_multiplier, neighboring_relation=relation, **grid
        )
    if isinstance(event, dp.LaplaceDpEvent):
        return plds.from_laplace_mechanism(event.noise_multiplier / (2 if replaced else 1), **grid)
    if isinstance(event, dp.RandomizedResponseDpEvent) and neighbouring != "add_remove":
        return plds.from_randomized_response(
            event.noise_parameter, event.num_buckets, neighboring_relation=relation, **grid
        )
    if isinstance(event, dp.MixtureOfGaussiansDpEvent) and not replaced:
        return mixture_pld(
            event.standard_deviation, event.sensitivities, event.sampling_probs, interval
        )
    if isinstance(event, dp.TruncatedSubsampledGaussianDpEvent):
        return plds.from_truncated_subsampled_gaussian_mechanism(
            **_fields(event), neighboring_relation=relation, **grid
        )
    if isinstance(event, dp.PoissonSampledDpEvent):
        return _sampled(event, neighbouring, interval)
    raise AccountingError(f"{type(event).__name__} has no known bound under {neighbouring}")


def _fields(event: dp.TruncatedSubsampledGaussianDpEvent) -> dict[str, float | int]:
    return {
        "dataset_size": event.dataset_size,
        "sampling_probability": event.sampling_probability,
        "truncated_batch_size": event.truncated_batch_size,
        "noise_multiplier": event.noise_multiplier,
    }


def _sampled(event: dp.PoissonSampledDpEvent, neighbouring: Neighbouring, interval: float) -> Pld:
    inner, rate = event.event, event.sampling_probability
    if isinstance(inner, dp.GaussianDpEvent) and neighbouring != "replace_one":
        # A mixture of two; dp-accounting's own takes six times as long, point by point in Python.
        return mixture_pld(inner.noise_multiplier, (0.0, 1.0), (1.0 - rate, rate), interval)
    if isinstance(inner, dp.GaussianDpEvent):
        return plds.from_gaussian_mechanism(
            inner.noise_multiplier,
            sampling_prob=rate,
            neighboring_relation=RELATIONS[neighbouring],
            value_discretization_interval=interval,
        )
    if isinstance(inner, dp.LaplaceDpEvent) and neighbouring != "replace_one":
        return plds.from_laplace_mechanism(
            inner.noise_multiplier,
            sampling_prob=rate,
            value_discretization_interval=interval,
        )
    raise AccountingError(
        f"Poisson sampling of {type(inner).__name__} has no known bound under {neighbouring}"
    )


def interval_for(parts: History, neighbouring: Neighbouring, wanted: float) -> float:
    """``wanted``, or the coarser power-of-two multiple that keeps the grid within memory.

    Nearly noiseless mechanisms have losses in the millions; their bounds need no third decimal.
    """
    reach = math.fsum(_reach(event, count, neighbouring) for event, count in parts)
    excess = 2.0 * reach / (wanted * MAX_GRID)
    return wanted if excess <= 1 else wanted * 2.0 ** math.ceil(math.log2(excess))


def _reach(event: dp.DpEvent, count: int, neighbouring: Neighbouring) -> float:
    """About where the loss of ``count`` applications ends; it sizes the grid, it is no bound.

    Losses of mean m have variance about 2 m (exactly so for a Gaussian); nine deviations.
    """
    mean, largest = _mean_and_largest(event, 2.0 if neighbouring == "replace_one" else 1.0)
    return min(count * largest, count * mean + 9.0 * math.sqrt(2.0 * count * mean) + largest)


def _mean_and_largest(event: dp.DpEvent, sensitivity: float) -> tuple[float, float]:
    """Mean loss from above, and the largest loss but for about 1e-20 of the probability."""
    if isinstance(event, (dp.LaplaceDpEvent, dp.RandomizedResponseDpEvent)):
        loss = _pure_loss(event, sensitivity)
        return min(loss, loss**2 / 2), loss
    if isinstance(event, dp.PoissonSampledDpEvent):
        rate, inner = event.sampling_probability, event.event
        if isinstance(inner, dp.LaplaceDpEvent):
            loss = _pure_loss(inner, sensitivity)
            return rate * min(loss, loss**2 / 2), loss
        return _mixture_mean_and_largest(
            sensitivity / inner.noise_multiplier, (0.0, 1.0), (1 - rate, rate)
        )
    if isinstance(event, dp.MixtureOfGaussiansDpEvent):
        scale = sensitivity / event.standard_deviation
        return _mixture_mean_and_largest(scale, event.sensitivities, event.sampling_probs)
    return _mixture_mean_and_largest(sensitivity / event.noise_multiplier, (1.0,), (1.0,))


def pure_total(parts: History, neighbouring: Neighbouring) -> float:
    """Sum of the pure epsilons of a history; ``math.inf`` if any part of it has none.

    Basic composition (Dwork & Roth 2014, theorem 3.14); holds at every delta.
    """
    sensitivity = 2.0 if neighbouring == "replace_one" else 1.0
    if not all(isinstance(e, (dp.LaplaceDpEvent, dp.RandomizedResponseDpEvent)) for e, _ in parts):
        return math.inf
    return math.fsum(count * _pure_loss(event, sensitivity) for event, count in parts)


def _pure_loss(event: dp.DpEvent, sensitivity: float) -> float:
    if isinstance(event, dp.LaplaceDpEvent):
        return float(sensitivity / event.noise_multiplier)
    share = event.noise_parameter
    return math.log1p(event.num_buckets * (1 - share) / share)


def _mixture_mean_and_largest(
    scale: float, shifts: Sequence[float], shares: Sequence[float]
) -> tuple[float, float]:
    """The divergence is convex (first bound), and at most log(1 + chi^2) (second bound)."""
    means, weights = scale * np.asarray(shifts), np.asarray(shares)
    with np.errstate(over="ignore", invalid="ignore"):
        chi = float(weights @ np.expm1(np.multiply.outer(means, means)) @ weights)
        mean = min(float(weights @ means**2) / 2, math.log1p(max(chi, 0.0)))
    largest = float(means.max())
    return mean, largest**2 / 2 + 10.0 * largest
