"""Noise on the records: drawn once, its distribution, its price, and what stays raw."""

from __future__ import annotations

import math
from dataclasses import replace

import dp_accounting
import numpy as np
import pytest
import torch
from scipy import stats

from fedprivacy.accounting import Event, epsilon
from fedprivacy.accounting.gaussian import gaussian_delta
from fedprivacy.config.schema import LocalSourceConf
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.mechanisms.local_source import (
    LocalSource,
    clip_features,
    diameter,
    randomised_response,
    response_epsilon,
)
from fedprivacy.training.plain import train_plain
from fedprivacy.training.randomness import Streams


def mechanism(**settings: object) -> LocalSource:
    return LocalSource.from_conf(LocalSourceConf(**settings))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def release(make_task, source: LocalSource, **changes: object):
    task = replace(make_task(), **changes)
    return source.release(task, train_plain(task))


def priced(event: dp_accounting.DpEvent, delta: float = 1e-5) -> float:
    unit, relation = "record", "replace_one"
    one = Event(1, "a", "local_source", unit, relation, "server_updates", event, True)
    return epsilon([one], delta, relation)


def test_the_diameter_is_that_of_the_clipped_set() -> None:
    draws = rng().uniform(-9, 9, (300, 4))
    for bounds, radius in (((-1.0, 2.0), None), ((-1.0, 2.0), 1.2), ((0.0, 1.0), 50.0)):
        inside = clip_features(draws, bounds, radius)
        corners = np.array([[bounds[0]] * 4, [bounds[1]] * 4])
        extreme = clip_features(corners, bounds, radius)
        largest = float(np.linalg.norm(extreme[0] - extreme[1]))
        spread = np.linalg.norm(inside[:, None] - inside[None], axis=2).max()
        assert diameter(4, bounds, radius) == pytest.approx(largest)
        assert spread <= largest + 1e-9


def test_features_get_normal_noise_of_z_times_half_the_diameter() -> None:
    source = mechanism(noise_multiplier=0.5, bounds=[-2.0, 2.0])
    x = torch.zeros(2000, 9)
    noisy, _ = source.records(x, torch.zeros(2000, dtype=torch.long), 2, rng())
    scale = 0.5 * (3 * 4) / 2
    assert stats.kstest(noisy.numpy().ravel(), "norm", args=(0, scale)).pvalue > 0.01
    assert stats.kstest(noisy.numpy().ravel(), "norm", args=(0, scale / 2)).pvalue < 1e-6


def test_a_record_beyond_the_bounds_counts_as_the_bound() -> None:
    source = mechanism(noise_multiplier=1.0, bounds=[-1.0, 1.0])
    y = torch.zeros(3, dtype=torch.long)
    far, _ = source.records(torch.full((3, 5), 1e6), y, 2, rng())
    near, _ = source.records(torch.full((3, 5), 1.0), y, 2, rng())
    assert torch.equal(far, near)


@pytest.mark.parametrize("classes", [2, 4])
def test_labels_are_kept_as_often_as_stated_and_others_are_uniform(classes: int) -> None:
    keep, n = 0.7, 20_000
    labels = np.ones(n, dtype=np.int64)
    counts = np.bincount(randomised_response(labels, keep, classes, rng()), minlength=classes)
    expected = np.full(classes, n * (1 - keep) / (classes - 1))
    expected[1] = n * keep
    assert stats.chisquare(counts, expected).pvalue > 0.01
    wrong = np.full(classes, n * 0.25 / (classes - 1))
    wrong[1] = n * 0.75
    assert stats.chisquare(counts, wrong).pvalue < 1e-6


@pytest.mark.parametrize(("keep", "classes"), [(0.9, 2), (0.6, 4)])
def test_the_response_costs_its_log_odds(make_task, keep: float, classes: int) -> None:
    stated = response_epsilon(keep, classes)
    # By the definition: the worst ratio of two answers' probabilities.
    assert stated == pytest.approx(math.log(keep / ((1 - keep) / (classes - 1))))
    source = mechanism(label_keep=keep, noise_multiplier=1e4)
    event = release(make_task, source, n_classes=classes).dp_event
    assert priced(event, 1e-9) == pytest.approx(stated, abs=0.01)


