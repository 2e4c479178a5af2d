"""Noise at the server, at the records and on the final model, broken on purpose, is noticed."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import dp_accounting
import numpy as np
import pytest
import torch
from scipy import stats

from fedprivacy.mechanisms import central_gaussian, local_source, release_gaussian
from fedprivacy.mechanisms.server import SERVER_SITE
from fedprivacy.training.plain import train_plain
from fedprivacy.training.randomness import Streams

D, N, CLIP, Z = 4000, 5, 0.5, 2.0
RARE = 1e-4
STREAMS = Streams(7, "seeded", 3, SERVER_SITE)
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
    """A line of a mechanism's source, changed; see ``test_mutants``."""

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


def broken(mutant: Mutant) -> ModuleType:
    source = Path(mutant.module.__file__).read_text(encoding="utf-8")
    assert source.count(mutant.old) == 1, f"the source has changed: {mutant.old!r}"
    module = ModuleType("mutated_placement")
    sys.modules["mutated_placement"] = module  # dataclasses look their module up
    try:
        exec(compile(source.replace(mutant.old, mutant.new), "mutated", "exec"), module.__dict__)
    finally:
        del sys.modules["mutated_placement"]
    return module


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.module.__name__[22:]}: {m.fault}")
def test_a_changed_line_is_caught(make_task, mutant: Mutant) -> None:
    with pytest.raises(AssertionError):
        CHECKS[mutant.caught_by](make_task, broken(mutant))


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_the_source_itself_passes(make_task, name: str) -> None:
    module = next(m.module for m in MUTANTS if m.caught_by == name)
    CHECKS[name](make_task, module)
