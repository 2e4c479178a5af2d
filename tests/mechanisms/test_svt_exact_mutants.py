"""svt_exact broken on purpose: raw values that leave on an error, noise and prices that differ.

It has no threshold that may never be passed and no budget that runs out while it chooses: c is
fixed. So what may fail open is an update it cannot take, an error on the way, and a result that
is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import dp_accounting
import numpy as np
import pytest
import torch
from mutation import Mutant, mutated
from scipy import stats

from fedprivacy.accounting.history import history
from fedprivacy.config.schema import SvtExactConf
from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms import svt_exact
from fedprivacy.training.task import Trained

RARE = 1e-4
TRAINED = Trained(4, 0.0)
RAW = dp_accounting.NonPrivateDpEvent()
UNSOUND = (
    torch.tensor([1.0, math.nan]),
    torch.tensor([math.inf, 1.0]),
    torch.zeros(0),
    torch.ones(2, 2),
    torch.tensor(1.0),
    torch.ones(3, dtype=torch.int64),
)
Check = Callable[..., None]


def conf(**changes: object) -> SvtExactConf:
    return SvtExactConf(**({"clip": 0.5, "gamma": 0.1, "noise_multiplier": 1.5} | changes))


def sent(make_task, module: ModuleType, update: torch.Tensor, settings: SvtExactConf, **task):
    mechanism = module.SvtExactFilter(settings)
    return mechanism.protect(update, make_task(**task), TRAINED).update.double().numpy()


def billed(make_task, module: ModuleType, settings: SvtExactConf, size: int, **task):
    return module.exact_event(settings, size, make_task(**task).strength)


# ------------------------------------------------------------------------------ failing open


class Failing:
    """A generator of which one kind of draw fails."""

    def __init__(self, kind: str) -> None:
        self.kind, self.rng = kind, np.random.default_rng(0)

    def __getattr__(self, name: str) -> object:
        if name == self.kind:
            raise RuntimeError("no randomness left")
        return getattr(self.rng, name)


class FailingStreams:
    """Streams whose generator is ``Failing``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def numpy(self, _purpose: str) -> Failing:
        return Failing(self.kind)


def check_no_unsound_update_leaves(make_task, module: ModuleType) -> None:
    for update in UNSOUND:
        try:
            sent(make_task, module, update, conf())
        except ProtectionError:
            continue
        raise AssertionError(f"{update} left the site")


def check_no_unsound_array_leaves(make_task, module: ModuleType) -> None:
    for update in UNSOUND:
        try:
            module.exact_filter(update.numpy().copy(), conf(), 1.0, np.random.default_rng(0))
        except ProtectionError:
            continue
        raise AssertionError(f"{update} left the site")


def check_nothing_leaves_on_an_error(make_task, module: ModuleType) -> None:
    draws = {"gumbel": conf(), "normal": conf(), "choice": conf(selection_share=0.0),
             "laplace": conf(noise="laplace", noise_multiplier=4.0)}  # fmt: skip
    for kind, settings in draws.items():
        task = replace(make_task(), streams=FailingStreams(kind))
        try:
            module.SvtExactFilter(settings).protect(torch.ones(40), task, TRAINED)
        except RuntimeError:
            continue
        raise AssertionError(f"something left the site without {kind}")


def check_nothing_leaves_where_noise_overflows(make_task, module: ModuleType) -> None:
    with np.errstate(over="ignore"):
        try:
            sent(make_task, module, torch.ones(40), conf(clip=1e38, noise_multiplier=1e3))
        except ProtectionError:
            return
    raise AssertionError("something left the site")


def check_what_is_not_chosen_stays(make_task, module: ModuleType) -> None:
    for share in (0.0, 0.5):
        values = sent(make_task, module, torch.ones(400), conf(selection_share=share))
        assert np.count_nonzero(values) == 40


# ----------------------------------------------------------------------- noise, clip and price


