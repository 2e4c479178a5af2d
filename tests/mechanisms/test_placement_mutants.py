"""Noise at the server, at the records, on the final model and in stacks, broken on purpose."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import dp_accounting
import numpy as np
import pytest
import torch
from mutation import mutated
from scipy import stats

from fedprivacy.config.schema import DpsgdConf, GaussianClippedConf
from fedprivacy.mechanisms import (
    central_gaussian,
    gaussian_clipped,
    local_source,
    release_gaussian,
    site_clip,
    stacked,
)
from fedprivacy.mechanisms.registry import build_mechanism
from fedprivacy.mechanisms.server import SERVER_SITE
from fedprivacy.training import randomness
from fedprivacy.training.plain import train_plain
from fedprivacy.training.randomness import Streams

D, N, CLIP, Z = 4000, 5, 0.5, 2.0
RARE = 1e-4
STREAMS = Streams(7, "seeded", 3, SERVER_SITE)
RAW = dp_accounting.NonPrivateDpEvent()
Check = Callable[[Any, ModuleType], None]


def billed(make_task, part: Any, view: str, **changes: object) -> dp_accounting.DpEvent:
    task = replace(make_task(), **changes)
    said = part.release(task, train_plain(make_task())).statements
    return next(one.dp_event for one in said if one.view == view)


# -------------------------------------------------------------------------------- the server


def central(module: ModuleType) -> Any:
    return module.CentralGaussian(CLIP, Z)


def mean_of(module: ModuleType, updates: list[torch.Tensor]) -> np.ndarray:
    return central(module).average(updates, 1.0, CLIP, STREAMS).mean.numpy()


def check_server_noise_is_what_is_billed(make_task, module: ModuleType) -> None:
    z = billed(make_task, central(module), "aggregate").noise_multiplier
    noise = mean_of(module, [torch.zeros(D)] * N)
    assert stats.kstest(noise, "norm", args=(0, z * CLIP / N)).pvalue > RARE


def check_one_site_moves_the_mean_by_c_over_n(make_task, module: ModuleType) -> None:
    far = [torch.full((D,), 3.0)] * N
    moved = mean_of(module, far) - mean_of(module, [torch.zeros(D), *far[1:]])
    assert np.linalg.norm(moved) <= CLIP / N * (1 + 1e-6)


def check_the_mean_is_not_clipped(make_task, module: ModuleType) -> None:
    assert np.linalg.norm(mean_of(module, [torch.full((D,), 3.0)] * N)) > 3 * CLIP


def check_rounds_draw_their_own_server_noise(make_task, module: ModuleType) -> None:
    zero = [torch.zeros(8)] * 2
    one, other = (
        central(module).average(zero, 1.0, CLIP, replace(STREAMS, round_number=number)).mean
        for number in (1, 2)
    )
    assert not torch.allclose(one, other)


def check_a_raw_round_of_the_server_proves_nothing(make_task, module: ModuleType) -> None:
    assert billed(make_task, central(module), "aggregate", strength=None) == RAW


def check_count_and_mean_share_one_budget(make_task, module: ModuleType) -> None:
    """What the noise on the count and on the mean really is must together be the z billed."""
    rate, quantile, updates = 0.1, 0.5, [torch.zeros(D)] * N
    part = module.CentralGaussian(CLIP, Z, None, "adaptive", quantile, rate, 0.75 * Z)
    z = billed(make_task, part, "aggregate").noise_multiplier
    mean = part.average(updates, 1.0, CLIP, STREAMS).mean
    spread, shares = float(mean.std()) * N / CLIP, []
    for number in range(1, 600):
        streams = replace(STREAMS, round_number=number)
        moved = part.average([torch.zeros(1)] * N, 1.0, CLIP, streams).clip
        shares.append(-math.log(moved / CLIP) / rate + quantile)
    # The whole mean of N zeros within the clip norm has a centred share of 1/2.
    count = float(np.std(shares)) * N
    # Compared without dividing by what a mutant may have made 0; 10 % is 2 to 3 standard errors.
    assert spread**2 * (2 * count) ** 2 >= 0.9 * z**2 * (spread**2 + (2 * count) ** 2)


# -------------------------------------------------------------------------- a moving clip norm


def check_update_and_indicator_share_one_budget(make_task, module: ModuleType) -> None:
    build = getattr(module, "ClippedGaussian", gaussian_clipped.ClippedGaussian)
    part = build(CLIP, Z, "gaussian", module.SiteClipRule(0.5, 0.2, 0.75 * Z))
    task, trained = make_task(), train_plain(make_task())
    z = math.fsum(e.noise_multiplier**-2 for e in part.release(task, trained).dp_event.events)
    assert z == pytest.approx(Z**-2)
    spread = float(part.protect(torch.zeros(D), task, trained).update.std()) / CLIP
    signals = [
        part.protect(torch.zeros(1), make_task(round_number=number), trained).signal
        for number in range(1, 600)
    ]
    indicator = 2 * float(np.std(signals))
    assert spread**2 * indicator**2 >= 0.9 * Z**2 * (spread**2 + indicator**2)


# --------------------------------------------------------------------------------- the stacks


def stack(module: ModuleType) -> Any:
    confs = (DpsgdConf(sampling_rate=0.2), GaussianClippedConf(), GaussianClippedConf(clip=1e6))
    return module.Stacked.of([build_mechanism(conf, 40) for conf in confs])


def check_units_stay_apart(make_task, module: ModuleType) -> None:
    said = stack(module).release(make_task(), train_plain(make_task())).statements
    assert {one.unit for one in said} == {"record", "site"}


def check_parts_draw_their_own_noise(make_task, module: ModuleType) -> None:
    task = make_task()
    done = stack(module).protect(torch.zeros(43), task, train_plain(make_task())).update
    once = build_mechanism(GaussianClippedConf(), 40)
    own = once.protect(torch.zeros(43), task, train_plain(make_task())).update
    # The second filter's noise is a million times the first's; equal draws would be proportional.
    cosine = float(done @ own / done.norm() / own.norm())
    assert abs(cosine) < 0.9


# ------------------------------------------------------------------------------- the records


def source(module: ModuleType, **changes: float) -> Any:
    settings = {"noise_multiplier": Z, "label_keep": 0.8, **changes}
    return module.LocalSource(bounds=(-1.0, 1.0), radius=None, **settings)


def check_record_noise_is_what_is_billed(make_task, module: ModuleType) -> None:
    event = billed(make_task, source(module), "server_updates")
    z = next(e.noise_multiplier for e in event.events if hasattr(e, "noise_multiplier"))
    zero, labels = torch.zeros(1500, 4), torch.zeros(1500, dtype=torch.long)
    noisy, _ = source(module).records(zero, labels, 2, np.random.default_rng(0))
    # Half the diameter of a cube of side 2 in four dimensions is 2.
    assert stats.kstest(noisy.numpy().ravel(), "norm", args=(0, z * 2)).pvalue > RARE


def check_records_are_clipped(make_task, module: ModuleType) -> None:
    labels = torch.zeros(2, dtype=torch.long)
    far = torch.tensor([[50.0] * 4, [-50.0] * 4])
    noisy = [
        source(module).records(x, labels, 2, np.random.default_rng(0))[0]
        for x in (far, torch.zeros(2, 4))
    ]
    assert float((noisy[0] - noisy[1]).abs().max()) <= 1 + 1e-5


def check_labels_are_flipped_as_billed(make_task, module: ModuleType) -> None:
    event = billed(make_task, source(module), "server_updates")
    share = next(e.noise_parameter for e in event.events if hasattr(e, "noise_parameter"))
    labels = torch.zeros(20_000, dtype=torch.long)
    _, given = source(module).records(torch.zeros(20_000, 1), labels, 2, np.random.default_rng(0))
    flipped, expected = int(given.sum()), 20_000 * share / 2
    assert abs(flipped - expected) < 5 * math.sqrt(expected)


def check_only_the_first_round_is_new(make_task, module: ModuleType) -> None:
    first = billed(make_task, source(module), "server_updates")
    later = billed(make_task, source(module), "server_updates", protected_before=1)
    assert first != dp_accounting.NoOpDpEvent()
    assert later == dp_accounting.NoOpDpEvent()


def kept(module: ModuleType, mode: str, number: int, site: int) -> float:
    return float(module.Streams(7, mode, number, site).kept("noise", 2**200 + 1).normal())


def check_record_noise_is_drawn_once(make_task, module: ModuleType) -> None:
    for mode in ("secret", "seeded"):
        assert kept(module, mode, 1, 0) == kept(module, mode, 2, 0)


def check_sites_keep_noise_of_their_own(make_task, module: ModuleType) -> None:
    for mode in ("secret", "seeded"):
        assert kept(module, mode, 1, 0) != kept(module, mode, 1, 1)


# --------------------------------------------------------------------------- the final model


def final(module: ModuleType) -> Any:
    return module.ReleaseGaussian(CLIP, Z)


def check_final_noise_is_what_is_billed(make_task, module: ModuleType) -> None:
    z = billed(make_task, final(module), "final_model", last_round=True).noise_multiplier
    zero = torch.zeros(D)
    noise = final(module).publish(zero, zero, 1.0, STREAMS).numpy()
    assert stats.kstest(noise, "norm", args=(0, z * CLIP)).pvalue > RARE


def check_models_differ_by_two_clips_at_most(make_task, module: ModuleType) -> None:
    far, zero = torch.full((D,), 9.0), torch.zeros(D)
    one, other = (final(module).publish(w, zero, 1.0, STREAMS).double() for w in (far, -far))
    assert float((one - other).norm()) <= 2 * CLIP * (1 + 1e-4)


def check_the_last_round_is_billed(make_task, module: ModuleType) -> None:
    event = billed(make_task, final(module), "final_model", last_round=True)
    assert event != dp_accounting.NoOpDpEvent()


CHECKS: dict[str, Check] = {
    name: check for name, check in list(globals().items()) if name.startswith("check_")
}


@dataclass(frozen=True)
class Mutant:
    """A line of a mechanism's source, changed; see ``mutation.Mutant``."""

    module: ModuleType
    fault: str
    old: str
    new: str
    caught_by: str


