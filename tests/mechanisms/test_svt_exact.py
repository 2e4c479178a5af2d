from __future__ import annotations

import math
import time
from dataclasses import replace

import dp_accounting
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

from fedprivacy.accounting import Event, epsilon, gaussian_delta
from fedprivacy.accounting.history import history
from fedprivacy.config.schema import SvtExactConf
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.mechanisms.base import Release
from fedprivacy.mechanisms.gaussian_clipped import ClippedGaussian
from fedprivacy.mechanisms.selection import bounded_range_mu
from fedprivacy.mechanisms.svt_exact import (
    SvtExactFilter,
    exact_event,
    exact_filter,
    exact_scales,
)
from fedprivacy.training.task import Trained

TRAINED = Trained(4, 0.0)


def draws(d: int, scale: float = 0.02, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_t(3, d) * scale


def spent(releases: list[Release], delta: float = 1e-5) -> float:
    events = [
        Event(
            round=number,
            site="A",
            mechanism="svt_exact",
            unit=release.unit,
            neighbouring=release.neighbouring,
            view="server_updates",
            dp_event=release.dp_event,
            protected=True,
        )
        for number, release in enumerate(releases, 1)
    ]
    return epsilon(events, delta, "replace_one")


def gaussian_epsilon(mu: float, delta: float = 1e-5) -> float:
    return float(brentq(lambda x: float(gaussian_delta(x, mu)) - delta, 0, 500))


class Recording:
    """A real generator that keeps its Gumbel draws."""

    def __init__(self) -> None:
        self.rng, self.gumbels = np.random.default_rng(7), []

    def gumbel(self, loc: float, scale: float, size: int) -> NDArray[np.float64]:
        self.gumbels.append(self.rng.gumbel(loc, scale, size))
        return self.gumbels[-1]

    def __getattr__(self, name: str) -> object:
        return getattr(self.rng, name)


def test_scales_of_the_gaussian_form_by_hand() -> None:
    # d = 50, c = 5, z = 2, a = 0.36: mu_s = 0.6, per choice 0.6 / sqrt(5) = 0.268328;
    # e = 2 log(Phi(0.134164) / Phi(-0.134164)) = 2 log(0.553364 / 0.446636) = 0.42854.
    conf = SvtExactConf(clip=3.0, gamma=0.25, noise_multiplier=2.0, selection_share=0.36)
    scales = exact_scales(conf, 50)
    assert scales.count == 5
    assert scales.epsilon_choice == pytest.approx(0.42854, rel=1e-4)
    assert scales.gumbel == pytest.approx(0.5 / 0.42854, rel=1e-4)
    assert scales.release == pytest.approx(2.0 * 3.0 / 0.8)


def test_scales_of_the_laplace_form_by_hand() -> None:
    # Pure budget 2/z = 1: 0.3 for five choices, 0.7 for the values.
    conf = SvtExactConf(
        clip=3.0, gamma=0.25, noise_multiplier=2.0, selection_share=0.3, noise="laplace"
    )
    scales = exact_scales(conf, 50)
    assert scales.epsilon_choice == pytest.approx(0.06)
    assert scales.gumbel == pytest.approx(0.5 / 0.06)
    assert scales.release == pytest.approx(2 * 3.0 / 0.7)


def test_noise_on_the_scores_has_its_law() -> None:
    conf = SvtExactConf(fraction=0.2)
    recording = Recording()
    exact_filter(draws(20_000), conf, 1.0, recording)
    scale = exact_scales(conf, 20_000).gumbel
    assert stats.kstest(recording.gumbels[0], stats.gumbel_r(scale=scale).cdf).pvalue > 0.01


@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_noise_on_the_values_has_its_law(make_task, noise: str, share: float) -> None:
    # The clip is far above the norm, so what is subtracted is the chosen value itself.
    conf = SvtExactConf(
        fraction=0.5, clip=100.0, noise_multiplier=0.02, selection_share=share, noise=noise
    )
    update = torch.from_numpy(draws(20_000)).float()
    if noise == "laplace":
        update /= 100.0
    sent = SvtExactFilter(conf).protect(update, make_task(strength=0.5), TRAINED)
    chosen = sent.update != 0
    assert int(chosen.sum()) == 10_000
    kept = (1 - share) ** (0.5 if noise == "gaussian" else 1)
    law = (stats.norm if noise == "gaussian" else stats.laplace)(scale=100 * 0.02 * 0.5 / kept)
    noises = (sent.update - update)[chosen].double().numpy()
    assert stats.kstest(noises, law.cdf).pvalue > 0.01
    assert sent.noise_norm == pytest.approx(float(np.linalg.norm(noises)), rel=0.05)


def test_the_chosen_values_are_clipped_before_the_noise() -> None:
    update = np.zeros(1000)
    update[::100] = 50.0
    conf = SvtExactConf(fraction=0.01, clip=2.0, noise_multiplier=1e-4)
    sent = exact_filter(update, conf, 1.0, np.random.default_rng(0))
    assert np.array_equal(np.flatnonzero(sent), np.flatnonzero(update))
    assert np.linalg.norm(sent) == pytest.approx(2.0, rel=1e-2)
    as_laplace = replace(conf, noise="laplace", noise_multiplier=3e-3)
    sent = exact_filter(update, as_laplace, 1.0, np.random.default_rng(0))
    assert np.abs(sent).sum() == pytest.approx(2.0, rel=0.1)


def test_a_score_never_counts_for_more_than_gamma() -> None:
    # One huge value among 19 zeros: chosen with chance exp(e/2) / (exp(e/2) + 19), however huge.
    update = np.zeros(20)
    update[7] = 1e6
    conf = SvtExactConf(fraction=0.05, gamma=0.5, noise_multiplier=1.0)
    rng = np.random.default_rng(8)
    hits = sum(exact_filter(update, conf, 1.0, rng)[7] != 0 for _ in range(4000))
    odds = math.exp(exact_scales(conf, 20).epsilon_choice / 2)
    assert stats.binomtest(int(hits), 4000, odds / (odds + 19)).pvalue > 0.01


def test_exactly_c_coordinates_leave_without_replacement() -> None:
    for share in (0.0, 0.5):
        conf = SvtExactConf(fraction=0.1, selection_share=share)
        sent = exact_filter(draws(999), conf, 1.0, np.random.default_rng(1))
        assert np.count_nonzero(sent) == 100


def test_all_coordinates_leave_at_the_price_of_the_values_alone() -> None:
    conf = SvtExactConf(fraction=1.0, noise_multiplier=2.0)
    assert exact_scales(conf, 40).share == 0.0
    assert exact_event(conf, 40) == dp_accounting.GaussianDpEvent(2.0)
    sent = exact_filter(np.zeros(40), conf, 1.0, np.random.default_rng(0))
    assert np.count_nonzero(sent) == 40


def test_with_little_noise_the_largest_leave_and_with_much_anybody() -> None:
    update = draws(500)
    largest = set(np.argsort(np.abs(update))[-25:].tolist())
    found = []
    for z in (1e-4, 100.0):
        conf = SvtExactConf(fraction=0.05, gamma=1.0, noise_multiplier=z)
        shares = []
        for seed in range(20):
            sent = exact_filter(update, conf, 1.0, np.random.default_rng(seed))
            shares.append(len(largest & set(np.flatnonzero(sent).tolist())) / 25)
        found.append(float(np.mean(shares)))
    assert found[0] == 1.0
    assert found[1] == pytest.approx(0.05, abs=0.03)


def test_a_uniform_choice_does_not_look_at_the_values() -> None:
    conf = SvtExactConf(fraction=0.1, selection_share=0.0)
    one, other = (
        exact_filter(values, conf, 1.0, np.random.default_rng(3))
        for values in (draws(300, seed=1), draws(300, seed=2) * 100)
    )
    assert np.array_equal(one != 0, other != 0)


def test_cosine_falls_with_noise_and_the_full_update_has_the_larger_one(make_task) -> None:
    # What the module says of its worth: at one price, sparse loses to full.
    update = torch.from_numpy(draws(6000)).float()
    cosines: dict[str, list[float]] = {"sparse": [], "full": []}
    for z in (0.001, 0.03, 1.0):
        conf = SvtExactConf(noise_multiplier=z, gamma=0.1)
        mechanisms = {"sparse": SvtExactFilter(conf), "full": ClippedGaussian(1.0, z)}
        for name, mechanism in mechanisms.items():
            values = []
            for seed in range(5):
                sent = mechanism.protect(update, make_task(seed=seed), TRAINED).update
                values.append(torch.nn.functional.cosine_similarity(sent, update, dim=0))
            cosines[name].append(float(torch.stack(values).mean()))
    assert cosines["sparse"][0] > 0.6 > cosines["sparse"][1] > cosines["sparse"][2]
    assert all(np.greater(cosines["full"], cosines["sparse"]))
    assert abs(cosines["sparse"][2]) < 0.06


def test_an_all_zero_update_gets_its_noise() -> None:
    conf = SvtExactConf(fraction=0.5, clip=0.5, noise_multiplier=2.0, selection_share=0.75)
    sent = exact_filter(np.zeros(8000), conf, 1.0, np.random.default_rng(0))
    assert stats.kstest(sent[sent != 0], stats.norm(scale=2.0).cdf).pvalue > 0.01


@pytest.mark.parametrize(("z", "rounds"), [(1.0, 1), (1.0, 3), (4.0, 10), (20.0, 7)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_price_of_rounds_is_that_of_the_clipped_gaussian(
    make_task, z: float, rounds: int, share: float
) -> None:
    mechanism = SvtExactFilter(SvtExactConf(noise_multiplier=z, selection_share=share))
    releases = [mechanism.release(make_task(), TRAINED) for _ in range(rounds)]
    assert (releases[0].unit, releases[0].neighbouring) == ("site", "replace_one")
    assert releases[0].reason == ""
    exact = gaussian_epsilon(2 * math.sqrt(rounds) / z)
    assert exact - 1e-6 <= spent(releases) <= exact + 0.01


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_parts_of_the_event_are_what_the_noise_gives(share: float) -> None:
    # Backwards from the scales that are used: choices and values, each from its own noise.
    conf = SvtExactConf(clip=0.7, gamma=0.2, noise_multiplier=1.3, selection_share=share)
    scales = exact_scales(conf, 80)
    choosing = math.sqrt(scales.count) * bounded_range_mu(2 * conf.gamma / scales.gumbel)
    values = 2 * conf.clip / scales.release
    ((merged, count),) = history([exact_event(conf, 80)])
    assert count == 1
    assert math.hypot(choosing, values) == pytest.approx(2 / merged.noise_multiplier, rel=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_laplace_form_is_pure(make_task, share: float) -> None:
    conf = SvtExactConf(noise_multiplier=4.0, selection_share=share, noise="laplace")
    mechanism = SvtExactFilter(conf)
    release = mechanism.release(make_task(), TRAINED)
    # d = 43, c = 5; the values' loss of (1 - a)/2 has a chance of one half.
    assert 0.5 * (1 - share) - 0.01 <= spent([release], 1e-10) <= 0.5 + 2e-3
    assert spent([release] * 6, 1e-10) <= 3.0 + 2e-2
    scales = exact_scales(conf, 43)
    pure = scales.count * scales.epsilon_choice + 2 * conf.clip / scales.release
    assert pure == pytest.approx(0.5)


def test_strength_scales_the_noise_and_the_price(make_task) -> None:
    mechanism = SvtExactFilter(SvtExactConf(noise_multiplier=4.0))
    half = mechanism.release(make_task(strength=0.5), TRAINED)
    twice = SvtExactFilter(SvtExactConf(noise_multiplier=2.0)).release(make_task(), TRAINED)
    assert half.dp_event == twice.dp_event
    assert half.details["scale"] == twice.details["scale"]
    assert half.details["gumbel"] == twice.details["gumbel"]


def test_without_noise_nothing_is_proved(make_task) -> None:
    mechanism = SvtExactFilter(SvtExactConf(noise_multiplier=0.0, fraction=0.05, clip=1e9))
    release = mechanism.release(make_task(), TRAINED)
    assert release.dp_event == dp_accounting.NonPrivateDpEvent()
    assert "clipping alone" in release.reason
    update = torch.from_numpy(draws(100, 0.001)).float()
    sent = mechanism.protect(update, make_task(), TRAINED).update
    largest = update.abs().argsort()[-5:]
    assert torch.equal(sent[largest], update[largest])
    assert int(sent.count_nonzero()) == 5


def test_unusable_updates_are_refused_at_once() -> None:
    start = time.perf_counter()
    for update, strength in (
        (np.zeros(0), 1.0),
        (np.zeros((2, 2)), 1.0),
        (np.array([1.0, math.nan]), 1.0),
        (np.array([1.0, -math.inf]), 1.0),
        (np.ones(3), math.nan),
        (np.ones(3), -1.0),
    ):
        with pytest.raises(ProtectionError, match="nothing was sent"):
            exact_filter(update, SvtExactConf(), strength, np.random.default_rng(0))
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"clip": 0.0}, "clip"),
        ({"clip": math.nan}, "clip"),
        ({"gamma": 0.0}, "gamma"),
        ({"gamma": math.inf}, "gamma"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"noise_multiplier": 1e-3, "noise": "laplace"}, "noise_multiplier"),
        ({"fraction": 0.0}, "fraction"),
        ({"fraction": math.nan}, "fraction"),
        ({"selection_share": 1.0}, "selection_share"),
        ({"selection_share": -0.1}, "selection_share"),
        ({"noise": "uniform"}, "noise"),
    ],
)
def test_values_out_of_range_are_refused(changed: dict[str, object], key: str) -> None:
    conf = replace(SvtExactConf(), **changed)
    with pytest.raises(ConfigError, match=f"algorithm.{key}="):
        SvtExactFilter.from_conf(conf)
    with pytest.raises(ConfigError):
        exact_filter(np.ones(3), conf, 1.0, np.random.default_rng(0))