def check_noise_is_what_is_billed(make_task, module: ModuleType) -> None:
    """All coordinates, and a chosen half: the values' noise has the scale of their event."""
    tiny = torch.full((6000,), 1e-12)
    for noise, law in (("gaussian", "norm"), ("laplace", "laplace")):
        for strength in (1.0, 0.5):
            settings = conf(noise=noise, fraction=1.0)
            event = billed(make_task, module, settings, 6000, strength=strength)
            values = sent(make_task, module, tiny, settings, strength=strength)
            scale = event.noise_multiplier * settings.clip
            assert stats.kstest(values, law, args=(0, scale)).pvalue > RARE
    settings = conf(fraction=0.5)
    values = sent(make_task, module, tiny, settings)
    # Choices and values come from one budget: what the values leave of it is the choices'.
    ((whole, count),) = history([billed(make_task, module, settings, 6000)])
    assert count == 1
    mu_values = 2 * settings.clip / float(values[values != 0].std())
    assert mu_values**2 <= 1.1 * (1 - settings.selection_share) * (2 / whole.noise_multiplier) ** 2


def check_choices_are_as_noisy_as_billed(make_task, module: ModuleType) -> None:
    """One huge value among zeros is chosen with the odds of the exponential mechanism."""
    settings, update = conf(fraction=0.05), np.zeros(20)
    update[7] = 1e6
    rng = np.random.default_rng(8)
    hits = sum(module.exact_filter(update, settings, 1.0, rng)[7] != 0 for _ in range(3000))
    choices = billed(make_task, module, settings, 20).events[0]
    # mu = 2 / z of the one choice, as bounded range: e = 2 log(Phi(mu/2) / Phi(-mu/2)).
    half = 1 / choices.noise_multiplier
    epsilon = 2 * math.log(stats.norm.cdf(half) / stats.norm.cdf(-half))
    odds = math.exp(epsilon / 2)
    assert stats.binomtest(int(hits), 3000, odds / (odds + 19)).pvalue > RARE


def check_a_site_is_bounded_before_the_noise(make_task, module: ModuleType) -> None:
    for noise, order in (("gaussian", 2), ("laplace", 1)):
        settings, far = conf(noise=noise, selection_share=0.0), torch.linspace(-5, 5, 400)
        one, other = (sent(make_task, module, update, settings) for update in (far, -far))
        assert np.linalg.norm(one - other, order) <= 2 * settings.clip * (1 + 1e-4)


def check_without_noise_nothing_is_proved(make_task, module: ModuleType) -> None:
    for settings, strength in ((conf(noise_multiplier=0.0), 1.0), (conf(), 0.0)):
        said = module.SvtExactFilter(settings).release(make_task(strength=strength), TRAINED)
        assert said.dp_event == RAW
        assert said.reason


def check_a_raw_round_proves_nothing(make_task, module: ModuleType) -> None:
    said = module.SvtExactFilter(conf()).release(make_task(strength=None), TRAINED)
    assert said.dp_event == RAW


def check_places_have_their_own_noise(make_task, module: ModuleType) -> None:
    places = [{"site": site, "round_number": number} for site in (0, 1) for number in (1, 2)]
    found = {tuple(sent(make_task, module, torch.ones(40), conf(), **place)) for place in places}
    assert len(found) == len(places)


CHECKS: dict[str, Check] = {
    name: check for name, check in list(globals().items()) if name.startswith("check_")
}

