"""Caps: what the proof leaves to any attacker, in numbers a clinician can read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fedprivacy.accounting.claims import Claim
from fedprivacy.accounting.gaussian import FLOOR, gdp_mu, gdp_regret
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.profile import NOTHING_PROVED, Profile, privacy_profile

FALSE_POSITIVE_RATES: tuple[float, ...] = (0.001, 0.01, 0.1)

PROFILE_EPSILONS: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True)
class Caps:
    """Proved limits of every attack on one unit against one view, worst site.

    Attributes:
        max_tpr: largest true-positive rate at each false-positive rate; 1 where nothing is proved.
        max_advantage: largest TPR - FPR; 1 where nothing is proved.
        mu_gdp: mu of Gaussian DP; None where infinite.
        mu_regret: misfit of that one number (``gaussian.gdp_regret``); None with ``mu_gdp``.
        delta_profile: delta at ``PROFILE_EPSILONS``.
    """

    max_tpr: dict[float, float]
    max_advantage: float
    mu_gdp: float | None
    mu_regret: float | None
    delta_profile: dict[float, float]

    def to_json(self) -> dict[str, Any]:
        """Strict JSON; rates and epsilons become text keys, as JSON knows no others."""
        return {
            "max_tpr_at_fpr": {f"{rate:g}": cap for rate, cap in self.max_tpr.items()},
            "max_advantage": self.max_advantage,
            "mu_gdp": self.mu_gdp,
            "mu_regret": self.mu_regret,
            "mu_delta_floor": FLOOR,
            "delta_profile": {f"{eps:g}": delta for eps, delta in self.delta_profile.items()},
        }


def caps(subject: Claim) -> Caps:
    """The caps that follow from a claim: an attack may choose the worst site."""
    if subject.neighbouring is None:
        return _worst([NOTHING_PROVED])
    ledger = Ledger(subject.events)
    return _worst(
        [privacy_profile(ledger.site(name), subject.neighbouring) for name in ledger.sites]
        or [privacy_profile((), subject.neighbouring)]
    )


def _worst(profiles: Iterable[Profile]) -> Caps:
    # Sites with the same history share one cached profile.
    distinct = list({id(profile): profile for profile in profiles}.values())
    mus = {id(profile): gdp_mu(profile) for profile in distinct}
    hardest = max(distinct, key=lambda profile: mus[id(profile)])
    mu = mus[id(hardest)]
    return Caps(
        max_tpr={
            rate: max(profile.max_tpr(rate) for profile in distinct)
            for rate in FALSE_POSITIVE_RATES
        },
        max_advantage=max(profile.max_advantage for profile in distinct),
        mu_gdp=None if math.isinf(mu) else mu,
        mu_regret=None if math.isinf(mu) else gdp_regret(hardest, mu),
        delta_profile={
            epsilon: max(float(profile.delta(epsilon)) for profile in distinct)
            for epsilon in PROFILE_EPSILONS
        },
    )
