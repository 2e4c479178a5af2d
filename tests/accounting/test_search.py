"""The price of a search: published values, a closed form, and composition from the other side."""

from __future__ import annotations

import math

import pytest
from dp_accounting import dp_event as dp

from fedprivacy.accounting import Event, epsilon
from fedprivacy.accounting.search import search_epsilon
from fedprivacy.errors import AccountingError

RUN = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(0.01, dp.GaussianDpEvent(1.0)), 1000)


@pytest.mark.parametrize(
    ("mean", "shape", "known"),
    [(10, 0, 3.523), (10, 1, 4.103), (10, math.inf, 4.329), (50, 0, 4.08), (50, 1, 4.94)],
)
def test_random_search_of_which_only_the_best_is_shown(mean, shape, known) -> None:
    assert search_epsilon(RUN, mean, shape, 1e-5, "zero_out") == pytest.approx(known, abs=0.006)


def test_runs_that_are_all_looked_at_compose() -> None:
    event = Event(1, "a", "x", "record", "zero_out", "server_updates", RUN, True)
    assert epsilon([event] * 10, 1e-5, "zero_out") == pytest.approx(6.191, abs=0.01)


@pytest.mark.parametrize("shape", [0, 1, 2])
def test_pure_runs_cost_two_plus_shape_times(shape: int) -> None:
    # Papernot & Steinke 2022, corollary 3: epsilon (2 + shape).
    pure = search_epsilon(dp.LaplaceDpEvent(2.0), 10, shape, 1e-30, "zero_out")
    exact = 0.5 * (2 + shape)
    # Renyi orders end somewhere, so the bound lies a little above the limit.
    assert exact * 0.999 <= pure <= exact * 1.1


@pytest.mark.parametrize(("mean", "shape"), [(0.5, 1), (10, -1), (10, math.nan)])
def test_what_is_not_covered_is_refused(mean: float, shape: float) -> None:
    with pytest.raises(AccountingError, match="allowed"):
        search_epsilon(RUN, mean, shape, 1e-5, "zero_out")
    with pytest.raises(AccountingError, match="allowed"):
        search_epsilon(RUN, 10, 1, 1e-5, "replace_one")
