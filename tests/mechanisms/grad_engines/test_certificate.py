from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.grad_engines import certificate as module
from fedprivacy.mechanisms.grad_engines.base import ClippedSum
from fedprivacy.mechanisms.grad_engines.certificate import certificate, ensure_certified
from fedprivacy.mechanisms.grad_engines.choose import ENGINES
from fedprivacy.mechanisms.grad_engines.loop import LoopEngine
from fedprivacy.mechanisms.grad_engines.opacus import OpacusEngine
from fedprivacy.training.losses import LOSSES

LOSS = LOSSES["multiclass"]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_certified", set())


class Altered:
    """The loop with its outcome changed."""

    name = "altered"

    def __init__(self, model: nn.Module, change: Callable[[torch.Tensor, int], torch.Tensor]):
        self.loop, self.change, self.calls = LoopEngine(model, LOSS), change, 0

    def clipped_sum(self, x: torch.Tensor, y: torch.Tensor, max_norm: float) -> ClippedSum:
        self.calls += 1
        right = self.loop.clipped_sum(x, y, max_norm)
        return ClippedSum(self.change(right.total, len(x)), right.loss)


def images() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(75, 3))
    return model, torch.randn(2, 1, 5, 5), torch.tensor([0, 1])


SOUND = [("mlp", "bookkeeping")] + [
    (name, engine)
    for name in ("mlp", "density_cnn", "unet3d")
    for engine in ("opacus", "vmap", "loop")
]


@pytest.mark.parametrize(("name", "engine"), SOUND)
@pytest.mark.parametrize("max_norm", [1e-3, 1e3])
def test_sound_engines_are_certified(make_case, name: str, engine: str, max_norm: float) -> None:
    case = make_case(name)
    built = ENGINES[engine](case.model, case.loss)
    assert certificate(case.model, case.loss, case.x[:2], case.y[:2], built, max_norm)


def test_contributions_above_the_clip_norm_are_refused() -> None:
    model, x, y = images()
    engine = Altered(model, lambda total, n: total * 1.001)
    with pytest.raises(ProtectionError, match=r"contribute 0\.1001 where .*max_grad_norm=0\.1"):
        certificate(model, LOSS, x, y, engine, 0.1)


def test_wrong_directions_are_refused_by_parameter() -> None:
    model, x, y = images()

    def swap(total: torch.Tensor, _n: int) -> torch.Tensor:
        return torch.cat([total[:-3], total[-3:].flip(0)])

    with pytest.raises(ProtectionError, match=r"most at parameter '3\.bias'"):
        certificate(model, LOSS, x, y, Altered(model, swap), 1e6)


def test_doubled_gradients_are_refused_even_if_clipping_hides_them() -> None:
    model, x, y = images()
    clipped_hard = Altered(model, lambda total, n: total * (2 if n > 1 else 1))
    with pytest.raises(ProtectionError, match="differs from the one-by-one gradients"):
        certificate(model, LOSS, x, y, clipped_hard, 1e-3)


def test_a_wrong_contribution_of_the_right_norm_is_refused() -> None:
    model, x, y = images()
    turned = Altered(model, lambda total, n: total.flip(0) if n == 1 else total)
    with pytest.raises(ProtectionError, match="differs from the one-by-one gradients"):
        certificate(model, LOSS, x, y, turned, 0.1)


def test_non_finite_sums_are_refused() -> None:
    model, x, y = images()
    with pytest.raises(ProtectionError, match="contribute nan"):
        certificate(model, LOSS, x, y, Altered(model, lambda total, n: total * math.nan), 1.0)


def test_opacus_hooks_with_other_padding_are_refused() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv3d(1, 3, 3, padding=1, padding_mode="replicate"), nn.Flatten(), nn.Linear(192, 3)
    )
    x, y = torch.randn(2, 1, 4, 4, 4), torch.tensor([0, 1])
    hooks = OpacusEngine(model, LOSS, functorch=False)
    with pytest.raises(ProtectionError, match="padding_mode of 0 is not zeros"):
        certificate(model, LOSS, x, y, hooks, 1e6)
    assert certificate(model, LOSS, x, y, OpacusEngine(model, LOSS), 1e6)