def test_noise_and_response_together_cost_what_enumeration_says(make_task) -> None:
    z, keep, delta = 2.0, 0.9, 1e-5
    event = release(make_task, mechanism(noise_multiplier=z, label_keep=keep)).dp_event
    found = priced(event, delta)
    # Two labels: the loss of the response is +-l with odds e^l; the Gaussian's follows.
    log_odds = response_epsilon(keep, 2)

    def delta_at(eps: float) -> float:
        return keep * float(signed_delta(eps - log_odds)) + (1 - keep) * float(
            signed_delta(eps + log_odds)
        )

    def signed_delta(eps: float) -> float:
        mu = 2 / z
        return stats.norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * stats.norm.cdf(
            -mu / 2 - eps / mu
        )

    assert float(gaussian_delta(1.0, 2 / z)) == pytest.approx(signed_delta(1.0))
    assert delta_at(found) == pytest.approx(delta, rel=0.05)


def test_one_event_for_all_rounds(make_task) -> None:
    first = release(make_task, mechanism())
    later = release(make_task, mechanism(), protected_before=3)
    assert isinstance(first.dp_event, dp_accounting.ComposedDpEvent)
    assert later.dp_event == dp_accounting.NoOpDpEvent()
    assert [(s.unit, s.neighbouring) for s in first.statements] == [
        ("record", "replace_one"),
        ("patient", "replace_one"),
    ]


def test_a_patient_with_several_records_costs_their_composition(make_task) -> None:
    source = mechanism(noise_multiplier=3.0)
    said = release(make_task, source, records_per_patient=4)
    record, patient = said.statements
    four = dp_accounting.SelfComposedDpEvent(record.dp_event, 4)
    assert patient.dp_event == four
    naive = dp_accounting.ComposedDpEvent([record.dp_event] * 4)
    assert priced(four) == pytest.approx(priced(naive), abs=1e-6)


def test_a_raw_round_proves_nothing(make_task) -> None:
    said = release(make_task, mechanism(), strength=None)
    assert all(one.dp_event == dp_accounting.NonPrivateDpEvent() for one in said.statements)
    assert all("unprotected" in one.reason for one in said.statements)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"noise_multiplier": 0.0}, "features"), ({"label_keep": 1.0}, "labels")],
)
def test_what_stays_raw_is_infinite(make_task, settings: dict, words: str) -> None:
    said = release(make_task, mechanism(**settings))
    assert said.dp_event == dp_accounting.NonPrivateDpEvent()
    assert words in said.reason


def test_noise_is_the_same_in_all_rounds_and_processes_for_one_secret() -> None:
    def noise(randomness: str, number: int, site: int, secret: int) -> tuple[float, ...]:
        return tuple(Streams(7, randomness, number, site).kept("noise", secret).normal(size=4))

    for randomness in ("secret", "seeded"):
        assert noise(randomness, 1, 0, 5) == noise(randomness, 9, 0, 5)
        assert noise(randomness, 1, 0, 5) != noise(randomness, 1, 1, 5)
    assert noise("secret", 1, 0, 5) != noise("secret", 1, 0, 6)


def test_masks_and_bad_values_are_refused() -> None:
    with pytest.raises(ProtectionError, match="segmentation"):
        mechanism().records(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4).long(), 2, rng())
    with pytest.raises(ProtectionError, match="nothing was trained"):
        mechanism().records(torch.full((2, 3), math.nan), torch.zeros(2).long(), 2, rng())
    with pytest.raises(ConfigError, match="label_keep"):
        mechanism(label_keep=0.2).records(torch.zeros(2, 3), torch.zeros(2).long(), 2, rng())


@pytest.mark.parametrize(
    "settings",
    [
        {"bounds": [1.0, 1.0]},
        {"bounds": [0.0, math.inf]},
        {"bounds": [0.0]},
        {"radius": 0.0},
        {"noise_multiplier": -1.0},
        {"label_keep": 0.0},
        {"label_keep": 1.1},
    ],
)
def test_what_is_out_of_range_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        mechanism(**settings)
