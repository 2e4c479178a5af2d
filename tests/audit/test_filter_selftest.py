"""Update filters hold against the best attack on them, and a round without its filter is found out.

Each of many sites sends +C or -C on one coordinate, by a fair coin: the two updates that are
furthest apart, so that what leaves the site is the best score there is. Sites are independent, each
with its own noise, so each is a canary of the filter's own bound (one site, replace_one). The other
coordinates hold noise alone, whose law is tested by itself: half of it is too little to be guessed
from, and still not what the ledger bills.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from mechanisms.conftest import build_task
from scipy import stats

from fedprivacy.accounting import Event, epsilon
from fedprivacy.audit.engine_selftest import noise_p_value
from fedprivacy.audit.one_run import guess_counts, one_run_bound
from fedprivacy.mechanisms.gaussian_clipped import ClippedGaussian
from fedprivacy.training.task import LocalTask, Trained

SITES, SIZE, ROUNDS, DELTA = 1500, 3, 3, 1e-5
TRAINED = Trained(1, 0.0)
Send = Callable[[ClippedGaussian, torch.Tensor, LocalTask], torch.Tensor]


def as_it_is(part: ClippedGaussian, update: torch.Tensor, task: LocalTask) -> torch.Tensor:
    return part.protect(update, task, TRAINED).update


def skipped_in_round_2(part: ClippedGaussian, update: torch.Tensor, task: LocalTask):
    return update if task.streams.round_number == 2 else as_it_is(part, update, task)


def not_clipped(part: ClippedGaussian, update: torch.Tensor, task: LocalTask) -> torch.Tensor:
    """Updates four times as long as the clip, with the noise of the clip."""
    wide = ClippedGaussian(4 * part.clip, part.noise_multiplier / 4, part.noise)
    return as_it_is(wide, 4 * update, task)


def audited(part: ClippedGaussian, send: Send) -> tuple[float, float]:
    """Epsilon that the filter's own events prove, and the largest that an attacker showed."""
    coins = np.random.default_rng(5).random(SITES) < 0.5
    seen = np.zeros((ROUNDS, SITES))
    events = []
    for number in range(1, ROUNDS + 1):
        for site, coin in enumerate(coins):
            task = build_task(n=2, round_number=number, site=site)
            update = torch.zeros(SIZE)
            update[0] = part.clip if coin else -part.clip
            seen[number - 1, site] = float(send(part, update, task)[0])
        said = part.release(task, TRAINED)
        events.append(
            Event(
                number, "a", part.name, said.unit, said.neighbouring, "server_updates",
                said.dp_event, True,
            )
        )  # fmt: skip
    scores, counts = [seen.sum(0), *seen], guess_counts(SITES)
    tried = len(scores) * len(counts)
    bounds = [one_run_bound(s, coins, delta=DELTA, counts=counts, tried=tried) for s in scores]
    return epsilon(events, DELTA, "replace_one"), max(bound.epsilon for bound in bounds)


def half_the_noise(part: ClippedGaussian, update: torch.Tensor, task: LocalTask) -> torch.Tensor:
    return as_it_is(ClippedGaussian(part.clip, part.noise_multiplier / 2, part.noise), update, task)


def noise_p(part: ClippedGaussian, send: Send, sites: int = 60) -> float:
    """Probability of as little noise as the filter's, under the noise that it bills."""
    tasks = [build_task(n=2, round_number=1, site=site) for site in range(sites)]
    sent = [send(part, torch.tensor([part.clip, 0.0, 0.0]), task)[1:] for task in tasks]
    left = torch.cat(sent).double().numpy() / part.clip
    billed = part.release(tasks[0], TRAINED).dp_event.noise_multiplier
    if part.noise == "laplace":  # twice |noise| over its scale is chi-square with two degrees
        return float(stats.chi2.cdf(2 * np.abs(left).sum() / billed, 2 * len(left)))
    return noise_p_value(left, billed, 1)


@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
def test_a_filter_with_half_its_noise_is_found_out(noise: str) -> None:
    part = ClippedGaussian(0.7, 4.0, noise)
    assert noise_p(part, as_it_is) > 0.001
    assert noise_p(part, half_the_noise) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
def test_the_filter_as_it_is_stays_below_what_it_proves(noise: str) -> None:
    proven, shown = audited(ClippedGaussian(0.7, 4.0, noise), as_it_is)
    assert 0 < shown <= proven


@pytest.mark.slow
@pytest.mark.parametrize("send", [skipped_in_round_2, not_clipped])
def test_a_broken_filter_shows_more_than_it_proves(send: Send) -> None:
    proven, shown = audited(ClippedGaussian(0.7, 12.0, "gaussian"), send)
    assert shown > proven