def test_opacus_hooks_with_a_module_under_two_names_are_refused() -> None:
    class Aliased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)
            self.block = nn.Sequential(self.layer)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(x)

    torch.manual_seed(0)
    model, x, y = Aliased(), torch.randn(2, 5), torch.tensor([0, 1])
    with pytest.raises(ProtectionError, match=r"module block\.0 is also layer"):
        certificate(model, LOSS, x, y, OpacusEngine(model, LOSS), 1e6)
    assert certificate(model, LOSS, x, y, ENGINES["vmap"](model, LOSS), 1e6)


def test_opacus_hooks_with_an_in_place_activation_are_refused() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))
    x, y = torch.randn(2, 5), torch.tensor([0, 1])
    with pytest.raises(ProtectionError, match="in-place activation 1"):
        certificate(model, LOSS, x, y, OpacusEngine(model, LOSS), 1.0)
    assert certificate(model, LOSS, x, y, ENGINES["loop"](model, LOSS), 1.0)


def test_batch_normalisation_is_refused_by_name() -> None:
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    model = nn.Sequential(nn.Linear(5, 4), norm, nn.Linear(4, 3))
    x, y = torch.randn(2, 5), torch.tensor([0, 1])
    for engine in ("loop", "vmap", "opacus"):
        with pytest.raises(ProtectionError, match="batch normalisation 1"):
            certificate(model, LOSS, x, y, ENGINES[engine](model, LOSS), 1.0)


def test_an_engine_that_mixes_records_is_refused() -> None:
    class Mixing:
        name = "mixing"

        def __init__(self, model: nn.Module) -> None:
            self.model = model

        def clipped_sum(self, x: torch.Tensor, y: torch.Tensor, c: float) -> ClippedSum:
            # Ordinary batch gradient, clipped as a whole: right for one record only.
            loss, gradient = LoopEngine(self.model, LOSS).gradient(x, y)
            return ClippedSum(gradient * min(1.0, c / float(gradient.norm())), loss)

    model, x, y = images()
    assert certificate(model, LOSS, x[:1], y[:1], Mixing(model), 0.1)
    with pytest.raises(ProtectionError, match="differs"):
        certificate(model, LOSS, x, y, Mixing(model), 0.1)


def test_dropout_is_no_reason_to_refuse_and_stays_on() -> None:
    model = nn.Sequential(nn.Linear(5, 40), nn.Dropout(0.5), nn.Linear(40, 3))
    x, y = torch.randn(2, 5), torch.tensor([0, 1])
    for engine in ("vmap", "bookkeeping", "opacus"):
        assert certificate(model, LOSS, x, y, ENGINES[engine](model, LOSS), 1.0)
    assert model[1].training


def test_it_runs_once_per_architecture_engine_and_clip_norm() -> None:
    model, x, y = images()
    engine = Altered(model, lambda total, n: total)
    ensure_certified(model, LOSS, x, y, engine, 1.0)
    calls = engine.calls
    assert calls > 0
    ensure_certified(model, LOSS, x, y, engine, 1.0)
    assert engine.calls == calls
    ensure_certified(model, LOSS, x, y, engine, 0.5)
    assert engine.calls == 2 * calls
    other = nn.Sequential(nn.Flatten(), nn.Linear(25, 3))
    second = Altered(other, lambda total, n: total)
    ensure_certified(other, LOSS, x, y, second, 1.0)
    assert second.calls == calls


def test_a_refusal_is_not_forgotten() -> None:
    model, x, y = images()
    engine = Altered(model, lambda total, n: total * 2)
    for _ in range(2):
        with pytest.raises(ProtectionError):
            ensure_certified(model, LOSS, x, y, engine, 1.0)