MUTANTS = [
    Mutant(central_gaussian, "noise halved", "scale = mean_noise(own, clip, n)",
           "scale = mean_noise(own, clip, n) / 2", "check_server_noise_is_what_is_billed"),
    Mutant(central_gaussian, "noise divided by too many", "scale = mean_noise(own, clip, n)",
           "scale = mean_noise(own, clip, n * n)", "check_server_noise_is_what_is_billed"),
    Mutant(central_gaussian, "wrong divisor", "mean = total / n +", "mean = total / (n - 1) +",
           "check_one_site_moves_the_mean_by_c_over_n"),
    Mutant(central_gaussian, "clip skipped", "min(1.0, clip / norm if norm > 0 else 1.0)", "1.0",
           "check_one_site_moves_the_mean_by_c_over_n"),
    Mutant(central_gaussian, "clip after noise", "following: float | None = None",
           "mean = mean * min(1.0, clip / float(mean.norm())); following = None",
           "check_the_mean_is_not_clipped"),
    Mutant(central_gaussian, "noise drawn once for all rounds", 'streams.numpy("noise")',
           'replace(streams, round_number=0).numpy("noise")',
           "check_rounds_draw_their_own_server_noise"),
    Mutant(central_gaussian, "a raw round billed as protected", "(strength or 0.0)",
           "(strength or 1.0)", "check_a_raw_round_of_the_server_proves_nothing"),
    Mutant(central_gaussian, "count without noise", 'float(streams.numpy("selection").normal())',
           "0.0", "check_count_and_mean_share_one_budget"),
    Mutant(central_gaussian, "count for free",
           "own = gradient_noise(z, rule.count_noise) if rule is not None else z", "own = z",
           "check_count_and_mean_share_one_budget"),
    Mutant(site_clip, "indicator without noise",
           "noise = float(rng.normal(0.0, self.indicator_noise, 1)[0])", "noise = 0.0",
           "check_update_and_indicator_share_one_budget"),
    Mutant(gaussian_clipped, "indicator for free",
           "return z if self.rule is None else self.rule.update_noise(z)", "return z",
           "check_update_and_indicator_share_one_budget"),
    Mutant(stacked, "a record's bound passed off as a site's",
           "kind = (said.unit, said.neighbouring, said.view)", "kind = ('', '', said.view)",
           "check_units_stay_apart"),
    Mutant(stacked, "filters share their seed", "part=number", "part=0",
           "check_parts_draw_their_own_noise"),
    Mutant(randomness, "record noise drawn again in each round, seeded",
           'derive_seed(self.seed, "kept", purpose, self.site)',
           'derive_seed(self.seed, "kept", purpose, self.site, self.round_number)',
           "check_record_noise_is_drawn_once"),
    Mutant(randomness, "record noise drawn again in each round, secret",
           "[secret, self.site]", "[secret, self.site, self.round_number]",
           "check_record_noise_is_drawn_once"),
    Mutant(randomness, "sites share their secret noise", "default_rng([secret, self.site])",
           "default_rng([secret])", "check_sites_keep_noise_of_their_own"),
    Mutant(randomness, "sites share their seeded noise",
           'derive_seed(self.seed, "kept", purpose, self.site)',
           'derive_seed(self.seed, "kept", purpose)', "check_sites_keep_noise_of_their_own"),
    Mutant(local_source, "noise halved", "self.radius) / 2\n        noisy =",
           "self.radius) / 4\n        noisy =", "check_record_noise_is_what_is_billed"),
    Mutant(local_source, "clip skipped", "noisy = clip_features(flat, self.bounds, self.radius)",
           "noisy = flat.copy()", "check_records_are_clipped"),
    Mutant(local_source, "labels kept raw", "labels = randomised_response(",
           "labels = y.numpy(); randomised_response(", "check_labels_are_flipped_as_billed"),
    Mutant(local_source, "labels flipped half as often", "rng.random(len(labels)) < keep",
           "rng.random(len(labels)) < (1 + keep) / 2", "check_labels_are_flipped_as_billed"),
    Mutant(local_source, "every round billed as nothing new", "if task.protected_before:",
           "if True:", "check_only_the_first_round_is_new"),
    Mutant(release_gaussian, "noise halved",
           "scale = self.noise_multiplier * strength * self.clip",
           "scale = 0.5 * self.noise_multiplier * strength * self.clip",
           "check_final_noise_is_what_is_billed"),
    Mutant(release_gaussian, "clip skipped",
           'clipped = clip_norm(moved.numpy().astype(np.float64), self.clip, "gaussian")',
           "clipped = moved.numpy().astype(np.float64)",
           "check_models_differ_by_two_clips_at_most"),
    Mutant(release_gaussian, "the release unaccounted", "if not task.last_round:", "if True:",
           "check_the_last_round_is_billed"),
]  # fmt: skip


@pytest.mark.parametrize(
    "mutant", MUTANTS, ids=lambda m: f"{m.module.__name__.rsplit('.')[-1]}: {m.fault}"
)
def test_a_changed_line_is_caught(make_task, mutant: Mutant) -> None:
    with pytest.raises(AssertionError):
        CHECKS[mutant.caught_by](make_task, mutated(mutant.module, mutant.old, mutant.new))


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_the_source_itself_passes(make_task, name: str) -> None:
    module = next(m.module for m in MUTANTS if m.caught_by == name)
    CHECKS[name](make_task, module)
