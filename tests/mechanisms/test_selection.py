"""The two ways of choosing coordinates: their laws and their prices, enumerated exactly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import combinations, permutations, product

import dp_accounting
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq
from scipy.special import comb, expit, ndtri

from fedprivacy.accounting import Event, epsilon, gaussian_delta, pure_event, selection_epsilon
from fedprivacy.config.schema import SvtConf, SvtFlare28Conf
from fedprivacy.mechanisms.selection import (
    SvtScales,
    bounded_range_epsilon,
    bounded_range_mu,
    select_above_threshold,
    select_top,
    upload_count,
)
from fedprivacy.mechanisms.svt import svt_scales
from fedprivacy.mechanisms.svt_flare28 import flare28_scales

Subset = frozenset[int]


def subsets(d: int) -> list[Subset]:
    return [frozenset(one) for size in range(d + 1) for one in combinations(range(d), size)]


def draw_chance(accepted: Subset, outcome: Subset, c: int, replace: bool) -> float:
    """Chance that c draws from the accepted ones have exactly these distinct values."""
    if not outcome <= accepted:
        return 0.0
    m, k = len(accepted), len(outcome)
    if not replace:
        return float(k == c) / comb(m, c)
    onto = sum((-1) ** j * comb(k, j) * (k - j) ** c for j in range(k + 1))
    return float(onto) / m**c


def outcome_chances(
    s: NDArray[np.float64], c: int, replace: bool
) -> dict[Subset, NDArray[np.float64]]:
    """Exact law of the upload for chances ``s`` ``(n, d)`` to pass one comparison.

    Unlimited passes: from the accepted set B the next pass that accepts anybody decides.
    """
    n, d = s.shape
    outcomes = [one for one in subsets(d) if 1 <= len(one) <= c]
    values: dict[Subset, NDArray[np.float64]] = {}
    for accepted in sorted(subsets(d), key=len, reverse=True):
        if len(accepted) >= c:
            row = [draw_chance(accepted, one, c, replace) for one in outcomes]
            values[accepted] = np.tile(row, (n, 1))
            continue
        rest = sorted(set(range(d)) - accepted)
        somebody = -np.expm1(np.log1p(-s[:, rest]).sum(axis=1))
        total = np.zeros((n, len(outcomes)))
        for size in range(1, len(rest) + 1):
            for new in combinations(rest, size):
                failed = [i for i in rest if i not in new]
                chance = s[:, list(new)].prod(axis=1) * (1 - s[:, failed]).prod(axis=1)
                total += (chance / somebody)[:, None] * values[accepted | set(new)]
        values[accepted] = total
    first = values[frozenset()]
    return {one: first[:, index] for index, one in enumerate(outcomes)}


def laplace_tail(x: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """P(Lap(scale) >= x)."""
    tail = 0.5 * np.exp(-np.abs(x) / scale)
    return np.where(x >= 0, tail, 1 - tail)


def selection_law(
    magnitudes: tuple[float, ...], tau: float, scales: SvtScales, replace: bool
) -> dict[Subset, float]:
    """The law of the upload, integrated over the threshold's noise by Gauss-Legendre pieces."""
    reach = 40 * max(scales.threshold, scales.query)
    breaks = sorted({tau, *magnitudes})
    edges = np.concatenate(
        [
            tau - reach * np.logspace(0, -3, 25),
            np.linspace(breaks[0], breaks[-1], 9),
            breaks,
            breaks[-1] + reach * np.logspace(-3, 0, 25),
        ]
    )
    edges = np.unique(edges)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
    t = (middle[:, None] + half[:, None] * nodes).ravel()
    weight = (half[:, None] * weights).ravel()
    density = np.exp(-np.abs(t - tau) / scales.threshold) / (2 * scales.threshold)
    passes = np.stack([laplace_tail(t - a, scales.query) for a in magnitudes], axis=1)
    law = outcome_chances(np.clip(passes, 0, 1 - 1e-15), scales.count, replace)
    return {one: float(chance @ (weight * density)) for one, chance in law.items()}


