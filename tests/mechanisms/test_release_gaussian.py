"""Noise on the final model: one event, for who sees nothing else."""

from __future__ import annotations

import math
from dataclasses import replace

import dp_accounting
import pytest
import torch
from scipy import stats

from fedprivacy.accounting import Event, epsilon
from fedprivacy.accounting.what_if import gaussian_epsilon
from fedprivacy.config.schema import ReleaseGaussianConf
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.mechanisms.release_gaussian import ReleaseGaussian
from fedprivacy.mechanisms.server import SERVER_SITE
from fedprivacy.training.plain import train_plain
from fedprivacy.training.randomness import Streams

D = 4000
STREAMS = Streams(7, "seeded", 3, SERVER_SITE)


def mechanism(**settings: float) -> ReleaseGaussian:
    return ReleaseGaussian.from_conf(ReleaseGaussianConf(**settings))


def test_the_noise_is_normal_with_deviation_z_c() -> None:
    reference = torch.linspace(-1, 1, D)
    done = mechanism(clip=0.5, noise_multiplier=3.0).publish(reference, reference, 0.5, STREAMS)
    noise = (done - reference).double().numpy()
    assert stats.kstest(noise, "norm", args=(0, 0.75)).pvalue > 0.01
    assert stats.kstest(noise, "norm", args=(0, 0.375)).pvalue < 1e-6


def test_any_two_models_differ_by_two_clip_norms_at_most() -> None:
    reference, far = torch.zeros(D), torch.full((D,), 9.0)
    gauss = mechanism(clip=0.5, noise_multiplier=1.0)
    one, other = (gauss.publish(w, reference, 1.0, STREAMS) for w in (far, -far))
    assert float((one.double() - other.double()).norm()) == pytest.approx(1.0, rel=1e-5)
    near = torch.full((D,), 1e-4)
    quiet = mechanism(clip=0.5, noise_multiplier=0.0).publish(near, reference, 1.0, STREAMS)
    assert torch.allclose(quiet, near)


def test_models_that_are_not_finite_are_not_published() -> None:
    for bad in (math.nan, math.inf):
        with pytest.raises(ProtectionError, match="nothing was sent"):
            mechanism().publish(torch.full((3,), bad), torch.zeros(3), 1.0, STREAMS)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("strength", [None, 1.0])
def test_rounds_are_raw_and_the_final_model_is_one_event(make_task, last, strength) -> None:
    task = replace(make_task(strength=strength), last_round=last)
    said = mechanism(noise_multiplier=4.0).release(task, train_plain(task))
    raw, final = said.statements
    assert (raw.unit, raw.view) == ("record", "server_updates")
    assert raw.dp_event == dp_accounting.NonPrivateDpEvent()
    assert (final.unit, final.neighbouring, final.view) == ("site", "replace_one", "final_model")
    expected = dp_accounting.NoOpDpEvent()
    if last:
        expected = (
            dp_accounting.GaussianDpEvent(4.0) if strength else dp_accounting.NonPrivateDpEvent()
        )
    assert final.dp_event == expected


@pytest.mark.parametrize("z", [1.0, 4.0])
def test_the_price_is_that_of_sensitivity_two_c(make_task, z: float) -> None:
    task = replace(make_task(), last_round=True)
    final = mechanism(noise_multiplier=z).release(task, train_plain(task)).also[0]
    event = Event(1, "a", "x", "site", "replace_one", "final_model", final.dp_event, True)
    found = epsilon([event], 1e-5, "replace_one")
    assert found == pytest.approx(gaussian_epsilon(2 / z, 1e-5), abs=0.01)


@pytest.mark.parametrize("settings", [{"clip": 0.0}, {"noise_multiplier": -1.0}])
def test_what_is_out_of_range_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        mechanism(**settings)
