"""Lower bounds from independent trials of one decision: Clopper-Pearson, and a Gaussian estimate.

An attacker decides "in" if a score is above a threshold. Under (epsilon, delta), of its error rates
FPR and FNR, 1 - FNR - delta <= exp(epsilon) FPR and the same with both exchanged (Kairouz, Oh &
Viswanath 2015). Trials must be independent: canaries of one run are not, see ``one_run``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from fedprivacy.audit.binomial import upper_limit


def _errors(scores: ArrayLike, included: ArrayLike, threshold: float) -> tuple[int, int, int, int]:
    """False negatives, members, false positives, non-members of "in if above the threshold"."""
    values, truth = np.asarray(scores, dtype=float), np.asarray(included, dtype=bool)
    above = values > threshold
    return (
        int((truth & ~above).sum()),
        int(truth.sum()),
        int((~truth & above).sum()),
        int((~truth).sum()),
    )


def clopper_pearson_epsilon(
    scores: ArrayLike,
    included: ArrayLike,
    thresholds: Sequence[float],
    *,
    delta: float,
    confidence: float = 0.95,
) -> float:
    """Largest epsilon that the error rates rule out; 0 if none (Jagielski, Ullman & Oprea 2020).

    Both error rates are bounded at once, and for all thresholds: alpha is divided by twice their
    number.

    Args:
        scores: ``(n,)`` of independent trials, larger means more likely in.
        included: ``(n,)`` bool.
        thresholds: fixed before the scores are seen.
        delta: at which epsilon is meant.
        confidence: of the largest bound.
    """
    alpha = (1 - confidence) / (2 * len(thresholds))
    errors = (_errors(scores, included, threshold) for threshold in thresholds)
    return max(_ruled_out(*counts, delta, alpha) for counts in errors)


def clopper_pearson_ceiling(
    members: int, others: int, above: Sequence[int], *, delta: float, confidence: float = 0.95
) -> float:
    """What ``clopper_pearson_epsilon`` would return had every record above a threshold been in.

    Args:
        members: trials that were in.
        others: trials that were not.
        above: of each threshold, how many scores may lie above it.
        delta: at which epsilon is meant.
        confidence: of the largest bound.
    """
    alpha = (1 - confidence) / (2 * len(above))
    missed = (members - min(count, members) for count in above)
    return max(_ruled_out(fn, members, 0, others, delta, alpha) for fn in missed)


def _ruled_out(fn: int, members: int, fp: int, others: int, delta: float, alpha: float) -> float:
    """Largest epsilon that these errors rule out, each rate at its own upper limit; 0 if none."""
    missed, raised = upper_limit(fn, members, alpha), upper_limit(fp, others, alpha)
    pairs = ((1 - missed - delta, raised), (1 - raised - delta, missed))
    return max([0.0, *(math.log(power / error) for power, error in pairs if power > 0)])


def gaussian_mu_estimate(
    scores: ArrayLike,
    included: ArrayLike,
    thresholds: Sequence[float],
    confidence: float = 0.95,
) -> float:
    """An ESTIMATE of mu, no bound: it supposes that the trade-off curve is a Gaussian one.

    max over thresholds of Phi^-1(1 - FPR) - Phi^-1(FNR), both at their upper limits, never below 0
    (Nasr et al. 2023, arXiv 2302.07956, section 5.2). Never published as a bound.
    """
    alpha = (1 - confidence) / (2 * len(thresholds))
    best = 0.0
    for threshold in thresholds:
        fn, members, fp, others = _errors(scores, included, threshold)
        missed, raised = upper_limit(fn, members, alpha), upper_limit(fp, others, alpha)
        if 0 < missed < 1 and 0 < raised < 1:
            best = max(best, float(special.ndtri(1 - raised) - special.ndtri(missed)))
    return best
