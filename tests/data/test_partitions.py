"""Partitions are disjoint, complete, deterministic, and of the sizes their kind promises."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedprivacy.data.partitions import (
    PARTITION_KINDS,
    QUANTITY_KINDS,
    partition_rows,
    quantity_sizes,
)
from fedprivacy.errors import ConfigError


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(60, 400),
    kind=st.sampled_from(PARTITION_KINDS),
    n_sites=st.integers(1, 4),
    n_classes=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_disjoint_complete_sorted_deterministic(
    n: int, kind: str, n_sites: int, n_classes: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, n_classes, n)
    parts = partition_rows(n, labels, kind, n_sites, 1.0, seed)
    again = partition_rows(n, labels, kind, n_sites, 1.0, seed)
    assert len(parts) == n_sites
    for part, twin in zip(parts, again, strict=True):
        assert part.dtype == np.int64
        assert len(part) >= 1
        assert (np.diff(part) > 0).all()
        np.testing.assert_array_equal(part, twin)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(n))


@pytest.mark.parametrize("kind", PARTITION_KINDS)
def test_seed_changes_the_division(kind: str) -> None:
    labels = np.arange(200) % 2
    one, two = (partition_rows(200, labels, kind, 3, 1.0, seed) for seed in (0, 1))
    assert any(not np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@given(n=st.integers(1, 10**9), kind=st.sampled_from(QUANTITY_KINDS), n_sites=st.integers(1, 12))
def test_sizes_are_floors_of_exact_shares(n: int, kind: str, n_sites: int) -> None:
    weight = {
        "uniform": lambda i: Fraction(1),
        "linear": lambda i: Fraction(i),
        "square": lambda i: Fraction(i * i),
        "exponential": lambda i: Fraction(math.exp(i)),
    }[kind]
    total = sum(weight(i) for i in range(1, n_sites + 1))
    sizes = quantity_sizes(n, kind, n_sites)
    assert sum(sizes) == n
    for i, size in enumerate(sizes[:-1], start=1):
        # e^i is not exact in floating point: there a share may fall one below or above.
        slack = Fraction(n, 10**14) if kind == "exponential" else Fraction(0)
        share = n * weight(i) / total
        assert math.floor(share - slack) <= size <= math.floor(share + slack)


def test_shares_of_nvflare_for_ten_million_rows() -> None:
    """Shares of NVIDIA FLARE's HIGGS example, five sites, to their published digits."""
    shares = {
        "linear": (0.067, 0.133, 0.2, 0.267, 0.333),
        "square": (0.018, 0.073, 0.164, 0.291, 0.455),
        "exponential": (0.0117, 0.0317, 0.0861, 0.2341, 0.6364),
    }
    for kind, expected in shares.items():
        found = np.array(quantity_sizes(10_000_000, kind, 5)) / 1e7
        np.testing.assert_allclose(found, expected, atol=5e-4)


def test_many_exponential_sites_do_not_overflow() -> None:
    assert sum(quantity_sizes(10**6, "exponential", 2000)) == 10**6


def test_contiguous_cut_follows_a_seeded_permutation() -> None:
    order = np.random.default_rng(7).permutation(10)
    parts = partition_rows(10, None, "linear", 3, 1.0, 7)
    for part, rows in zip(parts, (order[:1], order[1:4], order[4:]), strict=True):
        np.testing.assert_array_equal(part, np.sort(rows))


def test_dirichlet_skew_grows_as_alpha_falls() -> None:
    labels = np.random.default_rng(0).integers(0, 2, 20_000)

    def spread(alpha: float) -> float:
        """Mean absolute deviation of the sites' share of class 1 from the overall share."""
        parts = [
            part
            for seed in range(20)
            for part in partition_rows(20_000, labels, "dirichlet", 3, alpha, seed)
        ]
        return float(np.mean([abs(labels[part].mean() - labels.mean()) for part in parts]))

    nearly_even, mild, strong = spread(1e4), spread(5.0), spread(0.5)
    assert nearly_even < 0.02 < mild < strong
    assert strong > 0.15


def test_dirichlet_shares_have_the_dirichlet_moments() -> None:
    """Share of one class at one site: mean 1/k, variance (1/k)(1 - 1/k)/(k alpha + 1)."""
    n, k, alpha = 2000, 3, 2.0
    labels = np.zeros(n, dtype=np.int64)
    shares = np.array(
        [
            [len(part) / n for part in partition_rows(n, labels, "dirichlet", k, alpha, seed)]
            for seed in range(800)
        ]
    )
    variance = (1 / k) * (1 - 1 / k) / (k * alpha + 1)
    np.testing.assert_allclose(shares.mean(axis=0), 1 / k, atol=4 * math.sqrt(variance / 800))
    np.testing.assert_allclose(shares.var(axis=0), variance, rtol=0.2)


def test_dirichlet_permutes_within_a_class() -> None:
    """Rows of one class go to a site at random, not in blocks of the table."""
    labels = np.zeros(1000, dtype=np.int64)
    part = partition_rows(1000, labels, "dirichlet", 2, 100.0, 0)[0]
    assert len(part) < part[-1] - part[0] < 1000
    assert abs(part.mean() - 499.5) < 60


def test_refusals_name_key_and_way_out() -> None:
    labels = np.zeros(10, dtype=np.int64)
    with pytest.raises(ConfigError, match="uniform, linear, square, exponential, dirichlet"):
        partition_rows(10, labels, "natural", 2, 1.0, 0)
    with pytest.raises(ConfigError, match=r"dataset\.n_sites=11 .* from 1 to 10"):
        partition_rows(10, labels, "uniform", 11, 1.0, 0)
    with pytest.raises(ConfigError, match=r"dataset\.n_sites=0 "):
        partition_rows(10, labels, "uniform", 0, 1.0, 0)
    with pytest.raises(ConfigError, match="smallest of 5 sites 0 of 10 rows"):
        partition_rows(10, labels, "exponential", 5, 1.0, 0)
    for alpha in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match=r"dataset\.dirichlet_alpha"):
            partition_rows(10, labels, "dirichlet", 2, alpha, 0)


def test_dirichlet_gives_up_after_bounded_draws() -> None:
    labels = np.zeros(30, dtype=np.int64)
    with pytest.raises(ConfigError, match=r"100 draws each left one of 10 sites .*larger"):
        partition_rows(30, labels, "dirichlet", 10, 0.01, 0)


def test_dirichlet_redraws_until_sites_are_large_enough() -> None:
    labels = np.arange(120) % 2
    for seed in range(30):
        parts = partition_rows(120, labels, "dirichlet", 3, 0.5, seed, min_rows=10)
        assert min(len(part) for part in parts) >= 10


def test_dirichlet_without_labels_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="one label per row"):
        partition_rows(10, None, "dirichlet", 2, 1.0, 0)