def worst_loss(laws: list[dict[Subset, float]]) -> float:
    """Largest log ratio of two laws' chances of one outcome."""
    return max(
        math.log(one[outcome] / other[outcome])
        for one, other in product(laws, laws)
        for outcome in one
        if one[outcome] > 0
    )


def legacy(size: int, fraction: float, epsilon: float) -> SvtScales:
    return svt_scales(SvtConf(fraction=fraction, epsilon=epsilon, gamma=1.0), size)


def later(size: int, fraction: float, epsilon: float) -> SvtScales:
    return flare28_scales(SvtFlare28Conf(fraction=fraction, epsilon=epsilon, gamma=1.0), size)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("generation", [legacy, later])
@pytest.mark.parametrize("epsilon", [0.1, 3.0])
@pytest.mark.parametrize(("d", "c"), [(2, 1), (3, 1), (3, 2), (4, 2), (4, 3), (4, 4)])
def test_exact_enumeration_never_exceeds_the_price_of_the_selection(
    replace: bool,
    generation: Callable[[int, float, float], SvtScales],
    epsilon: float,
    d: int,
    c: int,
) -> None:
    scales = generation(d, c / d, epsilon)
    assert scales.count == c
    price = selection_epsilon(1.0, scales.threshold, scales.query, c)
    assert price == pytest.approx(scales.epsilon_selection)
    # Up to relabelling, a site is how many of its magnitudes are at the clip; pairs of sites with
    # different coordinates there are covered by taking every corner of the cube.
    laws = [selection_law(corner, 0.1, scales, replace) for corner in product((0.0, 1.0), repeat=d)]
    for law in laws:
        assert sum(law.values()) == pytest.approx(1.0, abs=1e-7)
    worst = worst_loss([{k: v for k, v in law.items() if v > 1e-12} for law in laws])
    assert worst <= price + 1e-6
    assert worst > 0.1 * price or c == d  # what is compared is not nothing


def test_inner_points_cost_no_more_than_the_price() -> None:
    rng = np.random.default_rng(0)
    scales = later(3, 2 / 3, 2.0)
    points = [tuple(rng.uniform(0, 1, 3)) for _ in range(12)]
    for replace in (False, True):
        laws = [selection_law(point, 0.3, scales, replace) for point in points]
        assert worst_loss(laws) <= scales.epsilon_selection


@pytest.mark.parametrize("replace", [False, True])
def test_positive_log_derivatives_add_up_to_c_at_most(replace: bool) -> None:
    # The step of the proof that is not in the literature, at random chances.
    rng = np.random.default_rng(1)
    largest = 0.0
    for d, c in ((3, 2), (4, 2), (4, 3), (5, 3)):
        s = rng.beta(0.4, 0.6, (60, d)).clip(1e-4, 1 - 1e-4)
        step = 1e-5
        slopes: dict[Subset, NDArray[np.float64]] = {}
        for i in range(d):
            up, down = s.copy(), s.copy()
            up[:, i] *= math.exp(step)
            down[:, i] *= math.exp(-step)
            above, below = (outcome_chances(x, c, replace) for x in (up, down))
            for one, chance in above.items():
                usable = np.minimum(chance, below[one]) > 1e-9
                change = np.log(np.where(usable, chance, 1) / np.where(usable, below[one], 1))
                slopes[one] = slopes.get(one, 0) + np.maximum(change / (2 * step), 0)
        worst = max(float(total.max()) for total in slopes.values())
        assert worst <= c + 1e-4
        largest = max(largest, worst / c)
    assert largest > 0.9


@pytest.mark.parametrize("replace", [False, True])
def test_threshold_selection_has_the_enumerated_law(replace: bool) -> None:
    magnitudes = np.array([0.9, 0.2, 0.5, 0.0])
    scales = SvtScales(2, 0.2, 0.8, 1.0, 1.0)
    expected = selection_law(tuple(magnitudes), 0.4, scales, replace)
    rng = np.random.default_rng(2)
    drawn = Counter(
        frozenset(select_above_threshold(magnitudes, 0.4, scales, replace, rng).tolist())
        for _ in range(20_000)
    )
    likely = [one for one, chance in expected.items() if chance > 1e-9]
    assert set(drawn) <= set(likely)
    chances = np.array([expected[one] for one in likely])
    counts = [drawn[one] for one in likely]
    assert stats.chisquare(counts, 20_000 * chances / chances.sum()).pvalue > 0.01


