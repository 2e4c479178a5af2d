"""Scores of what an adversary sees, against naive loops and problems with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fedprivacy.audit.membership import auc
from fedprivacy.audit.views import (
    SKETCH,
    RoundScores,
    Sketch,
    gradients,
    log_odds,
    ridge_scores,
    standardised,
)
from fedprivacy.training.losses import LOSSES
from fedprivacy.training.parameters import FlatParameters


def test_gradients_are_those_of_a_loop() -> None:
    torch.manual_seed(0)
    parameters = FlatParameters(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1)))
    x, y = torch.randn(9, 5), torch.arange(9) % 2
    weights = torch.randn(parameters.size)
    found = gradients(parameters, LOSSES["binary"], x, y, weights, lambda row: row)
    parameters.load(weights)
    for one, target, row in zip(x, y, found, strict=True):
        parameters.model.zero_grad()
        LOSSES["binary"](parameters.model(one[None]), target[None]).backward()
        naive = torch.cat([p.grad.reshape(-1) for p in parameters.model.parameters()])
        assert torch.allclose(row, naive, atol=1e-6)


def test_ridge_scores_are_coefficients_over_their_uncertainty() -> None:
    torch.manual_seed(1)
    rows, update = torch.randn(6, 40), torch.randn(40)
    found = ridge_scores(rows, update, 4)
    matrix = rows.double().numpy()
    scale = np.mean((matrix**2).sum(1))
    inverse = np.linalg.inv(matrix @ matrix.T + 1e-3 * scale * np.eye(6))
    naive = inverse @ -(matrix @ update.double().numpy()) / np.sqrt(np.diag(inverse))
    assert np.allclose(found, naive[:4])


def test_members_of_a_sum_are_found_in_spite_of_the_others() -> None:
    draws = torch.Generator().manual_seed(2)
    rows = torch.randn(120, 400, generator=draws) + torch.randn(400, generator=draws)
    coins = torch.rand(80, generator=draws) < 0.5
    update = -(rows[:80][coins].sum(0) + rows[80:].sum(0))
    known = ridge_scores(rows, update, 80)
    assert auc(known, coins.numpy()) == 1.0


def test_a_sketch_is_linear_and_keeps_inner_products() -> None:
    size = 4 * SKETCH
    sketch, draws = Sketch(size, 1), torch.Generator().manual_seed(3)
    one, other = torch.randn(size, generator=draws), torch.randn(size, generator=draws)
    both = sketch(one) + 2 * sketch(other)
    assert torch.allclose(sketch(one + 2 * other), both, atol=1e-3)
    assert float(sketch(one) @ sketch(one)) == pytest.approx(float(one @ one), rel=0.1)
    assert Sketch(10, 1)(one[:10]) is not None
    assert torch.equal(Sketch(10, 1)(one[:10]), one[:10])


def test_log_odds_undo_the_loss() -> None:
    chance = np.array([0.1, 0.5, 0.999])
    assert np.allclose(log_odds(-np.log(chance)), np.log(chance / (1 - chance)))
    assert np.isfinite(log_odds(np.array([0.0, 1e9]))).all()


def test_raw_rounds_are_used_alone_where_there_are_any() -> None:
    rows, update = torch.randn(5, 30), torch.randn(30)
    mixed, raw = (RoundScores(5, lambda v: v) for _ in range(2))
    mixed.add(rows, update, protected=True)
    assert np.allclose(mixed.total(), standardised(ridge_scores(rows, update, 5)))
    mixed.add(rows, 2 * update + 1, protected=False)
    raw.add(rows, 2 * update + 1, protected=False)
    assert np.allclose(mixed.total(), raw.total())
    assert not RoundScores(5, lambda v: v).total().any()


def test_constant_scores_say_nothing() -> None:
    assert not standardised(np.full(4, 3.0)).any()
    assert not ridge_scores(torch.zeros(3, 4), torch.ones(4), 3).any()
