"""Composition by arrays is dp-accounting's own composition, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution as plds

from fedprivacy.accounting.convolution import compose

GRID = {"value_discretization_interval": 1e-3}
REMOVE = NeighboringRelation.REPLACE_SPECIAL


def sampled(sigma: float, rate: float):
    return plds.from_gaussian_mechanism(
        sigma, sampling_prob=rate, neighboring_relation=REMOVE, **GRID
    )


PAIRS = {
    "equal": (sampled(1.0, 0.1), sampled(1.0, 0.1)),
    "unequal": (sampled(0.7, 0.02), sampled(3.0, 1.0)),
    "composed": (sampled(1.0, 0.1).self_compose(50), sampled(1.0, 0.1).self_compose(10)),
    "symmetric": (plds.from_laplace_mechanism(2.0, **GRID), sampled(2.0, 0.5)),
    "sparse": (
        plds.from_randomized_response(0.2, 4, **GRID),
        plds.from_randomized_response(0.3, 4, **GRID),
    ),
    "identity": (plds.identity(**GRID), sampled(1.0, 0.1)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_same_as_the_library_bit_by_bit(name: str) -> None:
    one, other = PAIRS[name]
    ours, theirs = compose(one, other), one.compose(other)
    for side in ("_pmf_remove", "_pmf_add"):
        mine, its = (getattr(found, side).to_dense_pmf() for found in (ours, theirs))
        assert mine._lower_loss == its._lower_loss
        assert mine._infinity_mass == its._infinity_mass
        assert np.array_equal(mine._probs, its._probs)
    assert ours.get_epsilon_for_delta(1e-5) == theirs.get_epsilon_for_delta(1e-5)


def test_a_hundred_rounds_are_the_library_s_hundred_rounds() -> None:
    step = sampled(1.2, 0.05).self_compose(20)
    ours = theirs = plds.identity(**GRID)
    for _ in range(100):
        ours, theirs = compose(ours, step), theirs.compose(step)
    assert ours.get_epsilon_for_delta(1e-5) == theirs.get_epsilon_for_delta(1e-5)
    # Rounded up, tails to infinity: never below the same steps composed at once.
    at_once = sampled(1.2, 0.05).self_compose(2000).get_epsilon_for_delta(1e-5)
    assert ours.get_epsilon_for_delta(1e-5) == pytest.approx(at_once, rel=1e-6)
