"""Clipping rules, views of a record and counts: every engine against plain one-by-one gradients."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.grad_engines import certificate as certificate_module
from fedprivacy.mechanisms.grad_engines.base import ClippedSum
from fedprivacy.mechanisms.grad_engines.certificate import certificate, ensure_certified
from fedprivacy.mechanisms.grad_engines.choose import ENGINES, build_engine
from fedprivacy.mechanisms.grad_engines.clipping import (
    CLIPPINGS,
    Clipping,
    Contribution,
    parameter_layers,
)
from fedprivacy.training.losses import LOSSES

CASES = ["mlp", "linear without bias", "density_cnn", "reused layer"]
PAIRS = [(case, engine) for case in CASES for engine in ENGINES if engine != "bookkeeping"]
PAIRS += [("mlp", "bookkeeping"), ("linear without bias", "bookkeeping")]


def gradients(case, views: int) -> list[list[torch.Tensor]]:
    """Each record's gradient by parameter; of the mean loss over its views."""
    found = []
    for x, y in zip(case.x, case.y, strict=True):
        case.model.zero_grad()
        case.loss(case.model(x if views > 1 else x[None]), y if views > 1 else y[None]).backward()
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in case.model.parameters()]
        found.append([part.clone().flatten() for part in parts])
    case.model.zero_grad()
    return found


def norm(parts: list[torch.Tensor]) -> float:
    return math.sqrt(sum(float((part**2).sum()) for part in parts))


def clipped_by_hand(name: str, case, parts: list[torch.Tensor], bound: float) -> torch.Tensor:
    """One record's contribution, written down without the package's rules."""
    if name == "automatic":
        return torch.cat(parts) * bound / (norm(parts) + 0.01)
    if name != "per_layer":
        return torch.cat(parts) * min(1.0, bound / norm(parts))
    owners = [name.rsplit(".", 1)[0] for name, _ in case.model.named_parameters()]
    each = bound / math.sqrt(len(set(owners)))
    layers = {o: norm([p for p, q in zip(parts, owners, strict=True) if q == o]) for o in owners}
    return torch.cat(
        [
            part * (min(1.0, each / layers[owner]) if layers[owner] else 1.0)
            for part, owner in zip(parts, owners, strict=True)
        ]
    )


def with_views(case, views: int):
    """The case with ``views`` different versions of each record."""
    if views == 1:
        return case
    draws = torch.Generator().manual_seed(9)
    x = torch.stack([case.x] * views, 1)
    x = x + 0.3 * torch.randn(x.shape, generator=draws, dtype=x.dtype)
    return type(case)(case.model, case.loss, x, torch.stack([case.y] * views, 1))


def engine_of(engine: str, case, rule: Clipping, views: int = 1, batch: int | None = None):
    return build_engine(engine, case.model, case.loss, Contribution(rule, views), batch)


