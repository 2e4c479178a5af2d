"""Pure DP: an event for any mechanism with a proved epsilon, and exact sums of such."""

from __future__ import annotations

import math

from dp_accounting import dp_event as dp

from fedprivacy.errors import AccountingError

LARGEST = 700.0
"""Beyond it exp(-epsilon) is no longer a normal float."""


def pure_event(epsilon: float) -> dp.DpEvent:
    """An event for a mechanism of which only (epsilon, 0)-DP under replace_one is known.

    Randomised response with two answers is the worst mechanism with that guarantee: its pair of
    outputs dominates the pair of any other (Kairouz, Oh & Viswanath 2015, theorem 3.1 and section
    4). To be entered with ``neighbouring="replace_one"``; under other relations dp-accounting
    gives randomised response a different meaning.

    Raises:
        AccountingError: epsilon is negative, not finite or above ``LARGEST``.
    """
    if not 0 <= epsilon <= LARGEST:
        raise AccountingError(f"epsilon={epsilon!r}: allowed is 0 to {LARGEST:g}")
    # Two answers, lie with probability p/2: log((1 - p/2) / (p/2)) = epsilon.
    return dp.RandomizedResponseDpEvent(2.0 / (1.0 + math.exp(epsilon)), 2)


def laplace_renyi(order: float, epsilon: float) -> float:
    """Renyi divergence of a Laplace release whose pure bound is ``epsilon``.

    log(a/(2a-1) exp((a-1) e) + (a-1)/(2a-1) exp(-a e)) / (a-1) (Mironov 2017, proposition 6).

    Args:
        order: a > 1.
        epsilon: sensitivity over scale, at least 0.
    """
    if order <= 1 or epsilon < 0:
        raise AccountingError(f"order={order!r}, epsilon={epsilon!r}: order > 1, epsilon >= 0")
    a = order
    # exp((a-1) e) taken out of the logarithm: no overflow at large epsilon.
    inner = a / (2 * a - 1) + (a - 1) / (2 * a - 1) * math.exp(-(2 * a - 1) * epsilon)
    return epsilon + math.log(inner) / (a - 1)


def pure_renyi(order: float, epsilon: float) -> float:
    """Renyi divergence that any (epsilon, 0)-DP mechanism has at most: min(e, a e^2 / 2).

    Bun & Steinke 2016 (arXiv 1605.02065), proposition 3.3.
    """
    if order <= 1 or epsilon < 0:
        raise AccountingError(f"order={order!r}, epsilon={epsilon!r}: order > 1, epsilon >= 0")
    return min(epsilon, order * epsilon**2 / 2)


def epsilon_from_renyi(order: float, divergence: float, delta: float) -> float:
    """(epsilon, delta) from one Renyi bound.

    R + log((a-1)/a) - (log delta + log a)/(a-1) (Canonne, Kamath & Steinke 2020,
    arXiv 2004.00010, proposition 12).
    """
    bound = divergence + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
    return max(0.0, bound)
