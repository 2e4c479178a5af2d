"""What DP-SGD owes, as named checks: the ordinary tests run them on the mechanism, and
``test_mutants.py`` runs them on broken copies of it, where they must fail.

Each takes ``make_task`` (see ``conftest.py``) and the class of the mechanism, and measures what
the mechanism does against what its release says; none looks inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import dp_accounting
import numpy as np
import torch
from dp_accounting.pld import PLDAccountant
from scipy import stats
from torch import nn

from fedprivacy.accounting import Event, Ledger, epsilon
from fedprivacy.mechanisms.sampling import dpsgd_steps
from fedprivacy.training.task import OptimizerSpec, Trained

MakeTask = Callable[..., Any]
Mechanism = Callable[..., Any]

ONE_STEP = {"optimizer": OptimizerSpec("sgd", lr=1.0), "local_epochs": 0.2}


def wide_model() -> nn.Module:
    """24,000 parameters, all zero."""
    model = nn.Linear(5, 4000)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model


def step_noise(make_task: MakeTask, build: Mechanism, settings: dict, **kwargs: Any) -> np.ndarray:
    """What the noise adds to the weights in one step of learning rate 1: the batch is the same."""
    changes = []
    for sigma in (settings["noise_multiplier"], 0.0):
        task = make_task(**{**ONE_STEP, "make_model": wide_model, **kwargs})
        build(**{**settings, "noise_multiplier": sigma}).train(task)
        changes.append(task.parameters.snapshot().double())
    return (changes[0] - changes[1]).numpy()


def settings(**changes: Any) -> dict[str, Any]:
    """Settings of a mechanism that takes a fifth of the records in each step."""
    usual = {"noise_multiplier": 1.5, "max_grad_norm": 0.4, "sampling_rate": 0.2, "divisor": 3.0}
    return {**usual, **changes}


def check_noise_has_the_scale_that_is_billed(make_task: MakeTask, build: Mechanism) -> None:
    """Normal, with the released sigma times the clip norm over the divisor, at any strength."""
    for strength in (1.0, 0.25):
        noise = step_noise(make_task, build, settings(), strength=strength)
        task = make_task(strength=strength)
        billed = build(**settings()).release(task, Trained(1, 0.0)).dp_event
        scale = billed.event.event.noise_multiplier * 0.4 / 3.0
        assert math.isclose(billed.event.event.noise_multiplier, 1.5 * strength)
        assert stats.kstest(noise / scale, "norm").pvalue > 0.01
        assert math.isclose(noise.std(), scale, rel_tol=0.02)


def check_one_record_moves_a_step_by_its_bound_at_most(
    make_task: MakeTask, build: Mechanism
) -> None:
    """Leaving a record out moves a noise-free step by C over the divisor, however large it is."""
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) * 100
    y = torch.ones(40, dtype=torch.int64)
    chosen = settings(noise_multiplier=0.0, sampling_rate=1.0)
    for left_out in (0, 17):
        keep = torch.arange(40) != left_out
        moved = []
        for some in (torch.ones(40, dtype=torch.bool), keep):
            task = make_task(x=x[some], y=y[some], **{**ONE_STEP, "local_epochs": 1})
            build(**chosen).train(task)
            moved.append(task.parameters.snapshot())
        assert float((moved[0] - moved[1]).norm()) <= 0.4 / 3.0 * (1 + 1e-4)


def check_noise_is_added_after_clipping(make_task: MakeTask, build: Mechanism) -> None:
    """The norm of a noisy step is that of noise on every coordinate, far above the clip norm."""
    task = make_task(**{**ONE_STEP, "make_model": wide_model})
    build(**settings()).train(task)
    expected = 1.5 * 0.4 / 3.0 * math.sqrt(24_000)
    assert math.isclose(float(task.parameters.flat.norm()), expected, rel_tol=0.05)


def check_records_enter_steps_at_the_billed_rate(make_task: MakeTask, build: Mechanism) -> None:
    """How many records enter is binomial with the sampling rate of the event."""
    n, steps = 400, 60

    def mean_of_weights(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return output.mean()

    # All records are the same and none is clipped: a step moves the weights by its batch's size.
    task = make_task(
        x=torch.ones(n, 5),
        y=torch.ones(n, dtype=torch.int64),
        loss=mean_of_weights,
        make_model=lambda: nn.Linear(5, 1),
        optimizer=OptimizerSpec("sgd", lr=1.0),
        local_epochs=steps * 0.2,
    )
    before = task.parameters.snapshot()
    mechanism = build(**settings(noise_multiplier=0.0, max_grad_norm=1e3))
    mechanism.train(task)
    entered = float((before - task.parameters.snapshot())[0]) * 3.0
    billed = build(**settings()).release(task, Trained(steps, 0.0)).dp_event
    rate, count = billed.event.sampling_probability, billed.count
    assert count == steps
    spread = math.sqrt(n * count * rate * (1 - rate))
    assert abs(entered - n * count * rate) < 4 * spread


def check_records_enter_steps_independently(make_task: MakeTask, build: Mechanism) -> None:
    """Batch sizes vary as independent draws vary; those of an even division hardly do."""
    n, sizes = 400, []

    def mean_of_weights(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return output.mean()

    for seed in range(60):
        task = make_task(
            x=torch.ones(n, 5),
            y=torch.ones(n, dtype=torch.int64),
            loss=mean_of_weights,
            make_model=lambda: nn.Linear(5, 1),
            seed=seed,
            **ONE_STEP,
        )
        before = task.parameters.snapshot()
        build(**settings(noise_multiplier=0.0, max_grad_norm=1e3)).train(task)
        sizes.append(float((before - task.parameters.snapshot())[0]) * 3.0)
    spread = math.sqrt(n * 0.2 * 0.8)
    # The 0.1 % ends of the law of an empirical variance of 60 normal draws.
    low, high = stats.chi2.ppf([0.001, 0.999], 59) / 59
    assert low < np.var(sizes, ddof=1) / spread**2 < high


def check_every_round_is_priced(make_task: MakeTask, build: Mechanism) -> None:
    """The ledger of three rounds costs what all their steps cost together."""
    chosen = settings(noise_multiplier=2.0)
    events = []
    for number in (1, 2, 3):
        task = make_task(round_number=number, local_epochs=4)
        mechanism = build(**chosen)
        trained = mechanism.train(task)
        assert trained.steps == dpsgd_steps(4, 0.2) == 20
        release = mechanism.release(task, trained)
        events.append(
            Event(
                round=number,
                site="A",
                mechanism="dpsgd",
                unit=release.unit,
                neighbouring=release.neighbouring,
                view="server_updates",
                dp_event=release.dp_event,
                protected=True,
            )
        )
    accountant = PLDAccountant(
        dp_accounting.NeighboringRelation.REPLACE_SPECIAL, value_discretization_interval=1e-3
    )
    step = dp_accounting.PoissonSampledDpEvent(0.2, dp_accounting.GaussianDpEvent(2.0))
    accountant.compose(step, 60)
    claimed = epsilon(Ledger(tuple(events)), 1e-5, "zero_out")
    assert math.isclose(claimed, accountant.get_epsilon(1e-5), rel_tol=1e-3)


def check_sites_and_rounds_have_their_own_noise(make_task: MakeTask, build: Mechanism) -> None:
    """No correlation between the noise of two sites, or of two rounds."""
    chosen = settings(sampling_rate=1.0)
    first = step_noise(make_task, build, chosen, local_epochs=1)
    for other in ({"site": 1}, {"round_number": 2}, {"seed": 8}):
        second = step_noise(make_task, build, chosen, local_epochs=1, **other)
        assert abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(first.size)


def check_steps_have_their_own_noise(make_task: MakeTask, build: Mechanism) -> None:
    """The noise of nine steps adds up like independent draws: three times that of one."""
    task = make_task(
        make_model=wide_model,
        loss=lambda output, target: output.mean(),
        optimizer=OptimizerSpec("sgd", lr=1.0),
        local_epochs=9e-7,
    )
    build(**settings(sampling_rate=1e-7)).train(task)
    expected = 3 * 1.5 * 0.4 / 3.0
    assert math.isclose(float(task.parameters.flat.std()), expected, rel_tol=0.02)


def check_the_divisor_is_a_declared_constant(make_task: MakeTask, build: Mechanism) -> None:
    """Neither noise nor signal scale with the site's or the batch's number of records."""
    for n in (10, 40, 41):
        noise = step_noise(make_task, build, settings(), n=n)
        assert math.isclose(noise.std(), 1.5 * 0.4 / 3.0, rel_tol=0.03)
    # All records are the same, each clipped to 1e-3: a step of b records moves by b * 1e-3 / 3.
    for n in (10, 40):
        task = make_task(
            make_model=lambda: nn.Linear(5, 1),
            x=torch.ones(n, 5),
            y=torch.ones(n, dtype=torch.int64),
            optimizer=OptimizerSpec("sgd", lr=1.0),
            local_epochs=1,
        )
        before = task.parameters.snapshot()
        chosen = settings(noise_multiplier=0.0, max_grad_norm=1e-3, sampling_rate=1.0)
        build(**chosen).train(task)
        moved = float((task.parameters.snapshot() - before).norm())
        assert math.isclose(moved, n * 1e-3 / 3.0, rel_tol=1e-3)


def check_adaptive_clipping_costs_what_is_billed(make_task: MakeTask, build: Mechanism) -> None:
    """Measured noise of gradient and count together is the Gaussian of the event.

    The count's noise shows in the clip norms, which show in the noise of the steps.
    """
    z, clip, rate, divisor = 1.5, 0.4, 0.2, 30.0
    chosen = settings(
        clipping="adaptive", sampling_rate=1e-7, divisor=divisor, clip_rate=rate, count_noise=2.0
    )
    task = make_task(local_epochs=1e-7 * 3000, optimizer=OptimizerSpec("sgd", lr=1e-6))
    # Empty batches, nothing within: the logarithm of the clip norm moves by the noise alone.
    trained = build(**chosen).train(task)
    gradient_sigma = trained.noise[0] / clip * divisor
    shares = np.diff(np.log(trained.noise)) / -rate
    count_sigma = shares.std() * divisor
    assert abs(shares.mean()) < 4 * shares.std() / math.sqrt(shares.size)
    moved = math.hypot(1 / gradient_sigma, 0.5 / count_sigma)
    assert math.isclose(1 / moved, z, rel_tol=0.02)
    measured = step_noise(make_task, build, settings(clipping="adaptive", count_noise=2.0))
    assert math.isclose(measured.std(), gradient_sigma * clip / 3.0, rel_tol=0.02)
    billed = build(**chosen).release(task, Trained(1, 0.0)).dp_event
    assert math.isclose(billed.event.event.noise_multiplier, z)


CHECKS = {name: value for name, value in globals().items() if name.startswith("check_")}


def cell_check_every_round_is_in_the_ledger(config: Any, folder: Any) -> None:
    """A cell that ran to its end has an event of every site and round, and prices them all."""
    from fedprivacy.accounting import Ledger as Written
    from fedprivacy.cell import run_cell

    result = run_cell(config, folder)
    assert result.status != "failed", result.reason
    ledger = Written.read(folder / "ledger.jsonl")
    expected = {(site, r) for site in result.sites for r in range(1, config.federation.rounds + 1)}
    assert {(event.site, event.round) for event in ledger} == expected
    for site in ledger.sites:
        steps = sum(event.dp_event.count for event in ledger.site(site))
        assert steps == sum(block.steps for block in result.rounds)
