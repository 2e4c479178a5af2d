"""Membership inference with the sweep's own seeds as shadow models: no extra training.

Every seed has its own coins over the same candidates, so for one seed the others are models with
and without each candidate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_SMALL = 1e-6


def lira(log_odds: Floats, included: Bools, target: int) -> Floats:
    """``(m,)`` scores of one seed's candidates: the likelihood ratio attack.

    log N(x; in) - log N(x; out), x the candidate's log-odds in the target, means from the other
    seeds with and without it, one spread for all candidates, as is best for few shadow models
    (Carlini et al. 2022, arXiv 2112.03570, algorithm 1 and section VI-C). A candidate that no other
    seed includes (or excludes) gets that side's mean from the average distance of the sides.

    Args:
        log_odds: ``(seeds, m)``.
        included: ``(seeds, m)``.
        target: index of the attacked seed; at least two others.

    Raises:
        ValueError: fewer than three seeds.
    """
    inside, outside, spread_in, spread_out = _sides(log_odds, included, target)
    x = log_odds[target]
    return np.asarray(
        stats.norm.logpdf(x, inside, spread_in) - stats.norm.logpdf(x, outside, spread_out)
    )


def rmia(log_odds: Floats, included: Bools, target: int, gamma: float = 1.0) -> Floats:
    """``(m,)`` scores of one seed's candidates: the robust membership attack.

    The share of other candidates z for which [p(x)/p_ref(x)] / [p(z)/p_ref(z)] >= gamma, p the
    probability of the true label in the target, p_ref its mean over the other seeds (Zarifzadeh,
    Liu & Shokri 2024, arXiv 2312.03262, section 3). z are the candidates of the same seed: none of
    them is known to be outside, which makes the attack a little weaker.

    Args:
        log_odds: ``(seeds, m)``.
        included: ``(seeds, m)``; reference models with and without a candidate weigh the same.
        target: index of the attacked seed.
        gamma: threshold of the ratio.

    Raises:
        ValueError: fewer than two seeds.
    """
    if len(log_odds) < 2:
        raise ValueError(f"{len(log_odds)} seed: the other seeds are the reference models")
    others = np.arange(len(log_odds)) != target
    chance = 1 / (1 + np.exp(-log_odds))
    ratios = (chance[target] + _SMALL) / (_reference(chance[others], included[others]) + _SMALL)
    ordered = np.sort(ratios)
    return np.asarray(np.searchsorted(ordered, ratios / gamma, side="right") / len(ratios))


def _reference(chance: Floats, included: Bools) -> Floats:
    """Mean over models with and without each candidate, both sides weighing the same."""
    inside, outside = included.sum(0), (~included).sum(0)
    mean_in = np.where(included, chance, 0).sum(0) / np.maximum(inside, 1)
    mean_out = np.where(~included, chance, 0).sum(0) / np.maximum(outside, 1)
    both = (mean_in + mean_out) / 2
    return np.asarray(np.where(inside == 0, mean_out, np.where(outside == 0, mean_in, both)))


def _sides(log_odds: Floats, included: Bools, target: int) -> tuple[Floats, Floats, float, float]:
    if len(log_odds) < 3:
        raise ValueError(f"{len(log_odds)} seeds: at least two besides the target are needed")
    others = np.arange(len(log_odds)) != target
    x, inside = log_odds[others], included[others]
    n_in, n_out = inside.sum(0), (~inside).sum(0)
    mean_in = np.where(inside, x, 0).sum(0) / np.maximum(n_in, 1)
    mean_out = np.where(~inside, x, 0).sum(0) / np.maximum(n_out, 1)
    both = (n_in > 0) & (n_out > 0)
    distance = float((mean_in - mean_out)[both].mean()) if both.any() else 0.0
    mean_in = np.where(n_in > 0, mean_in, mean_out + distance)
    mean_out = np.where(n_out > 0, mean_out, mean_in - distance)
    spread = _spread(x - np.where(inside, mean_in, mean_out), int((n_in + n_out).sum()))
    return mean_in, mean_out, spread, spread


def _spread(residuals: Floats, count: int) -> float:
    # Two means are fitted to each candidate.
    free = max(1, count - 2 * residuals.shape[1])
    return max(float(np.sqrt((residuals**2).sum() / free)), _SMALL)
