"""Records in a run's own messages: exact where one record alone moved a neuron."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from fedprivacy.audit.messages import records_in_messages
from fedprivacy.training.losses import LOSSES
from fedprivacy.training.parameters import FlatParameters

ROWS, COLUMNS = 200, 6


def update_of(x: torch.Tensor, y: torch.Tensor, steps: int = 1) -> torch.Tensor:
    """What a site sends after plain steps over all its records."""
    torch.manual_seed(0)
    parameters = FlatParameters(
        nn.Sequential(nn.Linear(COLUMNS, ROWS), nn.ReLU(), nn.Linear(ROWS, 1))
    )
    with torch.no_grad():  # neurons that few records activate, as training makes some
        parameters.model[0].bias.sub_(1.5)
    before = parameters.snapshot()
    for _ in range(steps):
        loss = LOSSES["binary"](parameters.model(x), y)
        gradients = torch.autograd.grad(loss, list(parameters.model.parameters()))
        with torch.no_grad():
            parameters.flat.sub_(0.1 * torch.cat([g.reshape(-1) for g in gradients]))
    return parameters.snapshot() - before


@pytest.fixture
def records() -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    return 1.5 * torch.randn(12, COLUMNS, generator=draws), torch.arange(12) % 2


def test_a_neuron_that_one_record_moved_shows_it(records) -> None:
    x, y = records
    found = records_in_messages([update_of(x, y)], ROWS, COLUMNS, x)
    torch.manual_seed(0)
    layer = nn.Linear(COLUMNS, ROWS)
    active = (layer(x) - 1.5 > 0).T
    alone = active[active.sum(1) == 1].any(0)
    assert 0 < int(alone.sum()) <= found.recognised
    assert found.least_error < 1e-4
    assert (found.records, found.messages) == (12, 1)
    json.dumps(found.to_json(), allow_nan=False)


def test_noise_hides_what_it_covers(records) -> None:
    x, y = records
    update = update_of(x, y)
    noise = torch.randn(update.shape, generator=torch.Generator().manual_seed(2))
    assert records_in_messages([update + 0.1 * noise], ROWS, COLUMNS, x).recognised == 0


def test_every_message_is_looked_at(records) -> None:
    x, y = records
    silent = torch.zeros_like(update_of(x, y))
    one = records_in_messages([update_of(x, y)], ROWS, COLUMNS, x)
    both = records_in_messages([silent, update_of(x, y)], ROWS, COLUMNS, x)
    assert (both.recognised, both.messages) == (one.recognised, 2)
    assert records_in_messages([silent], ROWS, COLUMNS, x).recognised == 0


def test_records_of_others_are_not_found(records) -> None:
    x, y = records
    other = 1.5 * torch.randn(12, COLUMNS, generator=torch.Generator().manual_seed(9))
    assert records_in_messages([update_of(x, y)], ROWS, COLUMNS, other).recognised == 0