@pytest.mark.parametrize(("name", "engine"), PAIRS)
@pytest.mark.parametrize("rule", CLIPPINGS)
def test_every_engine_knows_every_rule(make_case, name: str, engine: str, rule: str) -> None:
    case = make_case(name)
    found = gradients(case, 1)
    bound = sorted(norm(parts) for parts in found)[len(found) // 2]
    expected = sum(clipped_by_hand(rule, case, parts, bound) for parts in found)
    got = engine_of(engine, case, CLIPPINGS[rule]).clipped_sum(case.x, case.y, bound)
    torch.testing.assert_close(got.total, expected, rtol=1e-9, atol=1e-12)
    if rule == "adaptive":
        assert got.within is not None
        # The median is itself within, up to the rounding of a square root.
        assert float(got.within) in (len(found) // 2, len(found) // 2 + 1)
    else:
        assert got.within is None


@pytest.mark.parametrize(("name", "engine"), PAIRS)
@pytest.mark.parametrize("rule", ["adaptive", "per_layer", "automatic"])
def test_views_are_averaged_before_clipping(make_case, name: str, engine: str, rule: str) -> None:
    case = with_views(make_case(name), 3)
    found = gradients(case, 3)
    sizes = sorted(norm(parts) for parts in found)
    bound = (sizes[0] + sizes[-1]) / 2
    expected = sum(clipped_by_hand(rule, case, parts, bound) for parts in found)
    got = engine_of(engine, case, CLIPPINGS[rule], 3).clipped_sum(case.x, case.y, bound)
    torch.testing.assert_close(got.total, expected, rtol=1e-9, atol=1e-12)
    losses = [
        float(case.loss(case.model(x), y).detach()) for x, y in zip(case.x, case.y, strict=True)
    ]
    assert float(got.loss) == pytest.approx(sum(losses), rel=1e-9)
    if got.within is not None:
        assert int(got.within) == sum(size <= bound for size in sizes)


@pytest.mark.parametrize(("name", "engine"), PAIRS)
def test_physical_batches_do_not_show(make_case, name: str, engine: str) -> None:
    for views in (1, 2):
        case = with_views(make_case(name), views)
        whole = engine_of(engine, case, CLIPPINGS["adaptive"], views)
        parts = engine_of(engine, case, CLIPPINGS["adaptive"], views, batch=2)
        expected = whole.clipped_sum(case.x, case.y, 0.5)
        got = parts.clipped_sum(case.x, case.y, 0.5)
        torch.testing.assert_close(got.total, expected.total, rtol=1e-9, atol=1e-12)
        assert got.within == expected.within


@pytest.mark.parametrize("engine", ["opacus", "vmap", "bookkeeping"])
def test_physical_batch_bounds_what_the_model_sees_at_once(make_case, engine: str) -> None:
    case = make_case("mlp")
    seen: list[int] = []
    if engine == "vmap":
        built = engine_of(engine, case, CLIPPINGS["flat"], batch=3)
        inner = built._per_record
        built._per_record = lambda p, x, y: (seen.append(len(x)), inner(p, x, y))[1]
    else:
        case.model.register_forward_pre_hook(lambda _m, args: seen.append(len(args[0])))
        built = engine_of(engine, case, CLIPPINGS["flat"], batch=3)
    built.clipped_sum(case.x, case.y, 1.0)
    assert sum(seen) == 11
    assert max(seen) == 3


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rule", CLIPPINGS)
def test_an_empty_batch_sums_to_zero_under_every_rule(make_case, engine: str, rule: str) -> None:
    case = make_case("mlp")
    got = engine_of(engine, case, CLIPPINGS[rule]).clipped_sum(case.x[:0], case.y[:0], 1.0)
    assert not got.total.any()
    assert got.within is None or float(got.within) == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_gradient_that_is_not_finite_is_not_counted_as_within(make_case, engine: str) -> None:
    case = make_case("mlp")
    case.x[3, 2] = math.nan
    got = engine_of(engine, case, CLIPPINGS["adaptive"]).clipped_sum(case.x, case.y, 1e9)
    assert got.within == 10
    assert not torch.isfinite(got.total).all()


class Idle(nn.Module):
    """Owns a Linear layer that its forward pass does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.first, self.second = nn.Linear(6, 2), nn.Linear(6, 4), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def test_a_layer_without_use_has_its_share_of_the_bound_in_every_engine() -> None:
    model, loss = Idle().double(), LOSSES["binary"]
    x, y = torch.randn(5, 6, dtype=torch.float64), torch.arange(5) % 2
    rule = Contribution(CLIPPINGS["per_layer"])
    sums = [build_engine(e, model, loss, rule).clipped_sum(x, y, 0.1).total for e in ENGINES]
    for one, other in pairwise(sums):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_views_that_nearly_cancel_keep_their_norm() -> None:
    # Two views whose gradients are 1e4 times their mean: float32 products would lose it.
    model = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(model.weight)
    big, small = torch.tensor([1e4, 0.0, 0.0]), torch.tensor([0.0, 2.0, 0.0])
    x = torch.stack([big + small, -big + small])[None]
    y = torch.zeros(1, 2)
    rule = Contribution(CLIPPINGS["flat"], views=2)

    def mean_output(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return output.mean()

    got = build_engine("bookkeeping", model, mean_output, rule).clipped_sum(x, y, 0.5)
    assert float(got.total.norm()) == pytest.approx(0.5, rel=1e-3)


# ------------------------------------------------------------------------------ the rules


norms = st.lists(st.floats(0, 1e6), min_size=1, max_size=8)


@given(parts=norms, bound=st.floats(1e-3, 1e3), rule=st.sampled_from(sorted(CLIPPINGS)))
def test_no_rule_lets_a_record_contribute_more_than_its_bound(
    parts: list[float], bound: float, rule: str
) -> None:
    squares = torch.tensor(parts, dtype=torch.float64)[:, None] ** 2
    factors = CLIPPINGS[rule].factors(squares, range(len(parts)), bound)
    assert factors.shape == squares.shape
    assert float((squares * factors**2).sum().sqrt()) <= bound * (1 + 1e-9)


@given(parts=norms, rule=st.sampled_from(sorted(CLIPPINGS)))
def test_an_infinite_bound_clips_nothing(parts: list[float], rule: str) -> None:
    squares = torch.tensor(parts)[:, None] ** 2
    assert (CLIPPINGS[rule].factors(squares, range(len(parts)), math.inf) == 1).all()


@pytest.mark.parametrize("rule", CLIPPINGS)
def test_not_a_number_stays_visible(rule: str) -> None:
    squares = torch.tensor([[1.0, math.nan], [4.0, 1.0]])
    factors = CLIPPINGS[rule].factors(squares, (0, 1), 1.0)
    assert torch.isnan(factors[:, 1]).any()
    assert torch.isfinite(factors[:, 0]).all()


def test_bounds() -> None:
    assert {name: rule.bound(0.3) for name, rule in CLIPPINGS.items()} == {
        "flat": 0.3,
        "normalized": 0.3,
        "automatic": 1.0,
        "per_layer": 0.3,
        "adaptive": 0.3,
    }


def test_a_weight_and_its_bias_are_one_layer() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 1, bias=False)))
    assert parameter_layers(model) == (0, 0, 1)


# ------------------------------------------------------------------------ the certificate


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate_module, "_certified", set())


@pytest.mark.parametrize(("name", "engine"), PAIRS)
@pytest.mark.parametrize("rule", CLIPPINGS)
@pytest.mark.parametrize("views", [1, 2])
def test_sound_engines_are_certified_under_every_rule(
    make_case, name: str, engine: str, rule: str, views: int
) -> None:
    case = with_views(make_case(name), views)
    contribution = Contribution(CLIPPINGS[rule], views)
    built = build_engine(engine, case.model, case.loss, contribution)
    records = case.x[:2], case.y[:2]
    assert certificate(case.model, case.loss, *records, built, 0.2, contribution)


class Scaled:
    """An engine whose sums are off by a factor."""

    name = "scaled"

    def __init__(self, inner, factor: float) -> None:
        self.inner, self.factor = inner, factor

    def clipped_sum(self, x: torch.Tensor, y: torch.Tensor, max_norm: float) -> ClippedSum:
        right = self.inner.clipped_sum(x, y, max_norm)
        return ClippedSum(right.total * self.factor, right.loss)


@pytest.mark.parametrize("rule", CLIPPINGS)
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_wrong_contributions_are_refused_under_every_rule(
    make_case, rule: str, factor: float
) -> None:
    case = make_case("mlp")
    contribution = Contribution(CLIPPINGS[rule])
    wrong = Scaled(build_engine("vmap", case.model, case.loss, contribution), factor)
    with pytest.raises(ProtectionError):
        certificate(case.model, case.loss, case.x[:2], case.y[:2], wrong, 0.2, contribution)


def test_an_engine_of_another_rule_is_refused(make_case) -> None:
    case = make_case("mlp")
    built = build_engine("bookkeeping", case.model, case.loss)
    declared = Contribution(CLIPPINGS["automatic"])
    with pytest.raises(ProtectionError, match="differs from the one-by-one gradients"):
        certificate(case.model, case.loss, case.x[:2], case.y[:2], built, 1.0, declared)


def test_each_rule_and_number_of_views_has_its_own_certificate(make_case) -> None:
    case, seen = make_case("mlp"), []
    for contribution in (
        Contribution(),
        Contribution(CLIPPINGS["per_layer"]),
        Contribution(CLIPPINGS["flat"], 2),
    ):
        ensure_certified(
            case.model,
            case.loss,
            case.x,
            case.y,
            build_engine("vmap", case.model, case.loss, contribution),
            1.0,
            contribution,
        )
        seen.append(len(certificate_module._certified))
    assert seen == [1, 2, 3]


class Residual(nn.Module):
    """Adds to its hidden values in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        h += x
        return self.second(h)


def test_an_addition_in_place_is_refused_by_opacus_and_bookkeeping() -> None:
    model, x, y = Residual(), torch.randn(2, 5), torch.tensor([0, 1])
    for engine in ("opacus", "bookkeeping"):
        built = build_engine(engine, model, LOSSES["multiclass"])
        with pytest.raises(ProtectionError, match="grad_engine=loop"):
            certificate(model, LOSSES["multiclass"], x, y, built, 1.0)
    for engine in ("vmap", "loop"):
        built = build_engine(engine, model, LOSSES["multiclass"])
        assert certificate(model, LOSSES["multiclass"], x, y, built, 1.0)
