"""What an update filter owes, as named checks: ``test_filter_checks.py`` runs them on the filters,
``test_filter_mutants.py`` on broken copies, where they must fail.

Each takes ``make_task`` and a filter, and measures what it does against what its release says.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import dp_accounting
import numpy as np
import torch
from scipy import stats

from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.base import Mechanism
from fedprivacy.training.plain import train_plain

SIZE = 6000
ALMOST_NEVER = 1e-4


def filtered(make_task, part: Mechanism, update: torch.Tensor, **task: object) -> np.ndarray:
    made = make_task(**task)
    return part.protect(update, made, train_plain(made)).update.double().numpy()


def noise_of(make_task, part: Mechanism, **task: object) -> np.ndarray:
    """What is added to a tiny update that no clip touches."""
    tiny = torch.zeros(SIZE)
    tiny[0] = 1e-12
    return filtered(make_task, part, tiny, **task)


def said(make_task, part: Mechanism, **task: object):
    made = make_task(**task)
    return part.release(made, train_plain(made))


def billed_scale(event: dp_accounting.DpEvent) -> float:
    """Noise of the release over its clip norm, as the ledger has it."""
    return float(event.noise_multiplier)


def check_noise_has_the_scale_that_is_billed(make_task, part: Mechanism) -> None:
    for strength in (1.0, 0.4):
        release = said(make_task, part, strength=strength)
        scale = billed_scale(release.dp_event) * part.clip
        law = "laplace" if part.noise == "laplace" else "norm"
        noise = noise_of(make_task, part, strength=strength)
        assert stats.kstest(noise, law, args=(0, scale)).pvalue > ALMOST_NEVER


def check_a_site_is_bounded_before_the_noise(make_task, part: Mechanism) -> None:
    """The same noise under two updates: their difference is that of the clipped ones."""
    order = 1 if part.noise == "laplace" else 2
    far = torch.linspace(-5, 5, SIZE)
    one, other = filtered(make_task, part, far), filtered(make_task, part, -far)
    assert np.linalg.norm(one - other, order) <= 2 * part.clip * (1 + 1e-4)


def check_what_leaves_is_not_clipped_again(make_task, part: Mechanism) -> None:
    order = 1 if part.noise == "laplace" else 2
    far = torch.linspace(-5, 5, SIZE)
    assert np.linalg.norm(filtered(make_task, part, far), order) > 3 * part.clip


def check_rounds_and_sites_have_their_own_noise(make_task, part: Mechanism) -> None:
    places = [{"site": site, "round_number": number} for site in (0, 1) for number in (1, 2)]
    noises = [tuple(noise_of(make_task, part, **place)[:20]) for place in places]
    assert len(set(noises)) == len(places)


def check_every_round_is_priced_alike(make_task, part: Mechanism) -> None:
    events = {said(make_task, part, round_number=number).dp_event for number in range(1, 6)}
    assert len(events) == 1
    assert dp_accounting.NoOpDpEvent() not in events


def check_nothing_that_is_not_finite_leaves(make_task, part: Mechanism) -> None:
    for bad in (math.nan, math.inf):
        try:
            filtered(make_task, part, torch.full((5,), bad))
        except ProtectionError:
            continue
        raise AssertionError(f"{bad} left the site")


def check_every_value_gets_noise(make_task, part: Mechanism) -> None:
    assert np.all(noise_of(make_task, part) != 0)


def check_the_direction_survives(make_task, part: Mechanism) -> None:
    """Clipping keeps the direction; noise of 1 clip norm per coordinate does not drown a norm."""
    update = torch.zeros(SIZE)
    update[:2] = torch.tensor([30.0, 40.0])
    found = np.mean(
        [filtered(make_task, part, update, round_number=number)[:2] for number in range(1, 1500)],
        axis=0,
    )
    order = 1 if part.noise == "laplace" else 2
    expected = np.array([30.0, 40.0]) * part.clip / np.linalg.norm([30.0, 40.0], order)
    assert np.allclose(found, expected, atol=0.15 * part.clip)


CHECKS: dict[str, Callable[..., None]] = {
    name: check for name, check in list(globals().items()) if name.startswith("check_")
}
