"""Lower bounds from independent trials of one decision: Clopper-Pearson, and a Gaussian estimate.

An attacker decides "in" if a score is above a threshold. Under (epsilon, delta), of its error rates
FPR and FNR, 1 - FNR - delta <= exp(epsilon) FPR and the same with both exchanged (Kairouz, Oh &
Viswanath 2015). Trials must be independent: canaries of one run are not, see ``one_run``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from fedprivacy.audit.binomial import upper_limits


def _errors(
    scores: ArrayLike, included: ArrayLike, thresholds: ArrayLike
) -> tuple[NDArray[np.int64], int, NDArray[np.int64], int]:
    """Of "in if above": false negatives by threshold, members; false positives, non-members."""
    values, truth = np.asarray(scores, dtype=float), np.asarray(included, dtype=bool)
    members, others = np.sort(values[truth]), np.sort(values[~truth])
    at = np.asarray(thresholds, dtype=float)
    missed = np.searchsorted(members, at, side="right")
    raised = len(others) - np.searchsorted(others, at, side="right")
    return missed, len(members), raised, len(others)


def clopper_pearson_epsilon(
    scores: ArrayLike,
    included: ArrayLike,
    thresholds: ArrayLike,
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
    alpha = (1 - confidence) / (2 * np.size(thresholds))
    return _ruled_out(*_errors(scores, included, thresholds), delta, alpha)


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
    missed = members - np.minimum(np.asarray(above), members)
    return _ruled_out(missed, members, np.zeros_like(missed), others, delta, alpha)


def _ruled_out(
    fn: NDArray[np.int64],
    members: int,
    fp: NDArray[np.int64],
    others: int,
    delta: float,
    alpha: float,
) -> float:
    """Largest epsilon that these errors rule out, each rate at its own upper limit; 0 if none."""
    missed, raised = upper_limits(fn, members, alpha), upper_limits(fp, others, alpha)
    powers = np.concatenate([1 - missed - delta, 1 - raised - delta])
    errors = np.concatenate([raised, missed])
    useful = powers > 0
    found = np.log(powers[useful] / errors[useful])
    return float(max(0.0, found.max(initial=0.0)))


def gaussian_mu_estimate(
    scores: ArrayLike,
    included: ArrayLike,
    thresholds: ArrayLike,
    confidence: float = 0.95,
) -> float:
    """An ESTIMATE of mu, no bound: it supposes that the trade-off curve is a Gaussian one.

    max over thresholds of Phi^-1(1 - FPR) - Phi^-1(FNR), both at their upper limits, never below 0
    (Nasr et al. 2023, arXiv 2302.07956, section 5.2). Never published as a bound.
    """
    alpha = (1 - confidence) / (2 * np.size(thresholds))
    fn, members, fp, others = _errors(scores, included, thresholds)
    missed, raised = upper_limits(fn, members, alpha), upper_limits(fp, others, alpha)
    inside = (missed > 0) & (missed < 1) & (raised > 0) & (raised < 1)
    found = special.ndtri(1 - raised[inside]) - special.ndtri(missed[inside])
    return float(max(0.0, found.max(initial=0.0)))
