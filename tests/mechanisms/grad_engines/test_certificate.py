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
    assert engine.calls > calls
    other = nn.Sequential(nn.Flatten(), nn.Linear(25, 3))
    second = Altered(other, lambda total, n: total)
    ensure_certified(other, LOSS, x, y, second, 1.0)
    assert second.calls > 0


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
    assert not certificate(model, LOSS, x, y, engine, 1.0)
    with torch.no_grad():
        model[0].weight.fill_(0.1)
    ensure_certified(model, LOSS, x, y, engine, 1.0)
    assert engine.calls > 0


def test_slow_models_are_tried_with_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUDGET_S", 0.0)
    model, x, y = images()
    engine = Altered(model, lambda total, n: total)
    assert certificate(model, LOSS, x, y, engine, 1e3)
    # Alone at the clip norm, at one that cuts it, and as a batch of one.
    assert engine.calls == 3


# -------------------------------------------------------------- clip norms that cut nothing


@pytest.mark.parametrize("max_norm", [0.1, 1.0, 2.0, 1e6])
def test_an_engine_that_never_clips_is_refused_at_any_clip_norm(max_norm: float) -> None:
    model, x, y = images()
    engine = Altered(model, lambda total, n: total)
    engine.loop.clipped_sum = lambda x, y, c, f=engine.loop.clipped_sum: f(x, y, math.inf)
    with pytest.raises(ProtectionError, match="lets one record contribute") as refusal:
        certificate(model, LOSS, x, y, engine, max_norm)
    assert f"max_grad_norm={max_norm:g}" in str(refusal.value)
    with pytest.raises(ProtectionError, match="lets one record contribute"):
        ensure_certified(model, LOSS, x, y, engine, max_norm)


def test_an_engine_that_clips_records_of_a_batch_alike_is_refused() -> None:
    model, x, y = images()

    class ByTheFirst:
        """Right for one record, and for many that are not cut."""

        name = "by the first"

        def clipped_sum(self, x: torch.Tensor, y: torch.Tensor, c: float) -> ClippedSum:
            loop = LoopEngine(model, LOSS)
            loss, first = loop.gradient(x[:1], y[:1])
            total = loop.clipped_sum(x, y, math.inf).total
            return ClippedSum(total * min(1.0, c / float(first.norm())), loss)

    x[1] *= 3
    assert certificate(model, LOSS, x[:1], y[:1], ByTheFirst(), 1e3)
    with pytest.raises(ProtectionError, match="differs"):
        certificate(model, LOSS, x, y, ByTheFirst(), 1e3)


def test_the_refusal_names_layers_only_where_some_are_suspect() -> None:
    model, x, y = images()
    with pytest.raises(ProtectionError) as refusal:
        certificate(model, LOSS, x, y, Altered(model, lambda total, n: total * 2), 1.0)
    assert "Remove" not in str(refusal.value)
    assert str(refusal.value).endswith("Use algorithm.grad_engine=loop.")
    suspect = nn.Sequential(nn.Flatten(), nn.Linear(25, 3), nn.ReLU(inplace=True))
    with pytest.raises(ProtectionError, match=r"Suspects: in-place activation 2\. Remove them"):
        certificate(suspect, LOSS, x, y, Altered(suspect, lambda total, n: total * 2), 1.0)


# --------------------------------------------------------------- gradients that show nothing


class Then(nn.Module):
    """A linear layer, then a function of its output."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(5, 3), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.linear(x))


SHOWING_NOTHING = {
    "nan": lambda h: h * math.nan,
    "infinite": lambda h: h * 3e38 * 3e38,
    "norm overflows": lambda h: torch.tanh(h * 1e25) + h * 1e25,
    "zero": lambda h: h * 0.0,
}


@pytest.mark.parametrize("name", SHOWING_NOTHING)
def test_finite_weights_without_a_gradient_to_compare_are_refused(name: str) -> None:
    model, x, y = Then(SHOWING_NOTHING[name]), torch.randn(2, 5), torch.tensor([0, 1])
    engine = Altered(model, lambda total, n: total)
    for check in (certificate, ensure_certified):
        with pytest.raises(ProtectionError, match=r"weights are finite.*nothing was trained"):
            check(model, LOSS, x, y, engine, 1.0)
    assert engine.calls == 0
    assert not module._certified


def test_inputs_that_overflow_are_made_smaller() -> None:
    torch.manual_seed(0)
    steep, y = Then(lambda h: torch.exp(h * 1e3)), torch.tensor([0, 1])
    with torch.no_grad():
        steep.linear.bias.zero_()
    sound = Altered(steep, lambda total, n: total)
    with pytest.raises(ProtectionError, match="NaN, infinite or zero"):
        certificate(steep, LOSS, torch.randn(2, 5), y, sound, 1.0)
    assert sound.calls == 0
    ensure_certified(steep, LOSS, torch.zeros(2, 5), y, sound, 1.0)
    assert sound.calls > 0
    doubled = Altered(steep, lambda total, n: total * 2)
    doubled.name = "doubled"
    with pytest.raises(ProtectionError, match="lets one record contribute"):
        ensure_certified(steep, LOSS, torch.zeros(2, 5), y, doubled, 1.0)


def test_targets_that_a_model_is_sure_of_are_turned_round() -> None:
    class Sure(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bias + torch.tensor([1e4, 0.0]) + 0 * x

    model, x = Sure(), torch.zeros(1, 1)
    loop = LoopEngine(model, LOSS)
    assert not loop.gradient(x, torch.tensor([0]))[1].any()
    with pytest.raises(ProtectionError, match="NaN, infinite or zero"):
        certificate(model, LOSS, x, torch.tensor([0]), loop, 1.0)
    # The loop is tried with one record, whose target is 0 first.
    ensure_certified(model, LOSS, x, torch.tensor([0]), loop, 1.0)
    assert len(module._certified) == 1


def test_an_engine_that_leaves_other_tensors_in_the_model_is_refused() -> None:
    """As torch's functional_call does with a module that is registered under two names."""

    class Careless(LoopEngine):
        def clipped_sum(self, x, y, max_norm):
            found = super().clipped_sum(x, y, max_norm)
            layer = self._model[0]
            layer.weight = nn.Parameter(layer.weight.detach().clone())
            return found

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3))
    x, y = torch.randn(2, 5), torch.arange(2) % 2
    with pytest.raises(ProtectionError, match="leaves other tensors in the model"):
        ensure_certified(model, LOSS, x, y, Careless(model, LOSS), 0.7)
