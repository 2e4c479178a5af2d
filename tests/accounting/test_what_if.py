"""The what-if figure: by hand, by enumeration of the profile, and never without its name."""

from __future__ import annotations

import json
import math

import pytest
from scipy import stats

from fedprivacy.accounting.what_if import gaussian_epsilon, what_if


@pytest.mark.parametrize(
    ("mu", "delta", "known"),
    [(1.0, 1e-5, 4.377178), (0.5, 1e-5, 1.993091), (2.0, 1e-5, 9.997256), (1.0, 1e-6, 4.886554)],
)
def test_epsilon_of_a_gaussian(mu: float, delta: float, known: float) -> None:
    # Balle & Wang 2018; sigma = 1 / mu.
    assert gaussian_epsilon(mu, delta) == pytest.approx(known, abs=2e-6)


def test_large_mu_has_a_finite_epsilon_that_meets_delta() -> None:
    mu, delta = 3227.0, 1e-5
    found = gaussian_epsilon(mu, delta)
    # The second term is below e^-epsilon-free tails; the first alone is an upper bound of delta.
    assert stats.norm.sf(found / mu - mu / 2) == pytest.approx(delta, rel=0.5)
    assert gaussian_epsilon(1e-9, 0.5) == 0.0


def test_rounds_add_in_squares_and_the_worst_site_counts() -> None:
    found = what_if([{"a": 3.0, "b": 1.0}, {"a": 4.0, "b": 9.0}, {}], 1e-5)
    assert found is not None
    assert found.mu == pytest.approx(math.sqrt(82))
    assert found.rounds == 2
    assert found.epsilon == pytest.approx(gaussian_epsilon(math.sqrt(82), 1e-5))


def test_it_says_that_it_is_no_guarantee() -> None:
    found = what_if([{"a": 1.0}], 1e-5)
    said = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert said["direction"] == "what-if"
    assert "no guarantee" in said["about"]
    assert what_if([{}, {}], 1e-5) is None
