"""A what-if figure for noise that proves nothing; no guarantee, and never shown as one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from scipy import optimize

from fedprivacy.accounting.gaussian import gaussian_delta

LABEL = (
    "what-if, no guarantee: had each update been clipped to its own norm, and had the scale of the "
    "noise been public. Nothing bounds an update, and the scale follows it, so nothing is proved."
)


@dataclass(frozen=True)
class WhatIf:
    """What the noise of a cell would be worth under conditions that do not hold.

    Attributes:
        mu: of Gaussian DP over all rounds that have a figure, worst site; one site, replace_one.
        epsilon: at ``delta``.
        delta: of the cell.
        rounds: how many rounds it is about.
    """

    mu: float
    epsilon: float
    delta: float
    rounds: int

    def to_json(self) -> dict[str, Any]:
        """Strict JSON, with what the figure supposes."""
        return {
            "mu": self.mu,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "rounds": self.rounds,
            "unit": "site",
            "neighbouring": "replace_one",
            "direction": "what-if",
            "about": LABEL,
        }


def what_if(rounds: Iterable[Mapping[str, float]], delta: float) -> WhatIf | None:
    """The figure of a run; None where no round has one.

    Args:
        rounds: mu of each site in each round; mu = sqrt(sum mu_t^2) over the rounds (Dong, Roth &
            Su 2022, corollary 3.3).
        delta: at which epsilon is read off.
    """
    squares: dict[str, float] = {}
    counted = 0
    for mus in rounds:
        counted += bool(mus)
        for site, mu in mus.items():
            squares[site] = squares.get(site, 0.0) + mu**2
    if not squares:
        return None
    mu = math.sqrt(max(squares.values()))
    return WhatIf(mu, gaussian_epsilon(mu, delta), delta, counted)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Smallest epsilon >= 0 at which a mu-GDP mechanism has this delta."""

    def excess(epsilon: float) -> float:
        return float(gaussian_delta(epsilon, mu)) - delta

    if excess(0.0) <= 0:
        return 0.0
    # Beyond this point the first Gaussian tail alone is below delta > 1e-300.
    high = mu**2 / 2 + 40.0 * mu
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-12, rtol=1e-12))
