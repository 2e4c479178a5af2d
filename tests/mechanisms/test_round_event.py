"""What a round of DP-SGD's steps is billed as."""

from __future__ import annotations

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant

from fedprivacy.accounting.shuffling import shuffle_epsilon_floor
from fedprivacy.mechanisms.round_event import round_event, shuffle_details
from fedprivacy.mechanisms.sampling import batches_per_pass, dpsgd_steps


def test_poisson_batches_are_billed_as_subsampled_gaussians_one_a_step() -> None:
    event = round_event("poisson", 1.1, 0.02, 70)
    sampled = dp_accounting.PoissonSampledDpEvent(0.02, dp_accounting.GaussianDpEvent(1.1))
    assert event == dp_accounting.SelfComposedDpEvent(sampled, 70)


def test_rounds_that_are_alike_share_their_event_and_others_do_not() -> None:
    event = round_event("poisson", 2.0, 0.1, 10)
    assert round_event("poisson", 2.0, 0.1, 10) is event
    # As numbers they are equal; a ledger tells them apart.
    assert type(round_event("poisson", 2, 0.1, 10).event.event.noise_multiplier) is int
    others = [("poisson", 2.1, 0.1, 10), ("poisson", 2.0, 0.2, 10), ("poisson", 2.0, 0.1, 11)]
    assert all(round_event(*other) != event for other in others)


def test_shuffling_is_billed_without_amplification_and_never_below_its_floor() -> None:
    # The known answer: 50 batches, noise 0.8, delta 1e-3; Poisson would claim 1.030.
    event = round_event("shuffle", 0.8, 0.02, dpsgd_steps(1, 0.02))
    assert event == dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(0.8), 1)
    accountant = PLDAccountant(
        dp_accounting.NeighboringRelation.REPLACE_SPECIAL, value_discretization_interval=1e-3
    )
    accountant.compose(event)
    assert accountant.get_epsilon(1e-3) == pytest.approx(4.145, abs=0.002)
    assert accountant.get_epsilon(1e-3) >= shuffle_epsilon_floor(1e-3, 0.8, 50) > 4.02


@pytest.mark.parametrize(("sigma", "rate", "epochs"), [(0.8, 0.02, 1), (1.0, 0.2, 2), (2, 0.1, 1)])
def test_the_floor_shown_is_below_the_bill(sigma: float, rate: float, epochs: int) -> None:
    steps = dpsgd_steps(epochs, rate)
    details = shuffle_details(sigma, rate, steps)
    accountant = PLDAccountant(
        dp_accounting.NeighboringRelation.REPLACE_SPECIAL, value_discretization_interval=1e-3
    )
    accountant.compose(round_event("shuffle", sigma, rate, steps))
    assert 0 < details["epsilon_at_least"] <= accountant.get_epsilon(1e-5)
    assert details["passes"] == epochs
    assert f"{batches_per_pass(rate)} shuffled batches" in str(details["epsilon_at_least_of"])
