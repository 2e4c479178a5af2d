"""The test of the tests: DP-SGD is broken on purpose, and the named check must notice.

A mutant is the mechanism's own source with one line changed, or a part it relies on replaced. The
checks are those that ``test_dpsgd_checks.py`` runs on the mechanism as it is.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mutation import Mutant, mutated

from fedprivacy.accounting.ledger import Ledger
from fedprivacy.config.schema import DpsgdConf
from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms import dpsgd
from fedprivacy.mechanisms.grad_engines import certificate, start_up
from fedprivacy.mechanisms.grad_engines.choose import ENGINES
from fedprivacy.mechanisms.grad_engines.clipping import CLIPPINGS
from fedprivacy.models.mlp import Mlp
from fedprivacy.training.randomness import Streams, derive_seed


@pytest.fixture(scope="module")
def checks() -> ModuleType:
    if "dpsgd_checks" not in sys.modules:
        path = Path(__file__).with_name("dpsgd_checks.py")
        spec = importlib.util.spec_from_file_location("dpsgd_checks", path)
        sys.modules["dpsgd_checks"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["dpsgd_checks"]


NOISE = ".mul_(multiplier * bound)"
DIVIDE = ".div_(self._scale)"
PRICE = "round_event(self.sampling, sigma, self.sampling_rate, trained.steps)"
DRAW = "step_batches(self.sampling, len(task.x), self.sampling_rate, steps, draws)"
STRENGTH = "engine, self.noise_multiplier * task.strength)"

MUTANTS = [
    Mutant(
        "noise halved",
        NOISE,
        ".mul_(0.5 * multiplier * bound)",
        "check_noise_has_the_scale_that_is_billed",
    ),
    Mutant(
        "noise not scaled to the clip norm",
        NOISE,
        ".mul_(multiplier)",
        "check_noise_has_the_scale_that_is_billed",
    ),
    Mutant(
        "strength lowers the noise but not the bill",
        "sigma = self.noise_multiplier * task.strength\n        if sigma == 0:",
        "sigma = self.noise_multiplier\n        if sigma == 0:",
        "check_noise_has_the_scale_that_is_billed",
    ),
    Mutant(
        "the same noise in every step",
        "noise.fill(rows)",
        'StepNoise([task.streams.torch("noise")], 1).fill(rows)',
        "check_steps_have_their_own_noise",
    ),
    Mutant(
        "clip after noise",
        "gradient.add_(clipped.total).div_(self._scale)",
        "gradient.add_(clipped.total).mul_(min(1.0, bound / float(gradient.norm())))"
        ".div_(self._scale)",
        "check_noise_is_added_after_clipping",
    ),
    Mutant(
        "the batch clipped as one",
        "clipped = engine.clipped_sum(task.x[batch], task.y[batch], bound)",
        "clipped = engine.clipped_sum(task.x[batch], task.y[batch], 1e9); "
        "clipped.total.mul_(min(1.0, len(batch) * bound / float(clipped.total.norm() + 1e-30)))",
        "check_one_record_moves_a_step_by_its_bound_at_most",
    ),
    Mutant(
        "sampling rate misreported",
        PRICE,
        "round_event(self.sampling, sigma, self.sampling_rate / 2, trained.steps)",
        "check_records_enter_steps_at_the_billed_rate",
    ),
    Mutant(
        "batches drawn at another rate",
        DRAW,
        "step_batches(self.sampling, len(task.x), 1.5 * self.sampling_rate, steps, draws)",
        "check_records_enter_steps_at_the_billed_rate",
    ),
    Mutant(
        "shuffled batches billed as Poisson",
        "return step_batches(self.sampling,",
        'return step_batches("shuffle",',
        "check_records_enter_steps_independently",
    ),
    Mutant(
        "one step of a round unaccounted",
        PRICE,
        "round_event(self.sampling, sigma, self.sampling_rate, trained.steps - 1)",
        "check_records_enter_steps_at_the_billed_rate",
    ),
    Mutant(
        "one round unaccounted",
        "event = " + PRICE,
        'event = __import__("dp_accounting").NoOpDpEvent() if task.streams.round_number == 2 '
        "else " + PRICE,
        "check_every_round_is_priced",
    ),
    Mutant(
        "divided by the batch that came",
        DIVIDE,
        ".div_(max(1, len(batch)))",
        "check_the_divisor_is_a_declared_constant",
    ),
    Mutant(
        "divided by the site's own expected batch",
        DIVIDE,
        ".div_(max(1, int(self.sampling_rate * len(task.x))))",
        "check_the_divisor_is_a_declared_constant",
    ),
    Mutant(
        "the count of adaptive clipping for free",
        "self._bound, self._gradient_sigma(sigma)\n",
        "self._bound, sigma\n",
        "check_adaptive_clipping_costs_what_is_billed",
    ),
    Mutant(
        "the count of adaptive clipping without noise",
        "len(batch), normal)",
        "len(batch), 0 * normal)",
        "check_adaptive_clipping_costs_what_is_billed",
    ),
]


def broken(mutant: Mutant) -> type:
    """The mutated mechanism's class."""
    return mutated(dpsgd, mutant.old, mutant.new).DpSgd


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_a_changed_line_is_caught(make_task, checks: ModuleType, mutant: Mutant) -> None:
    build = broken(mutant)
    with pytest.raises(AssertionError):
        checks.CHECKS[mutant.caught_by](make_task, build)


