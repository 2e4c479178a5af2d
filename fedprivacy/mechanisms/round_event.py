"""The event that prices a round of DP-SGD's steps, and what a reader of its bill needs."""

from __future__ import annotations

from functools import lru_cache

import dp_accounting

from fedprivacy.accounting.dp_events import canonical
from fedprivacy.accounting.shuffling import shuffle_epsilon_floor, shuffled_event
from fedprivacy.mechanisms.sampling import batches_per_pass, passes

FLOOR_DELTA = 1e-5


@lru_cache(maxsize=256, typed=True)
def round_event(
    sampling: str, noise_multiplier: float, sampling_rate: float, steps: int
) -> dp_accounting.DpEvent:
    """The event of one round: Poisson-subsampled Gaussians, or shuffled batches unamplified.

    The same event for all sites and rounds that are alike, so that it is checked once.

    Args:
        sampling: ``poisson`` or ``shuffle``.
        noise_multiplier: of each step, above 0.
        sampling_rate: q.
        steps: steps taken.
    """
    if sampling == "shuffle":
        return canonical(shuffled_event(noise_multiplier, passes(sampling_rate, steps)))
    gaussian = dp_accounting.GaussianDpEvent(noise_multiplier)
    sampled = dp_accounting.PoissonSampledDpEvent(sampling_rate, gaussian)
    return canonical(dp_accounting.SelfComposedDpEvent(sampled, steps))


def shuffle_details(
    noise_multiplier: float, sampling_rate: float, steps: int
) -> dict[str, float | int | str]:
    """What a reader of a round of shuffled batches needs: the bill, and the proved floor.

    Keys: ``sampling``, ``passes``, ``epsilon_at_least`` (a lower bound of one pass at delta 1e-5,
    ``accounting.shuffling``), ``epsilon_at_least_of``.
    """
    batches = batches_per_pass(sampling_rate)
    return {
        "sampling": "shuffle: billed without amplification",
        "passes": passes(sampling_rate, steps),
        "epsilon_at_least": _floor(noise_multiplier, batches),
        "epsilon_at_least_of": (
            f"one pass over {batches} shuffled batches at delta {FLOOR_DELTA:g}: a lower bound "
            "(Chua et al. 2024, arXiv 2403.17673)"
        ),
    }


@lru_cache(maxsize=256)
def _floor(noise_multiplier: float, batches: int) -> float:
    return shuffle_epsilon_floor(FLOOR_DELTA, noise_multiplier, batches)
