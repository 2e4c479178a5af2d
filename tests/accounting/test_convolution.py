"""Composition is dp-accounting's own composition, to rounding."""

from __future__ import annotations

import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution as plds

from fedprivacy.accounting import convolution
from fedprivacy.accounting.convolution import compose, composed_of, self_compose

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


def same(ours, theirs, mass: float = 4e-15, infinite: float = 1e-17) -> None:
    """Equal to rounding: atoms together, and what is infinite."""
    for side in ("_pmf_remove", "_pmf_add"):
        mine, its = (getattr(found, side).to_dense_pmf() for found in (ours, theirs))
        assert mine._infinity_mass == pytest.approx(its._infinity_mass, rel=1e-9, abs=infinite)
        low = min(mine._lower_loss, its._lower_loss)
        high = max(one._lower_loss + one.size for one in (mine, its))
        padded = [np.zeros(high - low), np.zeros(high - low)]
        for into, pmf in zip(padded, (mine, its), strict=True):
            start = pmf._lower_loss - low
            into[start : start + pmf.size] = pmf._probs
        # Where tails are cut, rounding moves atoms: of 1e-15 in all.
        assert np.abs(padded[0] - padded[1]).sum() < mass
    for delta in (1e-3, 1e-5, 1e-8):
        expected = theirs.get_epsilon_for_delta(delta)
        assert ours.get_epsilon_for_delta(delta) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("name", PAIRS)
def test_the_same_as_the_library_to_rounding(name: str) -> None:
    one, other = PAIRS[name]
    ours, theirs = compose(one, other), one.compose(other)
    same(ours, theirs)


def test_few_transforms_are_kept() -> None:
    total = plds.identity(**GRID)
    for number in range(6):
        total = compose(total, sampled(1.0 + number, 0.1))
    assert len(convolution._kept) <= convolution._MOST_KEPT


POWERS = {
    "sampled": (sampled(1.0, 0.1), 10),
    "once": (sampled(1.0, 0.1), 1),
    "few atoms": (sampled(40.0, 0.01), 300),
    "symmetric": (plds.from_gaussian_mechanism(3.0, **GRID), 7),
    "sparse": (plds.from_randomized_response(0.2, 4, **GRID), 3),
    "sparse no more": (plds.from_randomized_response(0.2, 4, **GRID), 60),
    "long": (sampled(0.5, 0.5), 400),
}


@pytest.mark.parametrize("name", POWERS)
def test_a_power_is_the_library_s_to_rounding(name: str) -> None:
    one, count = POWERS[name]
    # Transforms of 10^5 atoms round each by 1e-18; the library bills 1e-15 even for a power of one.
    same(self_compose(one, count), one.self_compose(count), mass=1e-12, infinite=1.1e-15)


@pytest.mark.parametrize("many", [1, 2, 5, 8])
def test_many_factors_are_the_library_s_one_after_another(many: int) -> None:
    factors = [sampled(1.0 + number / 10, 0.1).self_compose(5) for number in range(many)]
    theirs = factors[0]
    for factor in factors[1:]:
        theirs = theirs.compose(factor)
    ours = composed_of(factors)
    for delta in (1e-3, 1e-5, 1e-8):
        expected = theirs.get_epsilon_for_delta(delta)
        assert ours.get_epsilon_for_delta(delta) == pytest.approx(
            expected, rel=many * 1e-15 / delta + 1e-12
        )


def test_a_hundred_rounds_are_the_library_s_hundred_rounds() -> None:
    step = sampled(1.2, 0.05).self_compose(20)
    ours = theirs = plds.identity(**GRID)
    for _ in range(100):
        ours, theirs = compose(ours, step), theirs.compose(step)
    for delta in (1e-3, 1e-5, 1e-8):
        expected = theirs.get_epsilon_for_delta(delta)
        # Mass of 1e-15 a round, cut here or there, beside delta.
        assert ours.get_epsilon_for_delta(delta) == pytest.approx(
            expected, rel=1e-15 / delta + 1e-12
        )
    # Rounded up, tails to infinity: never below the same steps composed at once.
    at_once = sampled(1.2, 0.05).self_compose(2000).get_epsilon_for_delta(1e-5)
    assert ours.get_epsilon_for_delta(1e-5) == pytest.approx(at_once, rel=1e-6)
