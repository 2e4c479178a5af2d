"""Clipped sums of several sites at once: each site's own, bounded, and certified to be so."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.grad_engines import certificate as module
from fedprivacy.mechanisms.grad_engines import stacked
from fedprivacy.mechanisms.grad_engines.certificate import certificate, ensure_certified
from fedprivacy.mechanisms.grad_engines.clipping import CLIPPINGS, Contribution
from fedprivacy.mechanisms.grad_engines.loop import LoopEngine
from fedprivacy.mechanisms.grad_engines.stacked import StackedEngine, stacked_sums
from fedprivacy.training.stacked.functional import stacking_faults
from fedprivacy.training.stacked.gradients import stacked_gradients
from fedprivacy.training.stacked.records import StackedBatch, StackedRecords

MODELS = ("mlp", "linear without bias", "density_cnn")
RULES = ("flat", "normalized", "automatic", "per_layer")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_certified", set())


def engine_of(case: Any, rule: str = "flat", precision: str = "float32") -> StackedEngine:
    gradients = stacked_gradients(case.model, case.loss, precision)
    return StackedEngine(case.model, stacked_sums(gradients, CLIPPINGS[rule]), precision)


@pytest.mark.parametrize("rows", [None, 2, 5])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", MODELS)
def test_every_site_gets_the_loops_sum_of_its_own_records(
    make_case: Callable[[str], Any], name: str, rule: str, rows: int | None
) -> None:
    case = make_case(name)
    sums = stacked_sums(stacked_gradients(case.model, case.loss), CLIPPINGS[rule], rows)
    records = StackedRecords.of([(case.x[:2], case.y[:2]), (case.x[2:], case.y[2:])])
    index = torch.full((3, len(case.x)), records.padding)
    index[0, :2], index[1, : len(case.x) - 2] = torch.arange(2), torch.arange(2, len(case.x))
    start = torch.cat([p.detach().reshape(-1) for p in case.model.parameters()])
    weights = torch.stack([start, 0.9 * start, start])
    total = torch.full_like(weights, 7.0)
    losses = sums.clipped(weights, records.batch(index), 0.3, total)
    loop = LoopEngine(case.model, case.loss, Contribution(CLIPPINGS[rule]))
    for site, part in enumerate((slice(0, 2), slice(2, None), slice(0, 0))):
        nn.utils.vector_to_parameters(weights[site], case.model.parameters())
        expected = loop.clipped_sum(case.x[part], case.y[part], 0.3)
        torch.testing.assert_close(total[site], expected.total, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(losses[site], expected.loss, rtol=1e-9, atol=1e-11)


def test_without_rows_the_sums_are_zero(make_case: Callable[[str], Any]) -> None:
    for name in ("mlp", "density_cnn"):
        case = make_case(name)
        assert not engine_of(case).clipped_sum(case.x[:0], case.y[:0], 1.0).total.any()
        sums = stacked_sums(stacked_gradients(case.model, case.loss))
        weights = torch.cat([p.detach().reshape(-1) for p in case.model.parameters()])[None]
        total = torch.ones_like(weights)
        none = StackedBatch(case.x[None, :0], case.y[None, :0], torch.ones(1, 0, dtype=torch.bool))
        assert sums.clipped(weights, none, 1.0, total).tolist() == [0.0]
        assert not total.any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", MODELS)
def test_the_sums_are_certified(make_case: Callable[[str], Any], name: str, rule: str) -> None:
    case = make_case(name)
    engine, contribution = engine_of(case, rule), Contribution(CLIPPINGS[rule])
    for c in (1e-3, 1e3):
        assert certificate(case.model, case.loss, case.x, case.y, engine, c, contribution)


def _unclipped(rule: Any, squares: torch.Tensor, *rest: Any) -> torch.Tensor:
    return torch.ones_like(squares).masked_fill(~rest[-1], 0.0)


def _padded(rule: Any, squares: torch.Tensor, layers: Any, c: float, there: Any) -> torch.Tensor:
    """Padding counts, as any record."""
    return rule.factors(squares.flatten(1), layers, c).view(squares.shape)


def _beside(rule: Any, squares: torch.Tensor, layers: Any, c: float, there: Any) -> torch.Tensor:
    """A record is clipped by the norm of the same row at the other site."""
    other = squares.flip(1)
    return rule.factors(other.flatten(1), layers, c).view(squares.shape) * there


def _no_bias(use: Any) -> torch.Tensor:
    return use.delta.square().sum(2) * use.input.square().sum(2)


FAULTS = {
    "no clipping": ("_factors", _unclipped),
    "padding that counts": ("_factors", _padded),
    "another site's norms": ("_factors", _beside),
    "norms without the bias": ("_squares", _no_bias),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_sums_are_refused_before_anything_is_trained(
    make_case: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    case = make_case("mlp")
    monkeypatch.setattr(stacked, *FAULTS[fault])
    with pytest.raises(ProtectionError, match="gradient engine 'stacked'"):
        ensure_certified(case.model, case.loss, case.x, case.y, engine_of(case), 0.1)


def test_a_fault_of_torch_itself_is_refused(make_case: Callable[[str], Any]) -> None:
    """PReLU under two maps, which is why such models train one by one.

    With as many rows as sites it fails silently.
    """
    case = make_case("unet3d")
    assert "PReLU" in stacking_faults(case.model)[0]
    with pytest.raises(ProtectionError, match="gradient engine 'stacked' differs"):
        certificate(case.model, case.loss, case.x[:1], case.y[:1], engine_of(case), 1.0)


@pytest.mark.parametrize("name", ["mlp", "density_cnn"])
def test_in_bf16_a_record_contributes_no_more(make_case: Callable[[str], Any], name: str) -> None:
    """Only how its gradient is computed is coarser; what is summed is clipped in float32."""
    case = make_case(name)
    model = case.model.float()
    engine = StackedEngine(model, stacked_sums(stacked_gradients(model, case.loss, "bf16")), "bf16")
    exact = StackedEngine(model, stacked_sums(stacked_gradients(model, case.loss)))
    x = case.x.float()
    for c in (1e-3, 0.1):
        gaps = []
        for row in range(len(x)):
            one = x[row : row + 1], case.y[row : row + 1], c
            got, right = engine.clipped_sum(*one).total, exact.clipped_sum(*one).total
            assert got.dtype == torch.float32
            assert float(got.double().norm()) <= c * (1 + module.NORM_TOLERANCE)
            gaps.append(float((got - right).norm()) / c)
        assert 1e-4 < max(gaps) < 0.3
    assert engine.name == "stacked bf16"
    assert math.isfinite(float(engine.clipped_sum(x, case.y, 1.0).loss))