def peeling_law(scores: tuple[float, ...], c: int, scale: float) -> dict[tuple[int, ...], float]:
    """Chances of every ordered choice of c by exponential mechanisms without replacement."""
    weights = np.exp(np.array(scores) / scale)
    law = {}
    for order in permutations(range(len(scores)), c):
        chance, left = 1.0, float(weights.sum())
        for i in order:
            chance *= weights[i] / left
            left -= float(weights[i])
        law[order] = chance
    return law


def test_one_shot_noise_has_the_law_of_peeling() -> None:
    scores, scale = (0.9, 0.1, 0.5, 0.0), 0.4
    expected: Counter[Subset] = Counter()
    for order, chance in peeling_law(scores, 2, scale).items():
        expected[frozenset(order)] += chance
    rng = np.random.default_rng(3)
    drawn = Counter(
        frozenset(select_top(np.array(scores), 2, scale, rng).tolist()) for _ in range(20_000)
    )
    sets = list(expected)
    counts, chances = [drawn[one] for one in sets], np.array([expected[one] for one in sets])
    assert stats.chisquare(counts, 20_000 * chances / chances.sum()).pvalue > 0.01


@pytest.mark.parametrize("mu", [0.1, 1.0, 4.0])
@pytest.mark.parametrize(("d", "c"), [(2, 1), (3, 1), (3, 2), (4, 2), (4, 3)])
def test_exact_enumeration_of_noisy_maxima_never_exceeds_their_price(
    mu: float, d: int, c: int
) -> None:
    # Scores in [0, 1]; the order of choice is told too, which gives away more than the set.
    one = bounded_range_epsilon(mu / math.sqrt(c))
    laws = [peeling_law(corner, c, 2 / one) for corner in product((0.0, 1.0), repeat=d)]
    epsilons = np.linspace(0, c * one, 60)
    allowed = gaussian_delta(epsilons, mu)
    touched = 0.0
    for law, other in product(laws, laws):
        p, q = np.array(list(law.values())), np.array(list(other.values()))
        assert np.log(p / q).max() <= c * one + 1e-12  # the pure bound
        deltas = np.maximum(p - np.exp(epsilons)[:, None] * q, 0).sum(axis=1)
        assert (deltas <= allowed + 1e-12).all()
        touched = max(touched, float(deltas[0] / allowed[0]))
    assert touched > 0.5


def test_price_of_one_choice_is_tight() -> None:
    # Two coordinates at opposite corners: the trade-off curve's corner lies on the Gaussian's.
    epsilon = 0.7
    law, other = (peeling_law(scores, 1, 2 / epsilon) for scores in ((1.0, 0.0), (0.0, 1.0)))
    mu = float(ndtri(law[(0,)]) - ndtri(other[(0,)]))
    assert bounded_range_mu(epsilon) == pytest.approx(mu, rel=1e-12)


@pytest.mark.parametrize("epsilon", [1e-3, 0.5, 3.0, 12.0])
def test_centred_choice_is_the_worst(epsilon: float) -> None:
    x = np.linspace(-15, 15, 4001)
    differences = ndtri(expit(x + epsilon / 2)) - ndtri(expit(x - epsilon / 2))
    assert bounded_range_mu(epsilon) == pytest.approx(float(differences.max()), rel=1e-9)


@pytest.mark.parametrize("mu", [1e-6, 0.02, 1.0, 12.0])
def test_prices_of_a_choice_invert_each_other(mu: float) -> None:
    assert bounded_range_mu(bounded_range_epsilon(mu)) == pytest.approx(mu, rel=1e-7)
    assert bounded_range_epsilon(1e-4) == pytest.approx(1.5958e-4, rel=1e-4)


