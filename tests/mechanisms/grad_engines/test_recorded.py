"""Work recorded once and replayed: the sums of the engine itself, for every batch and bound."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tape import Tape
from torch import nn

from fedprivacy.mechanisms.grad_engines import recorded
from fedprivacy.mechanisms.grad_engines.base import ClippedSum
from fedprivacy.mechanisms.grad_engines.bookkeeping import BookkeepingEngine
from fedprivacy.mechanisms.grad_engines.choose import _recorded, build_engine
from fedprivacy.mechanisms.grad_engines.clipping import CLIPPINGS, PLAIN, Contribution
from fedprivacy.mechanisms.grad_engines.loop import LoopEngine
from fedprivacy.mechanisms.grad_engines.recorded import RecordedEngine, pieces, power_of_two
from fedprivacy.mechanisms.grad_engines.vmap import VmapEngine
from fedprivacy.models.density_cnn import DensityCnn
from fedprivacy.models.mlp import Mlp
from fedprivacy.training.losses import LOSSES
from fedprivacy.training.parameters import FlatParameters

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
BINARY, MULTICLASS = LOSSES["binary"], LOSSES["multiclass"]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    recorded._recordings.clear()
    yield
    recorded._recordings.clear()


def table(n: int = 13) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    return torch.randn(n, 6, generator=draws), torch.arange(n) % 2


def small_mlp() -> Mlp:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        return Mlp(6, [9, 5], 1)


def of(model: nn.Module, contribution: Contribution = PLAIN, largest: int = 8) -> Any:
    engine = BookkeepingEngine(model, BINARY, chunk=largest, contribution=contribution)
    tape = Tape()
    kind = (BINARY, contribution.clipping.name, contribution.views)
    return RecordedEngine(engine, model, kind, largest, recorder=tape), tape


def same(got: ClippedSum, expected: ClippedSum) -> None:
    torch.testing.assert_close(got.total, expected.total, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(got.loss, expected.loss)
    assert (got.within is None) == (expected.within is None)
    if got.within is not None and expected.within is not None:
        assert float(got.within) == float(expected.within)


@given(n=st.integers(0, 3000), largest=st.sampled_from([1, 2, 8, 64, 4096]))
def test_pieces_are_powers_of_two_that_add_up(n: int, largest: int) -> None:
    found = list(pieces(n, largest))
    assert sum(found) == n
    assert all(size == power_of_two(size) <= largest for size in found)
    assert found == sorted(found, reverse=True)
    below = [size for size in found if size < largest]
    assert len(set(below)) == len(below), "each smaller size at most once"


@pytest.mark.parametrize("n", range(14))
@pytest.mark.parametrize("rule", CLIPPINGS)
@pytest.mark.parametrize("max_norm", [0.3, math.inf])
def test_the_sums_are_those_of_the_loop(n: int, rule: str, max_norm: float) -> None:
    model, (x, y) = small_mlp(), table()
    contribution = Contribution(CLIPPINGS[rule])
    expected = LoopEngine(model, BINARY, contribution).clipped_sum(x[:n], y[:n], max_norm)
    engine, tape = of(model, contribution)
    same(engine.clipped_sum(x[:n], y[:n], max_norm), expected)
    assert tape.recorded == bin(n).count("1")


def test_another_bound_other_records_and_other_weights_need_no_new_recording() -> None:
    model, (x, y) = small_mlp(), table()
    parameters, (engine, tape) = FlatParameters(model), of(model)
    loop = LoopEngine(model, BINARY)
    kept = engine.clipped_sum(x[:4], y[:4], 0.3)
    before, loss_before = kept.total.clone(), float(kept.loss)
    parameters.load(parameters.flat * 2)
    for bound in (0.1, 1.0, math.inf):
        same(engine.clipped_sum(x[4:8], y[4:8], bound), loop.clipped_sum(x[4:8], y[4:8], bound))
    assert (tape.recorded, tape.replayed) == (1, 4)
    assert torch.equal(kept.total, before), "what was handed out stays as it is"
    assert float(kept.loss) == loss_before, "a round's losses are read at its end"


def test_weights_that_move_are_recorded_anew() -> None:
    model, (x, y) = small_mlp(), table()
    engine, tape = of(model)
    engine.clipped_sum(x[:4], y[:4], 0.3)
    FlatParameters(model)  # the parameters are elsewhere now
    same(
        engine.clipped_sum(x[:4], y[:4], 0.3),
        LoopEngine(model, BINARY).clipped_sum(x[:4], y[:4], 0.3),
    )
    assert tape.recorded == 2


def test_dropout_that_was_off_in_the_recording_is_on_in_training() -> None:
    model = nn.Sequential(nn.Linear(6, 64), nn.Dropout(0.5), nn.Linear(64, 1))
    (x, y), (engine, tape) = table(), of(model)
    model.eval()
    first = engine.clipped_sum(x[:4], y[:4], math.inf).total
    model.train()
    found = engine.clipped_sum(x[:4], y[:4], math.inf).total
    assert tape.recorded == 2
    assert not torch.allclose(found, first)


def test_engines_over_one_model_share_recordings_of_one_kind_only() -> None:
    model, (x, y) = small_mlp(), table()
    tapes = []
    for rule in ("flat", "flat", "automatic"):
        contribution = Contribution(CLIPPINGS[rule])
        engine, tape = of(model, contribution)
        expected = LoopEngine(model, BINARY, contribution).clipped_sum(x, y, 0.3)
        same(engine.clipped_sum(x, y, 0.3), expected)
        tapes.append(tape.recorded)
    assert tapes == [3, 0, 3]


def test_work_that_cannot_be_recorded_is_done_by_the_engine(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(_work: Callable[[], Any]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    model, (x, y) = small_mlp(), table()
    lean = BookkeepingEngine(model, BINARY, chunk=3)
    engine = RecordedEngine(BookkeepingEngine(model, BINARY), model, (), 8, lean, refuse)
    assert engine._otherwise is lean
    expected = LoopEngine(model, BINARY).clipped_sum(x, y, 0.3)
    with caplog.at_level(logging.WARNING, logger="fedprivacy"):
        for _ in range(2):
            same(engine.clipped_sum(x, y, 0.3), expected)
    assert len(caplog.records) == 1
    assert "not permitted when stream is capturing" in caplog.text


def test_recordings_go_with_their_model() -> None:
    model, (x, y) = small_mlp(), table()
    engine, _ = of(model)
    engine.clipped_sum(x, y, 0.3)
    assert len(recorded._recordings) == 1
    # The tape keeps the work, and so the model; a graph keeps neither.
    recorded._recordings[model].clear()
    del engine, model
    gc.collect()
    assert len(recorded._recordings) == 0


@pytest.mark.parametrize(
    ("name", "record", "views", "physical", "largest"),
    [
        ("bookkeeping", (28,), 1, None, 4096),
        ("bookkeeping", (28,), 3, None, 1024),
        ("bookkeeping", (28,), 1, 100, 64),
        ("vmap", (1, 64, 64), 1, None, 64),
        ("vmap", (1, 48, 60, 48), 1, None, 16),
        ("vmap", (1, 48, 60, 48), 1, 1, 1),
        ("vmap", (1, 512, 512, 512), 1, None, 1),
    ],
)
def test_records_at_a_time_on_a_gpu(
    name: str, record: tuple[int, ...], views: int, physical: int | None, largest: int
) -> None:
    contribution = Contribution(views=views)
    engine: Any = _recorded(name, small_mlp(), BINARY, contribution, physical, record)
    assert engine._largest == largest
    assert engine._engine._chunk == largest
    assert engine._otherwise is not engine._engine
    assert physical is None or engine._otherwise._chunk == physical


def test_on_the_cpu_nothing_is_recorded() -> None:
    assert isinstance(build_engine("auto", small_mlp(), BINARY), BookkeepingEngine)


# ------------------------------------------------------------------ on a GPU


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("rule", CLIPPINGS)
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_on_cuda_auto_gives_the_sums_of_the_loop(kind: str, rule: str) -> None:
    if kind == "mlp":
        model, (x, y), loss = small_mlp(), table(70), BINARY
    else:
        model, loss = DensityCnn(1, [4, 8], 2, 3), MULTICLASS
        x, y = torch.randn(70, 1, 9, 9, generator=torch.Generator().manual_seed(2)), table(70)[1]
    model, x, y = model.cuda(), x.cuda(), y.cuda()
    contribution = Contribution(CLIPPINGS[rule])
    engine = build_engine("auto", model, loss, contribution, record=x.shape[1:])
    assert isinstance(engine, RecordedEngine)
    loop = LoopEngine(model, loss, contribution)
    for n, bound in ((0, 0.3), (1, 0.3), (13, 0.1), (70, 1.0), (70, math.inf), (13, 0.1)):
        got, expected = (e.clipped_sum(x[:n], y[:n], bound) for e in (engine, loop))
        scale = float(expected.total.norm()) + 1e-6
        assert float((got.total - expected.total).norm()) / scale < 5e-3
        assert float(got.loss) == pytest.approx(float(expected.loss), rel=1e-3)


@gpu
@pytest.mark.gpu
def test_on_cuda_a_model_that_waits_for_the_device_is_not_recorded() -> None:
    class Waiting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) if float(x.detach().sum()) > -1e9 else self.layer(-x)

    model, (x, y) = Waiting().cuda(), table()
    x, y = x.cuda(), y.cuda()
    engine = build_engine("auto", model, BINARY, record=x.shape[1:])
    for _ in range(2):
        got = engine.clipped_sum(x, y, 0.3).total
        expected = LoopEngine(model, BINARY).clipped_sum(x, y, 0.3).total
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


@gpu
@pytest.mark.gpu
def test_on_cuda_a_recording_goes_with_its_model() -> None:
    model, (x, y) = small_mlp().cuda(), table()
    build_engine("auto", model, BINARY).clipped_sum(x.cuda(), y.cuda(), 0.3)
    assert len(recorded._recordings) == 1
    del model
    gc.collect()
    assert len(recorded._recordings) == 0


def test_vmap_can_be_recorded_too() -> None:
    model, loss = DensityCnn(1, [4], 2, 3), MULTICLASS
    x = torch.randn(5, 1, 9, 9, generator=torch.Generator().manual_seed(2))
    y = torch.arange(5) % 3
    engine = RecordedEngine(VmapEngine(model, loss, chunk=4), model, (loss,), 4, recorder=Tape())
    same(engine.clipped_sum(x, y, 0.2), LoopEngine(model, loss).clipped_sum(x, y, 0.2))
