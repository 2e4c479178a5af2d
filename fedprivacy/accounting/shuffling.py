"""Shuffled batches: billed without amplification, with a proved floor beside the bill.

Going once through shuffled batches is not Poisson sampling: accountants that pretend it is report
1.04 where 4.03 is a lower bound (sigma 0.8, 50 batches, delta 1e-3). No useful upper bound below
the one without amplification is known for every setting, so that is what is billed here.
"""

from __future__ import annotations

import numpy as np
from dp_accounting import dp_event as dp
from scipy import special

from fedprivacy.errors import AccountingError


def shuffled_event(noise_multiplier: float, epochs: int) -> dp.DpEvent:
    """The event to enter for DP-SGD on shuffled or sequential batches: no amplification.

    Each record is in one batch an epoch; the other batches of the epoch do not touch it (parallel
    composition over disjoint batches), so an epoch is one Gaussian release.
    """
    if epochs < 1 or epochs != int(epochs):
        raise AccountingError(
            f"epochs={epochs!r}: shuffled batches are priced for whole epochs, 1 or more"
        )
    return dp.SelfComposedDpEvent(dp.GaussianDpEvent(noise_multiplier), int(epochs))


def shuffle_delta_floor(epsilon: float, noise_multiplier: float, batches: int) -> float:
    """A delta that one epoch of shuffled batches at least has at ``epsilon``; a lower bound.

    Chua, Ghazi, Kamath, Kumar, Manurangsi, Sinha & Zhang 2024 (arXiv 2403.17673): the pair
    P = mean over t of N(2 e_t, s^2 I) and Q = mean over t of N(e_t, s^2 I), tested with the events
    "some coordinate exceeds C", C maximised.

    Args:
        epsilon: at least 0.
        noise_multiplier: s, noise over clip norm, relation zero_out or add_remove.
        batches: T, batches of the epoch.
    """
    if noise_multiplier <= 0 or batches < 1 or epsilon < 0:
        raise AccountingError(
            f"epsilon={epsilon!r}, noise_multiplier={noise_multiplier!r}, batches={batches!r}: "
            "allowed is epsilon >= 0, positive noise, at least one batch"
        )
    reach = 2.0 + noise_multiplier * (9.0 + np.sqrt(2.0 * np.log(batches) + 2.0 * epsilon))
    cuts = np.linspace(-reach, reach, 20_001)
    rest = (batches - 1) * special.log_ndtr(cuts / noise_multiplier)
    # 1 - Phi(a) Phi(b)^(T-1), without cancellation.
    upper = -np.expm1(special.log_ndtr((cuts - 2.0) / noise_multiplier) + rest)
    lower = -np.expm1(special.log_ndtr((cuts - 1.0) / noise_multiplier) + rest)
    return float(max(0.0, np.max(upper - np.exp(epsilon) * lower)))


def shuffle_epsilon_floor(delta: float, noise_multiplier: float, batches: int) -> float:
    """An epsilon that one epoch of shuffled batches at least has at ``delta``; a lower bound.

    More epochs only add to it. Zero where this test proves nothing.
    """
    low, high = 0.0, 1.0
    if shuffle_delta_floor(low, noise_multiplier, batches) <= delta:
        return 0.0
    while shuffle_delta_floor(high, noise_multiplier, batches) > delta:
        low, high = high, 2.0 * high
    for _ in range(40):
        middle = (low + high) / 2
        if shuffle_delta_floor(middle, noise_multiplier, batches) > delta:
            low = middle
        else:
            high = middle
    return low
