"""A clip norm that the server moves by noisy indicators, each priced with its update."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from fedprivacy.accounting import Event, epsilon
from fedprivacy.accounting.what_if import gaussian_epsilon
from fedprivacy.config.schema import GaussianClippedConf
from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.mechanisms.gaussian_clipped import ClippedGaussian
from fedprivacy.mechanisms.server import SERVER_SITE, ServerSide
from fedprivacy.mechanisms.site_clip import SiteClipRule
from fedprivacy.training.plain import train_plain
from fedprivacy.training.randomness import Streams


def mechanism(**settings: object) -> ClippedGaussian:
    given = {"clipping": "adaptive", "noise_multiplier": 1.0, **settings}
    return ClippedGaussian.from_conf(GaussianClippedConf(**given))


def test_update_and_indicator_cost_one_gaussian_of_z(make_task) -> None:
    task = make_task()
    said = mechanism(noise_multiplier=2.0).release(task, train_plain(task))
    event = Event(1, "a", "x", "site", "replace_one", "server_updates", said.dp_event, True)
    found = epsilon([event], 1e-5, "replace_one")
    assert found == pytest.approx(gaussian_epsilon(2 / 2.0, 1e-5), abs=0.01)


def test_the_noise_of_update_and_indicator_is_what_is_billed(make_task) -> None:
    z, clip, spread = 1.0, 0.5, 1.5
    size, task = 4000, replace(make_task(), clip=clip)
    done = mechanism().protect(torch.zeros(size), task, train_plain(make_task()))
    own = (z**-2 - (2 * spread) ** -2) ** -0.5
    assert stats.kstest(done.update.numpy(), "norm", args=(0, own * clip)).pvalue > 0.01
    assert stats.kstest(done.update.numpy(), "norm", args=(0, own * clip / 2)).pvalue < 1e-6
    trained, signals = train_plain(make_task()), []
    for number in range(1, 400):
        round_task = replace(make_task(round_number=number), clip=clip)
        signals.append(mechanism().protect(torch.zeros(1), round_task, trained).signal)
    assert stats.kstest(signals, "norm", args=(0.5, spread)).pvalue > 0.01
    assert stats.kstest(signals, "norm", args=(0.5, spread / 2)).pvalue < 1e-4


@pytest.mark.parametrize(("clipping", "norm"), [("adaptive", 0.25), ("fixed", 1.0)])
def test_a_clip_norm_that_is_sent_along_clips_where_it_is_adaptive(
    make_task, clipping: str, norm: float
) -> None:
    update, trained = torch.full((100,), 5.0), train_plain(make_task())
    quiet = mechanism(clipping=clipping, noise_multiplier=1e-9)
    task = replace(make_task(), clip=0.25)
    done = quiet.protect(update, task, trained)
    assert float(done.update.norm()) == pytest.approx(norm, rel=1e-4)
    assert (done.signal is None) == (clipping == "fixed")
    assert quiet.release(task, trained).details["C"] == norm


def test_a_clip_norm_stays_positive_and_finite_whatever_the_indicators() -> None:
    rule = SiteClipRule(rate=1e6)
    for far in (-1e300, -3.0, 3.0, 1e300):
        moved = rule.next_clip(1.0, [far, far])
        assert 0 < moved < math.inf
        assert (moved > 1) == (far < 0)


def test_the_server_moves_the_clip_as_the_naive_rule_does() -> None:
    server = ServerSide.of(mechanism(clip=2.0, clip_rate=0.4, clip_quantile=0.3))
    assert server.first_clip == 2.0
    zero, streams = [torch.zeros(2)] * 3, Streams(7, "seeded", 1, SERVER_SITE)
    done = server.average(zero, [1 / 3] * 3, [0.9, -0.2, 1.1], 1.0, 2.0, streams)
    within = np.mean([0.9, -0.2, 1.1]) + 0.5
    assert done.clip == pytest.approx(2.0 * math.exp(-0.4 * (within - 0.3)))
    # Off schedule nobody sends an indicator and nothing moves.
    still = server.average(zero, [1 / 3] * 3, [None] * 3, None, 2.0, streams)
    assert still.clip == 2.0


def test_a_missing_indicator_is_refused() -> None:
    zero, streams = [torch.zeros(2)] * 2, Streams(7, "seeded", 1, SERVER_SITE)
    with pytest.raises(ProtectionError, match="1 of 2 sites"):
        ServerSide.of(mechanism()).average(zero, [0.5] * 2, [0.5, None], 1.0, 1.0, streams)


@pytest.mark.parametrize(
    "settings",
    [
        {"noise": "laplace"},
        {"indicator_noise": 0.5},
        {"clip_quantile": 0.0},
        {"clip_rate": -1.0},
        {"clipping": "often"},
        {"noise_multiplier": 0.0},
    ],
)
def test_what_cannot_be_priced_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        mechanism(**settings)