def test_every_check_catches_something(checks: ModuleType) -> None:
    elsewhere = {"check_sites_and_rounds_have_their_own_noise"}
    assert {mutant.caught_by for mutant in MUTANTS} | elsewhere == set(checks.CHECKS)


def test_the_source_itself_is_no_mutant(make_task, checks: ModuleType) -> None:
    same = Mutant("none", NOISE, NOISE, "")
    checks.check_noise_has_the_scale_that_is_billed(make_task, broken(same))


# ------------------------------------------------------------------------------- clipping


def unclipped(squares: torch.Tensor, _layers: object, _max_norm: float) -> torch.Tensor:
    return torch.ones_like(squares)


@pytest.fixture
def clip_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, rule in CLIPPINGS.items():
        monkeypatch.setitem(CLIPPINGS, name, replace(rule, factors=unclipped))
    monkeypatch.setattr(certificate, "_certified", set())


@pytest.mark.usefixtures("clip_skipped")
@pytest.mark.parametrize("max_grad_norm", [1e-3, DpsgdConf().max_grad_norm, 2.0, 1e3])
@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("rule", sorted(CLIPPINGS))
def test_clip_skipped_is_refused_by_the_certificate(
    make_task, checks: ModuleType, rule: str, engine: str, max_grad_norm: float
) -> None:
    settings = checks.settings(max_grad_norm=max_grad_norm, grad_engine=engine, clipping=rule)
    with pytest.raises(ProtectionError, match="lets one record contribute"):
        dpsgd.DpSgd(**settings).train(make_task())


@pytest.mark.usefixtures("clip_skipped")
@pytest.mark.parametrize("features", [28, 30])
def test_clip_skipped_is_refused_for_tables_at_twice_the_default(
    make_task, checks: ModuleType, features: int
) -> None:
    # Gradients of fresh networks for HIGGS and Wisconsin have norms between 1 and 2.
    records = torch.randn(40, features, generator=torch.Generator().manual_seed(1))
    task = make_task(make_model=lambda: Mlp(features, [128, 64], 1), x=records)
    with pytest.raises(ProtectionError, match=r"a clip norm of .* was asked for, as a probe"):
        dpsgd.DpSgd(**checks.settings(max_grad_norm=2.0)).train(task)


@pytest.mark.usefixtures("clip_skipped")
def test_clip_skipped_is_caught_without_the_certificate(
    make_task, checks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_up, "ensure_certified", lambda *_: None)
    with pytest.raises(AssertionError):
        checks.check_one_record_moves_a_step_by_its_bound_at_most(make_task, dpsgd.DpSgd)


# ----------------------------------------------------------------------------------- seeds


@pytest.mark.parametrize("forgotten", ["site", "round_number", "seed"])
def test_shared_seeds_are_caught(
    make_task, checks: ModuleType, monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    def seed_for(self: Streams, purpose: str) -> int:
        parts = {"seed": self.seed, "round_number": self.round_number, "site": self.site}
        parts[forgotten] = 0
        return derive_seed(purpose, *parts.values())

    monkeypatch.setattr(Streams, "seed_for", seed_for)
    with pytest.raises(AssertionError):
        checks.check_sites_and_rounds_have_their_own_noise(make_task, dpsgd.DpSgd)


# ---------------------------------------------------------------------------------- ledger


CELL = ("algorithm=dpsgd", "federation.rounds=3")


def test_a_cell_prices_every_round(tiny, checks: ModuleType, tmp_path: Path) -> None:
    checks.cell_check_every_round_is_in_the_ledger(tiny(*CELL), tmp_path)


def test_a_round_missing_from_the_ledger_is_caught(
    tiny, checks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(events):
        return Ledger(tuple(event for event in events if event.round != 2))

    monkeypatch.setattr("fedprivacy.cell.Ledger", forgetful)
    with pytest.raises(AssertionError, match="no event for rounds"):
        checks.cell_check_every_round_is_in_the_ledger(tiny(*CELL), tmp_path)
