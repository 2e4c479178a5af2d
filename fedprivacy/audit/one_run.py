"""A lower bound on epsilon from one training run (Steinke, Nasr & Jagielski 2023).

m independent fair coins decide which records are trained on. An attacker guesses r of them and v
guesses are right. Were the run (epsilon, delta)-private for each coin, v would be at most binomial
with success probability 1 / (1 + exp(-epsilon)), however the records interact, up to a term for
delta (arXiv 2305.08846, theorem 5.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

METHOD = "one run, independent coins (Steinke, Nasr & Jagielski 2023)"

DEFAULT_SHARES: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)

_BISECTIONS = 60
_LARGEST = 60.0


@dataclass(frozen=True)
class LowerBound:
    """An epsilon that the run has at least, with the confidence stated; measured.

    Attributes:
        epsilon: 0 where nothing was found, which is no evidence of privacy.
        ceiling: what the same audit would have returned with every guess right.
        confidence: 1 - alpha, over all bounds that were tried together.
        method: in words.
        guesses: r of the bound that was kept.
        right: v of it.
        coins: m.
        delta: at which epsilon is meant.
    """

    epsilon: float
    ceiling: float
    confidence: float
    method: str
    guesses: int
    right: int
    coins: int
    delta: float

    def to_json(self) -> dict[str, Any]:
        """Strict JSON."""
        return {
            "epsilon_lower": self.epsilon,
            "ceiling": self.ceiling,
            "confidence": self.confidence,
            "method": self.method,
            "guesses": self.guesses,
            "right": self.right,
            "coins": self.coins,
            "delta": self.delta,
            "direction": "lower bound, measured",
        }


def guess_counts(coins: int, shares: Sequence[float] = DEFAULT_SHARES) -> tuple[int, ...]:
    """Numbers of guesses for shares of the coins, fixed before any score is seen; at least one."""
    return tuple(sorted({max(1, min(coins, round(share * coins))) for share in shares}))


def right_guesses(
    scores: ArrayLike, included: ArrayLike, guesses: int, *, only_in: bool = False
) -> int:
    """How many guesses are right: "in" for the highest scores, "out" for the lowest.

    Half of the guesses each (the odd one "in"), which finds more than guessing "in" alone; ties are
    broken by position, which says nothing of the coins.

    Args:
        scores: ``(m,)``, larger means more likely trained on.
        included: ``(m,)`` bool, the coins.
        guesses: r, at most m.
        only_in: guess "in" for the highest scores alone, as published figures often do.
    """
    truth = np.asarray(included, dtype=bool)
    order = np.argsort(np.asarray(scores, dtype=float), kind="stable")
    low = 0 if only_in else guesses // 2
    high = guesses - low
    return int(truth[order[len(order) - high :]].sum() + (~truth[order[:low]]).sum())


def p_value(right: int, guesses: int, coins: int, epsilon: float, delta: float) -> float:
    """Probability bound of ``right`` or more right guesses under (epsilon, delta).

    P[Bin(r, s) >= v] + 2 m delta max_i P[v - i <= Bin(r, s) < v] / i with s = logistic(epsilon)
    (arXiv 2305.08846, theorem 5.2 and section 5.2).
    """
    share = special.expit(epsilon)
    tail = float(stats.binom.sf(right - 1, guesses, share))
    if delta == 0 or right == 0:
        return min(1.0, tail)
    below: NDArray[np.float64] = np.cumsum(
        stats.binom.pmf(np.arange(right - 1, -1, -1), guesses, share)
    )
    excess = float(np.max(below / np.arange(1, right + 1)))
    return min(1.0, tail + 2 * coins * delta * excess)


def lower_epsilon(right: int, guesses: int, coins: int, delta: float, alpha: float) -> float:
    """Largest epsilon that is rejected at level ``alpha``; 0 if none is.

    With delta = 0 and every guess right it is logit(alpha ** (1 / r)).
    """
    if p_value(right, guesses, coins, 0.0, delta) > alpha:
        return 0.0
    low, high = 0.0, _LARGEST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if p_value(right, guesses, coins, middle, delta) <= alpha:
            low = middle
        else:
            high = middle
    return low


def ceiling(coins: int, counts: Sequence[int], delta: float, alpha: float) -> float:
    """What ``one_run_bound`` would return with every guess right; alpha is that of one bound."""
    return max(lower_epsilon(r, r, coins, delta, alpha) for r in counts)


def one_run_bound(
    scores: ArrayLike,
    included: ArrayLike,
    *,
    delta: float,
    confidence: float = 0.95,
    counts: Sequence[int] | None = None,
    tried: int | None = None,
) -> LowerBound:
    """The largest bound over the numbers of guesses, alpha divided among all that were tried.

    Args:
        scores: ``(m,)``, larger means more likely trained on.
        included: ``(m,)`` bool, the coins.
        delta: useless unless well below 1/m.
        confidence: of the largest bound.
        counts: numbers of guesses, fixed beforehand; None: ``guess_counts`` of m.
        tried: number of bounds that alpha is divided by, if others are tried besides these.
    """
    coins = len(np.asarray(included))
    chosen = tuple(counts) if counts is not None else guess_counts(coins)
    alpha = (1 - confidence) / (tried or len(chosen))
    found = []
    for guesses in chosen:
        right = right_guesses(scores, included, guesses)
        epsilon = lower_epsilon(right, guesses, coins, delta, alpha)
        found.append((epsilon, guesses, right))
    epsilon, guesses, right = max(found)
    most = ceiling(coins, chosen, delta, alpha)
    return LowerBound(epsilon, most, confidence, METHOD, guesses, right, coins, delta)


def closed_form(guesses: int, alpha: float) -> float:
    """logit(alpha ** (1 / r)): the bound of r right guesses at delta = 0."""
    share = alpha ** (1 / guesses)
    return math.log(share / (1 - share))