FILTER = 'filtered = exact_filter(values, self.conf, task.strength, task.streams.numpy("noise"))'
SOUND = "    check_update(update)\n        if task.strength is None:"
VALUES = "values = clip_norm(update[chosen], conf.clip, conf.noise)"
NOISE = "result[chosen] = add_noise(values, scales.release, conf.noise, rng)"
UNIFORM = "    if scales.share == 0:\n        chosen"
TOP = "chosen = select_top(scores, scales.count, scales.gumbel, rng)"
SCORES = "scores = np.minimum(np.abs(update), conf.gamma)"
PRICE = "return dp_accounting.ComposedDpEvent((choices, values))"
MUTANTS = [
    Mutant("fails open on an error", FILTER,
           f"try: {FILTER}\n        except Exception: return Protected(update)",
           "check_nothing_leaves_on_an_error"),
    Mutant("fails open on an unsound update", SOUND,
           "    if update.ndim != 1 or not torch.isfinite(update).all(): return Protected(update)\n"
           "        if task.strength is None:", "check_no_unsound_update_leaves"),
    Mutant("fails open on an unsound array", "check_values(update, _WHO)",
           "if update.ndim != 1 or not np.isfinite(update).all(): return update",
           "check_no_unsound_array_leaves"),
    Mutant("fails open on overflow", "check_update(result)",
           "if not bool(torch.isfinite(result).all()): return Protected(update)",
           "check_nothing_leaves_where_noise_overflows"),
    Mutant("sends overflow", "check_update(result)", "pass",
           "check_nothing_leaves_where_noise_overflows"),
    Mutant("the others leave raw", "result = np.zeros_like(update)", "result = update.copy()",
           "check_what_is_not_chosen_stays"),
    Mutant("more leave than are billed", TOP, TOP.replace("scales.count", "2 * scales.count"),
           "check_what_is_not_chosen_stays"),
    Mutant("raw where nothing is chosen", UNIFORM,
           UNIFORM.replace("chosen", "return update.copy()\n        chosen"),
           "check_noise_is_what_is_billed"),
    Mutant("noise skipped", NOISE, "result[chosen] = values", "check_noise_is_what_is_billed"),
    Mutant("noise halved", NOISE, NOISE.replace("scales.release", "scales.release / 2"),
           "check_noise_is_what_is_billed"),
    Mutant("choices for free", "release = z * conf.clip / kept", "release = z * conf.clip",
           "check_noise_is_what_is_billed"),
    Mutant("price misreported", "return noise_event(z, conf.noise)",
           "return noise_event(2 * z, conf.noise)", "check_noise_is_what_is_billed"),
    Mutant("choices not in the price", PRICE, "return values", "check_noise_is_what_is_billed"),
    Mutant("strength lowers the noise but not the bill",
           "z, scales = conf.noise_multiplier * strength, exact_scales(conf, size, strength)",
           "z, scales = conf.noise_multiplier, exact_scales(conf, size, strength)",
           "check_noise_is_what_is_billed"),
    Mutant("chosen without noise", TOP, TOP.replace("scales.gumbel", "0.0"),
           "check_choices_are_as_noisy_as_billed"),
    Mutant("scores not cut", SCORES, "scores = np.abs(update)",
           "check_choices_are_as_noisy_as_billed"),
    Mutant("clip skipped", VALUES, "values = update[chosen]",
           "check_a_site_is_bounded_before_the_noise"),
    Mutant("clip of another norm", VALUES,
           "values = clip_norm(update[chosen], conf.clip, 'gaussian')",
           "check_a_site_is_bounded_before_the_noise"),
    Mutant("no noise for nothing", "    if z == 0 or scales.share == 0:\n        return",
           "    if z == 0: return dp_accounting.NoOpDpEvent()\n    if scales.share == 0:\n"
           "        return", "check_without_noise_nothing_is_proved"),
    Mutant("a raw round billed as protected", 'return off_schedule_release("site", "replace_one")',
           "task = __import__('dataclasses').replace(task, strength=1.0)",
           "check_a_raw_round_proves_nothing"),
    Mutant("the same noise everywhere", FILTER,
           FILTER.replace('task.streams.numpy("noise")', "np.random.default_rng(1)"),
           "check_places_have_their_own_noise"),
]  # fmt: skip


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_the_filter_as_it_is(make_task, name: str) -> None:
    CHECKS[name](make_task, svt_exact)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_a_changed_line_is_caught(make_task, mutant: Mutant) -> None:
    module = mutated(svt_exact, mutant.old, mutant.new)
    with pytest.raises(AssertionError):
        CHECKS[mutant.caught_by](make_task, module)


def test_every_check_catches_something() -> None:
    assert {mutant.caught_by for mutant in MUTANTS} == set(CHECKS)
