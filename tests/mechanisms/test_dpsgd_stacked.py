"""DP-SGD as a stack: the masks, the noise, the weights and the statements of one by one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from poisson_batch import poisson_batch
from several_sites import Sites, largest_gap, one_by_one, sites_of

from fedprivacy.audit.engine_selftest import engine_selftest
from fedprivacy.mechanisms import dpsgd_stacked
from fedprivacy.mechanisms.dpsgd import DpSgd
from fedprivacy.mechanisms.dpsgd_stacked import train_dpsgd_stacked
from fedprivacy.mechanisms.grad_engines.clipping import CLIPPINGS
from fedprivacy.mechanisms.grad_engines.stacked import stacked_sums
from fedprivacy.mechanisms.sampling import poisson_batches
from fedprivacy.training.stacked.gradients import stacked_gradients
from fedprivacy.training.stacked.sites import StackedOutcome
from fedprivacy.training.task import LocalTask, OptimizerSpec, Trained

ROUNDS, TOLERANCE = 4, 1e-5


def mechanism(**changes: Any) -> DpSgd:
    settings = {"noise_multiplier": 1.1, "max_grad_norm": 0.5, "sampling_rate": 0.3}
    return DpSgd(**{**settings, "divisor": 6.0, **changes})


def stacked(made: DpSgd, sites: Sites) -> list[StackedOutcome]:
    task = sites.tasks[0]
    gradients = stacked_gradients(task.parameters.model, task.loss)
    sums = stacked_sums(gradients, CLIPPINGS[made.clipping], made.physical_batch)
    return train_dpsgd_stacked(made, sites.stack(), sums)


def compare(made: DpSgd, sites: Sites, rounds: int = ROUNDS) -> None:
    """Rounds of both; each from its own average."""
    ours = theirs = sites
    for _ in range(rounds):
        a, b = stacked(made, ours), one_by_one(theirs, made.train)
        assert largest_gap(a, b) <= TOLERANCE
        for task, left, right in zip(sites.tasks, a, b, strict=True):
            assert left.trained.steps == right.trained.steps
            assert left.trained.batch_sizes == right.trained.batch_sizes
            assert left.trained.loss == pytest.approx(right.trained.loss, rel=1e-4)
            assert made.release(task, left.trained) == made.release(task, right.trained)
        ours, theirs = ours.following(a), theirs.following(b)


@pytest.mark.parametrize("model", ["mlp", "smooth cnn", "volumes"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clipping": "normalized"},
        {"clipping": "automatic"},
        {"clipping": "per_layer"},
        {"sampling": "shuffle"},
        {"ema": 0.6},
        {"physical_batch": 7},
    ],
    ids=str,
)
def test_rounds_of_unequal_sites_end_where_they_end_one_by_one(
    model: str, changes: dict[str, Any]
) -> None:
    compare(mechanism(**changes), sites_of(model, local_epochs=2, strength=1.0))


@pytest.mark.parametrize(
    "optimizer", [OptimizerSpec("sgd", 0.1), OptimizerSpec("adam", 0.01)], ids=["sgd", "adam"]
)
def test_so_they_do_with_other_optimisers(optimizer: OptimizerSpec) -> None:
    compare(mechanism(), sites_of("mlp", optimizer=optimizer, local_epochs=2, strength=0.5))


@pytest.mark.parametrize("model", ["mlp", "smooth cnn"])
def test_so_they_do_where_the_noise_of_several_steps_is_drawn_at_once(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU; seven steps in blocks of four and three."""
    monkeypatch.setattr("fedprivacy.mechanisms.step_noise.steps_at_once", lambda *_: 4)
    compare(mechanism(), sites_of(model, local_epochs=2, strength=1.0))


def test_a_model_with_ties_differs_by_rounding_alone() -> None:
    compare(mechanism(), sites_of("density_cnn", local_epochs=1, strength=1.0), rounds=1)


def test_steps_without_any_record_add_noise_alone() -> None:
    sites = sites_of("mlp", sizes=(2, 1), local_epochs=0.5, strength=1.0)
    made = mechanism(sampling_rate=0.02)
    compare(made, sites, rounds=2)
    assert any(0 in one.trained.batch_sizes for one in stacked(made, sites))