def test_private_records_do_not_decide() -> None:
    model, x, y = images()
    ensure_certified(model, LOSS, x * math.nan, y, LoopEngine(model, LOSS), 1.0)
    ensure_certified(model, LOSS, x[:0], y[:0], ENGINES["vmap"](model, LOSS), 1.0)


def test_non_finite_weights_are_left_to_the_training() -> None:
    model, x, y = images()
    with torch.no_grad():
        model[0].weight.fill_(math.nan)
    engine = Altered(model, lambda total, n: total)
    ensure_certified(model, LOSS, x, y, engine, 1.0)
    assert engine.calls == 0
    with torch.no_grad():
        model[0].weight.fill_(0.1)
    ensure_certified(model, LOSS, x, y, engine, 1.0)
    assert engine.calls > 0


def test_slow_models_are_tried_with_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUDGET_S", 0.0)
    model, x, y = images()
    engine = Altered(model, lambda total, n: total)
    assert certificate(model, LOSS, x, y, engine, 1.0)
    assert engine.calls == 2


@pytest.mark.parametrize("max_norm", [0.1, 2.0, 1e6])
def test_an_engine_that_does_not_clip_is_refused_whatever_the_clip_norm(max_norm: float) -> None:
    class Unclipped:
        name = "unclipped"

        def __init__(self, model: nn.Module) -> None:
            self.loop = LoopEngine(model, LOSS)

        def clipped_sum(self, x: torch.Tensor, y: torch.Tensor, c: float) -> ClippedSum:
            return self.loop.clipped_sum(x, y, math.inf)

    model, x, y = images()
    with pytest.raises(ProtectionError, match="lets one record contribute"):
        certificate(model, LOSS, x, y, Unclipped(model), max_norm)


def test_an_engine_without_suspect_layers_is_not_told_to_remove_them() -> None:
    model, x, y = images()
    with pytest.raises(ProtectionError) as refused:
        certificate(model, LOSS, x, y, Altered(model, lambda total, n: total * 2), 1.0)
    assert "Remove" not in str(refused.value)
    assert "grad_engine=loop" in str(refused.value)


class Overflowing(nn.Module):
    """Finite for small records only."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit, self.layer = limit, nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.where(x.abs() < self.limit, x, x * math.inf))


def test_made_up_records_that_overflow_are_tried_smaller() -> None:
    torch.manual_seed(0)
    model = Overflowing(0.5)
    engine = Altered(model, lambda total, n: total)
    x, y = torch.randn(2, 5), torch.tensor([0, 1])
    ensure_certified(model, LOSS, x, y, engine, 1.0)
    assert engine.calls > 0
    module._certified.clear()  # which limit a model has, its name does not tell
    sound = Overflowing(0.4)
    doubled = Altered(sound, lambda total, n: total * 2)
    with pytest.raises(ProtectionError, match="lets one record contribute"):
        ensure_certified(sound, LOSS, x, y, doubled, 1.0)


@pytest.mark.parametrize("limit", [1e-9, 0.0])
def test_training_does_not_go_on_unchecked(limit: float) -> None:
    model = Overflowing(limit)
    engine = Altered(model, lambda total, n: total)
    x, y = torch.randn(2, 5), torch.tensor([0, 1])
    with pytest.raises(module.NotComparable, match="though the weights are finite"):
        ensure_certified(model, LOSS, x, y, engine, 1.0)
    assert engine.calls == 0


def test_a_model_without_gradients_cannot_be_certified() -> None:
    class Deaf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0.0 * self.layer(x)

    model = Deaf()
    x, y = torch.randn(2, 5), torch.tensor([0, 1])
    with pytest.raises(module.NotComparable, match="norms 0, 0"):
        certificate(model, LOSS, x, y, LoopEngine(model, LOSS), 1.0)
