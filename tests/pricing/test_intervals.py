from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedprivacy.pricing.intervals import NO_INTERVAL, paired_mean


def test_the_interval_is_the_percentile_bootstrap_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(0.05, 0.02, 12)
    found = paired_mean(values.tolist())
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.001)
    assert paired_mean(values.tolist()) == found


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(2), 0
    for _ in range(200):
        found = paired_mean(rng.normal(1.0, 1.0, 20).tolist())
        hits += found.low <= 1.0 <= found.high
    assert 0.86 <= hits / 200 <= 0.98


def test_one_seed_has_no_interval_and_says_so() -> None:
    found = paired_mean([0.5])
    assert (found.low, found.high, found.n) == (None, None, 1)
    assert NO_INTERVAL in found.text()
    assert NO_INTERVAL in found.to_json()["text"]
    assert paired_mean([]) is None


def test_equal_values_have_an_interval_of_no_length() -> None:
    found = paired_mean([0.25, 0.25, 0.25])
    assert (found.low, found.high) == (0.25, 0.25)
    assert found.text() == "0.250 [0.250, 0.250] (n=3)"