def textbook_above_threshold(
    magnitudes: NDArray[np.float64], tau: float, c: int, epsilon: float, rng: np.random.Generator
) -> list[int]:
    """One pass in random order, stopped at the c-th acceptance (Lyu, Su & Li 2017, algorithm 7)."""
    threshold_part = epsilon / (1 + (2 * c) ** (2 / 3))
    threshold = tau + rng.laplace(0, 1 / threshold_part)
    accepted: list[int] = []
    for i in rng.permutation(magnitudes.size):
        if magnitudes[i] + rng.laplace(0, 2 * c / (epsilon - threshold_part)) >= threshold:
            accepted.append(int(i))
            if len(accepted) == c:
                break
    return accepted


def spent(release: dp_accounting.DpEvent, rounds: int) -> float:
    kind = {"mechanism": "m", "unit": "site", "neighbouring": "replace_one", "protected": True}
    events = [
        Event(round=r, site="A", view="server_updates", dp_event=release, **kind)
        for r in range(1, rounds + 1)
    ]
    return epsilon(events, 1e-5, "replace_one")


def pure_at_the_price(mu: float, rounds: int) -> float:
    """Pure epsilon of each round such that all cost what Gaussian rounds of ``mu`` in all cost."""
    target = spent(dp_accounting.GaussianDpEvent(2 * math.sqrt(rounds) / mu), rounds)
    return float(brentq(lambda x: spent(pure_event(x), rounds) - target, 0.01, 60, xtol=1e-4))


@pytest.mark.parametrize(
    ("rounds", "c", "above", "top"),
    [
        (1, 1, 0.59, 0.77),
        (1, 10, 3.4, 2.5),
        (1, 100, 29.5, 8.0),
        (10, 1, 5.9, 2.5),
        (10, 10, 34, 8.0),
        (10, 100, 296, 25),
    ],
)
def test_noise_of_a_comparison_at_the_same_price(
    rounds: int, c: int, above: float, top: float
) -> None:
    # The table that svt_exact gives its choice by: epsilon 10 at delta 1e-5, scores in [0, 1].
    mu = 2.0
    pure = pure_at_the_price(mu, rounds)
    threshold_part = pure / (1 + (2 * c) ** (2 / 3))
    query = 2 * c / (pure - threshold_part)
    assert math.sqrt(2) * math.hypot(1 / threshold_part, query) == pytest.approx(above, rel=0.03)
    scale = 2 / bounded_range_epsilon(mu / math.sqrt(rounds * c))
    assert math.pi / math.sqrt(6) * scale == pytest.approx(top, rel=0.03)


def test_noisy_maxima_find_more_than_a_threshold_at_the_same_price() -> None:
    d, c, mu, rounds = 40, 5, 4.0, 10
    pure = pure_at_the_price(mu, rounds)
    scale = 2 / bounded_range_epsilon(mu / math.sqrt(rounds * c))
    magnitudes = np.zeros(d)
    magnitudes[:c] = 1.0
    rng, found = np.random.default_rng(5), Counter[str]()
    for _ in range(2000):
        found["top"] += int((select_top(magnitudes, c, scale, rng) < c).sum())
        accepted = textbook_above_threshold(magnitudes, 0.5, c, pure, rng)
        found["threshold"] += sum(i < c for i in accepted)
    # Blind luck finds c/d = 0.125 of them.
    assert found["threshold"] / (2000 * c) < 0.15
    assert found["top"] / (2000 * c) > 0.165


@pytest.mark.parametrize(
    ("size", "fraction", "count"), [(7, 1.0, 7), (7, 1e-9, 1), (7, 0.5, 4), (30, 0.1, 3), (1, 1, 1)]
)
def test_number_of_uploaded_coordinates(size: int, fraction: float, count: int) -> None:
    assert upload_count(size, fraction) == count


def test_without_noise_the_largest_are_chosen() -> None:
    scores = np.random.default_rng(6).uniform(size=200)
    chosen = select_top(scores, 15, 0.0, np.random.default_rng(0))
    assert chosen.tolist() == sorted(np.argsort(scores)[-15:].tolist())
    assert select_top(scores, 200, 1.0, np.random.default_rng(0)).tolist() == list(range(200))
