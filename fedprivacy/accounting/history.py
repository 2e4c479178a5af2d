"""Histories: how often each elementary mechanism was applied, whatever the order.

Adaptive composition of dominating pairs does not depend on the order, so a list of events is
priced by counting equal ones. Gaussians on the same data compose exactly to one Gaussian with
precision added (Dong, Roth & Su 2022, corollary 3.3: mu = sqrt(sum mu_i^2)).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from dp_accounting import dp_event as dp

from fedprivacy.errors import AccountingError

History = tuple[tuple[dp.DpEvent, int], ...]
"""Elementary events with their counts, in a canonical order; can be hashed."""


def history(events: Iterable[dp.DpEvent]) -> History | None:
    """Count the elementary events; None where something was released without protection.

    Args:
        events: canonical events (``dp_events.canonical``).

    Raises:
        AccountingError: sampling is applied to something whose amplification is not known.
    """
    return _history(tuple(events))


@lru_cache(maxsize=4096)
def _history(events: tuple[dp.DpEvent, ...]) -> History | None:
    """See ``history``; sites and rounds of a cell mostly have equal events."""
    counts: Counter[dp.DpEvent] = Counter()
    for event, times in Counter(events).items():
        _count(event, times, counts)
    if any(_unprotected(event) for event in counts):
        return None
    precision = [
        count / event.noise_multiplier**2
        for event, count in counts.items()
        if isinstance(event, dp.GaussianDpEvent)
    ]
    merged = [pair for pair in counts.items() if not isinstance(pair[0], dp.GaussianDpEvent)]
    if precision:
        # fsum is exact, so the result does not depend on the order of the events.
        merged.append((dp.GaussianDpEvent(1.0 / math.sqrt(math.fsum(precision))), 1))
    return tuple(sorted(merged, key=repr) if merged[1:] else merged)


def _count(event: dp.DpEvent, times: int, counts: Counter[dp.DpEvent]) -> None:
    if times == 0 or isinstance(event, dp.NoOpDpEvent):
        return
    if isinstance(event, dp.SelfComposedDpEvent):
        _count(event.event, times * event.count, counts)
    elif isinstance(event, dp.ComposedDpEvent):
        for part in event.events:
            _count(part, times, counts)
    elif isinstance(event, dp.PoissonSampledDpEvent):
        _count_sampled(event, times, counts)
    elif not _releases_nothing(event):
        counts[event] += times


def _count_sampled(
    event: dp.PoissonSampledDpEvent, times: int, counts: Counter[dp.DpEvent]
) -> None:
    inner = event.event
    if event.sampling_probability == 0 or isinstance(inner, dp.NoOpDpEvent):
        return
    if event.sampling_probability == 1:
        _count(inner, times, counts)
    elif _unprotected(inner):
        counts[dp.NonPrivateDpEvent()] += times
    elif isinstance(inner, (dp.GaussianDpEvent, dp.LaplaceDpEvent)):
        counts[event] += times
    else:
        raise AccountingError(
            f"no amplification by sampling is known here for {type(inner).__name__}: "
            "sample a Gaussian or Laplace mechanism, or state the event without sampling"
        )


def _releases_nothing(event: dp.DpEvent) -> bool:
    if isinstance(event, dp.RandomizedResponseDpEvent):
        return bool(event.num_buckets <= 1 or event.noise_parameter == 1)
    if isinstance(event, dp.MixtureOfGaussiansDpEvent):
        return all(sensitivity == 0 for sensitivity in event.sensitivities)
    if isinstance(event, dp.TruncatedSubsampledGaussianDpEvent):
        return 0 in (event.sampling_probability, event.truncated_batch_size, event.dataset_size)
    return False


def _unprotected(event: dp.DpEvent) -> bool:
    """Whether the event shows the data as they are: raw, or with no noise at all."""
    if isinstance(event, dp.NonPrivateDpEvent):
        return True
    if isinstance(event, dp.MixtureOfGaussiansDpEvent):
        return bool(event.standard_deviation == 0)
    if isinstance(event, dp.RandomizedResponseDpEvent):
        return bool(event.noise_parameter == 0)
    if isinstance(event, dp.SelfComposedDpEvent):
        return event.count > 0 and _unprotected(event.event)
    noise = getattr(event, "noise_multiplier", None)
    # Below this its inverse square overflows: nothing could be computed of it.
    return noise is not None and float(noise) < 1e-150
