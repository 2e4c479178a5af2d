"""The clipped filters keep what ``filter_checks`` asks; broken copies of them do not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from mutation import Mutant, mutated

from fedprivacy.mechanisms import gaussian_clipped
from fedprivacy.training.randomness import Streams, derive_seed


def loaded() -> ModuleType:
    if "filter_checks" not in sys.modules:
        path = Path(__file__).with_name("filter_checks.py")
        spec = importlib.util.spec_from_file_location("filter_checks", path)
        sys.modules["filter_checks"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["filter_checks"]


CHECKS = loaded().CHECKS
SETTINGS = {"clip": 0.5, "noise_multiplier": 1.0}


@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
@pytest.mark.parametrize("check", sorted(CHECKS))
def test_the_filter_as_it_is(make_task, check: str, noise: str) -> None:
    CHECKS[check](make_task, gaussian_clipped.ClippedGaussian(**SETTINGS, noise=noise))


SCALE = "scale = self._own_noise(task.strength) * clip\n"
CLIP = "clipped = clip_norm(raw, clip, self.noise)"
NOISY = 'noisy = add_noise(clipped, scale, self.noise, task.streams.numpy("noise"))'
EVENT = "event = noise_event(z, self.noise)"
MUTANTS = [
    Mutant("noise halved", SCALE, SCALE.replace("* clip", "* clip / 2"),
           "check_noise_has_the_scale_that_is_billed"),
    Mutant("noise not scaled to the clip norm", SCALE, SCALE.replace(" * clip", ""),
           "check_noise_has_the_scale_that_is_billed"),
    Mutant("price misreported", EVENT, "event = noise_event(2 * z, self.noise)",
           "check_noise_has_the_scale_that_is_billed"),
    Mutant("strength lowers the noise but not the bill",
           "z = self.noise_multiplier * task.strength\n        details",
           "z = self.noise_multiplier\n        details",
           "check_noise_has_the_scale_that_is_billed"),
    Mutant("clip skipped", CLIP, "clipped = raw", "check_a_site_is_bounded_before_the_noise"),
    Mutant("clip of another norm", CLIP, "clipped = raw * min(1.0, clip / float(abs(raw).max()))",
           "check_a_site_is_bounded_before_the_noise"),
    Mutant("clip after noise", NOISY, NOISY + "; noisy = clip_norm(noisy, clip, self.noise)",
           "check_what_leaves_is_not_clipped_again"),
    Mutant("each coordinate cut by itself", CLIP,
           "clipped = np.clip(raw, -1, 1) * clip / len(raw)", "check_the_direction_survives"),
    Mutant("one round unaccounted", EVENT,
           'event = noise_event(z, self.noise) if task.streams.round_number != 2 else '
           '__import__("dp_accounting").NoOpDpEvent()', "check_every_round_is_priced_alike"),
    Mutant("the same noise everywhere", NOISY,
           NOISY.replace('task.streams.numpy("noise")', "np.random.default_rng(1)"),
           "check_rounds_and_sites_have_their_own_noise"),
    Mutant("half of the values raw", NOISY, NOISY + "; noisy[::2] = clipped[::2]",
           "check_every_value_gets_noise"),
    Mutant("fails open", "        check_update(update)\n        if task.strength is None:",
           "        if not bool(torch.isfinite(update).all()): return Protected(update)\n"
           "        if task.strength is None:", "check_nothing_that_is_not_finite_leaves"),
]  # fmt: skip


@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_a_changed_line_is_caught(make_task, mutant: Mutant, noise: str) -> None:
    module = mutated(gaussian_clipped, mutant.old, mutant.new)
    part = module.ClippedGaussian(**SETTINGS, noise=noise)
    with pytest.raises(AssertionError):
        CHECKS[mutant.caught_by](make_task, part)


def test_every_check_catches_something() -> None:
    assert {mutant.caught_by for mutant in MUTANTS} == set(CHECKS)


@pytest.mark.parametrize("forgotten", ["site", "round_number"])
def test_shared_seeds_are_caught(
    make_task, monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    def seed_for(self: Streams, purpose: str) -> int:
        parts = {"round_number": self.round_number, "site": self.site}
        parts[forgotten] = 0
        return derive_seed(purpose, *parts.values())

    monkeypatch.setattr(Streams, "seed_for", seed_for)
    with pytest.raises(AssertionError):
        CHECKS["check_rounds_and_sites_have_their_own_noise"](
            make_task, gaussian_clipped.ClippedGaussian(**SETTINGS)
        )
