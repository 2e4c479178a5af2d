from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import dp_event as dp
from scipy.integrate import quad

from fedprivacy.accounting.accountant import epsilon
from fedprivacy.accounting.pure import (
    epsilon_from_renyi,
    laplace_renyi,
    pure_event,
    pure_renyi,
)
from fedprivacy.errors import AccountingError


@pytest.mark.parametrize("value", [0.01, 0.5, 2.0, 30.0])
def test_the_event_costs_what_it_says(event, value):
    priced = epsilon([event(pure_event(value), neighbouring="replace_one")], 1e-10, "replace_one")
    assert value - 1e-6 <= priced <= value + 1.1e-3


def test_it_is_worse_than_laplace_of_the_same_bound(event):
    def price(release):
        return epsilon([event(release, neighbouring="replace_one")], 1e-5, "replace_one")

    for count in (1, 10, 50):
        laplace = dp.SelfComposedDpEvent(dp.LaplaceDpEvent(2.0 / 0.3), count)
        worst = dp.SelfComposedDpEvent(pure_event(0.3), count)
        assert price(laplace) <= price(worst) + 1e-6
        assert price(worst) <= 0.3 * count + 2e-3 * count


def test_a_bound_of_zero_releases_nothing(event):
    assert epsilon([event(pure_event(0.0), neighbouring="replace_one")], 1e-5, "replace_one") == 0


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 701.0])
def test_out_of_range(value):
    with pytest.raises(AccountingError):
        pure_event(value)


@pytest.mark.parametrize("order", [1.01, 1.5, 2.0, 8.0])
@pytest.mark.parametrize("value", [0.1, 1.0, 3.0])
def test_laplace_renyi_against_integration(order, value):
    scale = 1 / value

    def integrand(x):
        return 0.5 / scale * math.exp(
            -order * abs(x) / scale - (1 - order) * abs(x - 1) / scale
        )  # fmt: skip

    pieces = [quad(integrand, low, high)[0] for low, high in ((-np.inf, 0), (0, 1), (1, np.inf))]
    assert laplace_renyi(order, value) == pytest.approx(
        math.log(sum(pieces)) / (order - 1), rel=1e-6, abs=1e-9
    )


def test_renyi_of_two_answers_stays_below_the_general_bound():
    """The known case of dp-accounting's tests is reproduced by the same sum."""
    for value in (0.1, 1.0, 5.0):
        truth = 1 / (1 + math.exp(-value))
        for order in (1.1, 2.0, 16.0):
            exact = math.log(
                truth**order * (1 - truth) ** (1 - order)
                + (1 - truth) ** order * truth ** (1 - order)
            ) / (order - 1)
            assert exact <= pure_renyi(order, value) + 1e-12
    assert laplace_renyi(1e6, 3.0) == pytest.approx(3.0, abs=1e-3)
    assert laplace_renyi(2.0, 800.0) == pytest.approx(800 + math.log(2 / 3), rel=1e-12)


def test_conversion_to_epsilon():
    # Gaussian of sigma 1 at its best order: dp-accounting's own conversion gives 4.7285.
    best = min(epsilon_from_renyi(a, a / 2, 1e-5) for a in np.linspace(1.5, 20, 1000))
    assert best == pytest.approx(4.7285, abs=1e-3)
    assert epsilon_from_renyi(2.0, 0.0, 0.9) == 0.0
    # dp-accounting's case worked by hand: divergence 1.1 at every order from 2 to 32.
    pure = min(epsilon_from_renyi(order, 1.1, 1e-5) for order in range(2, 33))
    assert pure == pytest.approx(1.32783806176, abs=1e-10)


def test_nonsense_is_refused():
    for function in (laplace_renyi, pure_renyi):
        with pytest.raises(AccountingError):
            function(1.0, 0.5)
        with pytest.raises(AccountingError):
            function(2.0, -0.5)
