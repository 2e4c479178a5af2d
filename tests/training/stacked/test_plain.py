"""Plain training as a stack leaves what training one by one leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from several_sites import MODELS, SIZES, Sites, largest_gap, one_by_one, sites_of
from torch import nn

from fedprivacy.training.plain import train_plain
from fedprivacy.training.stacked.functional import (
    FunctionalGradients,
    gradient_faults,
    stacking_faults,
)
from fedprivacy.training.stacked.gradients import stacked_gradients
from fedprivacy.training.stacked.plain import train_plain_stacked
from fedprivacy.training.stacked.records import StackedBatch, StackedRecords
from fedprivacy.training.stacked.sites import StackedOutcome
from fedprivacy.training.task import OptimizerSpec

ROUNDS, TOLERANCE = 4, 1e-5


def stacked(sites: Sites, precision: str = "float32") -> list[StackedOutcome]:
    task = sites.tasks[0]
    gradients = stacked_gradients(task.parameters.model, task.loss, precision)
    return train_plain_stacked(sites.stack(), gradients)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_gradients_are_those_of_each_site_alone(model: str) -> None:
    """In float64, where nothing but a wrong formula can make a difference."""
    sites = sites_of(model)
    module, loss = sites.tasks[0].parameters.model.double(), sites.tasks[0].loss
    size = sum(p.numel() for p in module.parameters())
    weights = torch.randn(2, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    own = [(task.x.double(), task.y) for task in sites.tasks[1:3]]
    records = StackedRecords.of(own)
    index = torch.full((2, 9), records.padding)
    index[0], index[1, :4] = torch.arange(9), 37 + torch.arange(4)
    total = torch.full_like(weights, 3.0)
    losses = stacked_gradients(module, loss).mean(weights, records.batch(index), total)
    for site, (x, y) in enumerate((x[:n], y[:n]) for (x, y), n in zip(own, (9, 4), strict=True)):
        nn.utils.vector_to_parameters(weights[site], module.parameters())
        value = loss(module(x), y)
        expected = torch.autograd.grad(value, list(module.parameters()))
        assert float(losses[site]) == pytest.approx(float(value.detach()), rel=1e-12)
        torch.testing.assert_close(
            total[site], torch.cat([g.reshape(-1) for g in expected]), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("model", ["mlp", "smooth cnn", "volumes"])
@pytest.mark.parametrize(
    "optimizer",
    [OptimizerSpec("sgd", 0.1), OptimizerSpec("sgd", 0.1, 0.9), OptimizerSpec("adam", 0.01)],
    ids=["sgd", "momentum", "adam"],
)
@pytest.mark.parametrize("epochs", [1, 2.5])
def test_rounds_of_unequal_sites_end_where_they_end_one_by_one(
    model: str, optimizer: OptimizerSpec, epochs: float
) -> None:
    ours = theirs = sites_of(model, optimizer=optimizer, local_epochs=epochs)
    for _ in range(ROUNDS):
        a, b = stacked(ours), one_by_one(theirs, train_plain)
        assert [one.trained.steps for one in a] == [one.trained.steps for one in b]
        assert len({one.trained.steps for one in a}) > 2
        for left, right in zip(a, b, strict=True):
            assert left.trained.loss == pytest.approx(right.trained.loss, rel=1e-4)
        assert largest_gap(a, b) <= TOLERANCE
        ours, theirs = ours.following(a), theirs.following(b)
    assert float((ours.start - sites_of(model).start).abs().max()) > 1e-2


def test_a_site_whose_weights_overflow_spoils_no_other() -> None:
    sites = sites_of("mlp")
    sites.tasks[1].x.fill_(float("inf"))
    found = stacked(sites)
    sound = one_by_one(sites_of("mlp"), train_plain)
    assert not bool(torch.isfinite(found[1].weights).all())
    rest = [index for index in range(len(SIZES)) if index != 1]
    assert largest_gap([found[i] for i in rest], [sound[i] for i in rest]) <= TOLERANCE


def test_padding_counts_for_nothing_whatever_it_holds() -> None:
    sites = sites_of("mlp")
    task = sites.tasks[0]
    gradients = stacked_gradients(task.parameters.model, task.loss)
    there = torch.tensor([[True, True, False], [True, False, False]])
    x, y = task.x[:6].view(2, 3, -1), task.y[:6].view(2, 3)
    totals = []
    for filling in (0.0, 1e3):
        held = torch.where(there.unsqueeze(2), x, torch.full_like(x, filling))
        total = torch.empty(2, task.parameters.size)
        gradients.mean(sites.stack().weights[:2], StackedBatch(held, y, there), total)
        totals.append(total)
    assert torch.equal(*totals)


def test_bf16_is_near_and_not_the_same() -> None:
    sites = sites_of("mlp")
    exact, coarse = stacked(sites), stacked(sites, "bf16")
    assert all(one.weights.dtype == torch.float32 for one in coarse)
    assert TOLERANCE < largest_gap(exact, coarse) < 0.05


def test_a_wrong_batching_rule_is_found() -> None:
    task = sites_of("smooth cnn").tasks[0]
    right = FunctionalGradients(task.parameters.model, task.loss)
    assert gradient_faults(right, task.x, task.y) == ""

    class Mixed(FunctionalGradients):
        """The sites' gradients, the wrong way round."""

        def mean(self, weights: torch.Tensor, batch: StackedBatch, total: torch.Tensor) -> Any:
            losses = super().mean(weights, batch, total)
            total.copy_(total.flip(0))
            return losses

    wrong = Mixed(task.parameters.model, task.loss)
    assert gradient_faults(wrong, task.x, task.y).startswith("torch.func gets the gradient of 0.w")
    assert torch.equal(task.parameters.flat, sites_of("smooth cnn").start)


def test_models_that_draw_or_recur_are_not_stacked() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    assert stacking_faults(model) == ["dropout 1 draws from a stream that all sites share"]
    assert stacking_faults(nn.LSTM(3, 3)) == ["recurrent layer  cannot be mapped over sites"]
    assert stacking_faults(sites_of("density_cnn").tasks[0].parameters.model) == []
