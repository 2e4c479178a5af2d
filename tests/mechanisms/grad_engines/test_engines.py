"""All engines against gradients taken one by one with nothing but ``backward``."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fedprivacy.mechanisms.grad_engines.base import GradEngine
from fedprivacy.mechanisms.grad_engines.bookkeeping import BookkeepingEngine
from fedprivacy.mechanisms.grad_engines.choose import ENGINES
from fedprivacy.mechanisms.grad_engines.loop import LoopEngine
from fedprivacy.mechanisms.grad_engines.opacus import OpacusEngine
from fedprivacy.mechanisms.grad_engines.vmap import VmapEngine
from fedprivacy.training.losses import Loss

VARIANTS: dict[str, Callable[[nn.Module, Loss], GradEngine]] = {
    "loop": LoopEngine,
    "vmap": VmapEngine,
    "vmap in twos": lambda model, loss: VmapEngine(model, loss, chunk=2),
    "vmap in ones": lambda model, loss: VmapEngine(model, loss, chunk=1),
    "opacus": OpacusEngine,
    "opacus in threes": lambda model, loss: OpacusEngine(model, loss, chunk=3),
    "opacus functorch": lambda model, loss: OpacusEngine(model, loss, functorch=True),
    "opacus hooks": lambda model, loss: OpacusEngine(model, loss, functorch=False),
    "bookkeeping": BookkeepingEngine,
    "bookkeeping in fours": lambda model, loss: BookkeepingEngine(model, loss, chunk=4),
}


def naive(case, max_norm: float) -> tuple[torch.Tensor, float]:
    """Sum of clipped gradients and of losses, one record after the other."""
    total, losses = 0, 0.0
    for i in range(len(case.x)):
        case.model.zero_grad()
        loss = case.loss(case.model(case.x[i : i + 1]), case.y[i : i + 1])
        loss.backward()
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in case.model.parameters()]
        gradient = torch.cat([part.reshape(-1) for part in parts])
        total = total + gradient * min(1.0, max_norm / float(gradient.norm()))
        losses += float(loss.detach())
    case.model.zero_grad()
    return total, losses


KNOWN = ["mlp", "linear without bias", "density_cnn"]
CASES = [*KNOWN, "unet3d", "unet3d without norm", "reused layer"]
PAIRS = [
    (name, variant)
    for name in CASES
    for variant in VARIANTS
    if name in KNOWN or not variant.startswith("bookkeeping")
]


@pytest.mark.parametrize(("name", "variant"), PAIRS)
@pytest.mark.parametrize("share_clipped", ["none", "some", "all"])
def test_every_engine_gives_the_sum_of_clipped_gradients(
    make_case, name: str, variant: str, share_clipped: str
) -> None:
    case = make_case(name)
    loop = LoopEngine(case.model, case.loss)
    records = zip(case.x, case.y, strict=True)
    norms = [float(loop.gradient(x[None], y[None])[1].norm()) for x, y in records]
    middle = (min(norms) + max(norms)) / 2
    max_norm = {"none": math.inf, "some": middle, "all": min(norms) / 3}[share_clipped]
    assert min(norms) < middle < max(norms)
    expected, losses = naive(case, max_norm)
    got = VARIANTS[variant](case.model, case.loss).clipped_sum(case.x, case.y, max_norm)
    assert got.total.shape == expected.shape
    torch.testing.assert_close(got.total, expected, rtol=1e-9, atol=1e-12)
    assert float(got.loss) == pytest.approx(losses, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "engine"),
    [(n, e) for n in CASES for e in ENGINES if n in KNOWN or e != "bookkeeping"],
)
def test_float32_sums_agree_to_float_precision(make_case, name: str, engine: str) -> None:
    case = make_case(name)
    expected = naive(case, 0.1)[0]
    got = ENGINES[engine](case.model.float(), case.loss).clipped_sum(case.x.float(), case.y, 0.1)
    assert got.total.dtype == torch.float32
    assert float((got.total.double() - expected).norm()) <= 1e-5 * float(expected.norm())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_without_records_sums_to_zero(make_case, engine: str) -> None:
    case = make_case("mlp")
    got = ENGINES[engine](case.model, case.loss).clipped_sum(case.x[:0], case.y[:0], 1.0)
    assert not got.total.any()
    assert float(got.loss) == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_record_with_nan_shows_in_the_sum(make_case, engine: str) -> None:
    case = make_case("mlp")
    case.x[3, 2] = math.nan
    got = ENGINES[engine](case.model, case.loss).clipped_sum(case.x, case.y, 1.0)
    assert not torch.isfinite(got.total).all()
    assert math.isnan(float(got.loss))


def traces(model: nn.Module) -> list[object]:
    """Everything that an engine could leave behind on a model."""
    left: list[object] = []
    for module in model.modules():
        left.append(sorted(vars(module)))
        left += [len(hooks) for name, hooks in vars(module).items() if name.endswith("_hooks")]
    left += [(sorted(vars(p)), p.data_ptr(), p._version) for p in model.parameters()]
    return left


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        (name, e)
        for name in ("mlp", "density_cnn", "unet3d")
        for e in ENGINES
        if name != "unet3d" or e != "bookkeeping"
    ],
)
def test_the_model_is_left_as_found(make_case, name: str, engine: str) -> None:
    case = make_case(name)
    for parameter in case.model.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    kept = [parameter.grad for parameter in case.model.parameters()]
    before = traces(case.model)
    built = ENGINES[engine](case.model, case.loss)
    built.clipped_sum(case.x, case.y, 1.0)
    assert traces(case.model) == before
    for parameter, gradient in zip(case.model.parameters(), kept, strict=True):
        assert parameter.grad is gradient
        assert bool((gradient == 3.0).all())


def test_opacus_leaves_nothing_behind_when_the_loss_raises(make_case) -> None:
    case = make_case("mlp")
    before = traces(case.model)

    def broken(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken loss")

    with pytest.raises(RuntimeError, match="broken loss"):
        OpacusEngine(case.model, broken).clipped_sum(case.x, case.y, 1.0)
    assert traces(case.model) == before
