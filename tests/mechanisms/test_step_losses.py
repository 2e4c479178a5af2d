"""Losses of noisy steps: read at once or at the end, with the same outcome."""

from __future__ import annotations

import math

import pytest
import torch

from fedprivacy.mechanisms import dpsgd
from fedprivacy.mechanisms.dpsgd import DpSgd
from fedprivacy.mechanisms.step_losses import StepLosses, until_infinite

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("sums", "sizes", "outcome"),
    [
        ([6.0, 4.0], [3, 1], (2, 3.0)),
        ([6.0, 0.0, 4.0], [3, 0, 1], (3, 3.0)),
        ([0.0, 0.0], [0, 0], (2, None)),
        ([], [], (0, None)),
        ([6.0, math.inf, 4.0], [3, 1, 1], (2, math.nan)),
        ([math.nan, 4.0], [3, 1], (1, math.nan)),
        ([0.0, 4.0, -math.inf], [0, 1, 2], (3, math.nan)),
    ],
)
def test_the_first_loss_that_is_not_finite_ends_the_round(sums, sizes, outcome) -> None:
    assert until_infinite(sums, sizes) == pytest.approx(outcome, nan_ok=True)
    for device in (CPU, GPU):
        losses = StepLosses(device)
        for total, size in zip(sums, sizes, strict=True):
            if not losses.add(torch.tensor(total), size):
                break
        assert losses.outcome() == pytest.approx(outcome, nan_ok=True)


def test_only_where_reading_is_free_is_it_known_at_once() -> None:
    assert not StepLosses(CPU).add(torch.tensor(math.nan), 3)
    assert StepLosses(CPU).add(torch.tensor(math.nan), 0)
    assert StepLosses(GPU).add(torch.tensor(math.nan), 3)


@pytest.mark.parametrize("engine", ["bookkeeping", "vmap", "loop", "opacus"])
@pytest.mark.parametrize("broken", [False, True])
def test_reading_at_the_end_trains_the_same(
    make_task, monkeypatch: pytest.MonkeyPatch, engine: str, broken: bool
) -> None:
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    if broken:
        x[:3] = math.nan
    mechanism = DpSgd(1.0, 1.0, sampling_rate=0.2, divisor=8.0, grad_engine=engine)
    tasks = [make_task(x=x, y=torch.ones(40, dtype=torch.int64)) for _ in range(2)]
    expected = mechanism.train(tasks[0])
    monkeypatch.setattr(dpsgd, "StepLosses", lambda device: StepLosses(GPU))
    found = mechanism.train(tasks[1])
    assert repr(found) == repr(expected)  # as NaN equals nothing
    assert math.isnan(found.loss) == broken
    weights = [task.parameters.flat for task in tasks]
    assert torch.equal(weights[1].isnan(), weights[0].isnan())
    assert torch.equal(weights[1].nan_to_num(), weights[0].nan_to_num())