def test_a_round_without_a_single_record_reports_the_loss_of_all() -> None:
    sites = sites_of("mlp", sizes=(3, 2), local_epochs=1e-6, strength=1.0)
    made = mechanism(sampling_rate=1e-6)
    compare(made, sites, rounds=1)
    assert all(sum(one.trained.batch_sizes) == 0 for one in stacked(made, sites))


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_masks_drawn_at_once_are_those_drawn_step_by_step(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedprivacy.mechanisms.sampling._DRAWN_AT_ONCE", 3000)
    one, many = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    expected = [poisson_batch(n, 0.3, one) for _ in range(11)]
    found = poisson_batches(n, 0.3, 11, many)
    assert [batch.tolist() for batch in found] == [batch.tolist() for batch in expected]
    assert torch.equal(one.get_state(), many.get_state())


def test_a_site_that_collapses_stops_where_it_would_and_spoils_no_other() -> None:
    made = mechanism()
    broken, sound = (sites_of("mlp", local_epochs=2, strength=1.0) for _ in range(2))
    broken.tasks[1].x[5] = math.inf
    ours, theirs = stacked(made, broken), one_by_one(broken, made.train)
    assert ours[1].trained.steps == theirs[1].trained.steps < ours[0].trained.steps
    assert math.isnan(ours[1].trained.loss)
    assert bool(ours[1].weights.isnan().all())
    rest = (0, 2, 3, 4)
    undisturbed = stacked(made, sound)
    for index in rest:
        assert torch.equal(ours[index].weights, undisturbed[index].weights)


def test_a_loss_that_overflowed_lets_no_finite_weights_leave() -> None:
    task = sites_of("mlp", strength=1.0).tasks[0]
    sums, sizes = torch.tensor([4.0, 7.0, math.inf, 2.0]), (2, 0, 3, 1)
    found = dpsgd_stacked._outcome(task, torch.ones(5), sums, sizes)
    assert found.trained.steps == 3
    assert bool(found.weights.isnan().all())
    sound = dpsgd_stacked._outcome(task, torch.ones(5), sums.clamp(max=9.0), sizes)
    assert sound.weights.tolist() == [1.0] * 5
    assert sound.trained == Trained(4, (4 / 2 + 9 / 3 + 2) / 3, (), sizes)


def test_a_record_moves_no_other_site() -> None:
    """Bit by bit: the noise is the same, and only the site that has the record changes."""
    made = mechanism()
    with_record, without = (sites_of("mlp", local_epochs=2, strength=1.0) for _ in range(2))
    without.tasks[2].x[3] += 1.0
    ours, theirs = stacked(made, with_record), stacked(made, without)
    moved = [not torch.equal(a.weights, b.weights) for a, b in zip(ours, theirs, strict=True)]
    assert moved == [False, False, True, False, False]


def test_noise_of_sites_has_nothing_to_do_with_each_other() -> None:
    made = mechanism(max_grad_norm=1e-6, noise_multiplier=1e6, sampling_rate=1.0)
    sites = sites_of("mlp", optimizer=OptimizerSpec("sgd", 1.0), strength=1.0)
    drawn = torch.stack([one.weights for one in stacked(made, sites)]) - sites.start
    related = torch.corrcoef(drawn) - torch.eye(len(drawn))
    assert float(related.abs().max()) < 5 / drawn.shape[1] ** 0.5
    # One step, divisor 6, sigma C = 1.
    assert float(drawn.std()) == pytest.approx(1 / 6, rel=0.15)


def _in_a_stack(made: DpSgd, task: LocalTask) -> Trained:
    """The task's round beside a site of its own kind, its weights left where they belong."""
    start = task.parameters.snapshot()
    other = sites_of("mlp").tasks[0].streams
    twin = LocalTask(**{**task.__dict__, "streams": other})
    gradients = stacked_gradients(task.parameters.model, task.loss)
    sites = Sites((task, twin), start)
    found = train_dpsgd_stacked(made, sites.stack(), stacked_sums(gradients))
    task.parameters.load(found[0].weights)
    return found[0].trained


SELFTEST = {"canaries": 2000, "rounds": 2, "local_epochs": 1.0, "seed": 0}


@pytest.mark.parametrize(("z", "q", "least"), [(2.0, 1.0, 0.5), (1.5, 0.2, 0.0)])
def test_the_stack_keeps_what_its_ledger_says(z: float, q: float, least: float) -> None:
    made = DpSgd(noise_multiplier=z, max_grad_norm=1.0, sampling_rate=q, divisor=1.0)
    found = engine_selftest(made, **SELFTEST, train=_in_a_stack)
    assert found.passed, found.summary()
    assert least * found.proven <= found.estimate <= found.proven


def test_a_stack_with_too_little_noise_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made = DpSgd(noise_multiplier=2.0, max_grad_norm=1.0, sampling_rate=1.0, divisor=1.0)
    honest = DpSgd.step_scales

    def quarter(self: DpSgd, strength: float) -> tuple[float, float, float]:
        bound, deviation, divisor = honest(self, strength)
        return bound, deviation / 4, divisor

    monkeypatch.setattr(dpsgd_stacked.DpSgd, "step_scales", quarter)
    assert not engine_selftest(made, **SELFTEST, train=_in_a_stack).passed
