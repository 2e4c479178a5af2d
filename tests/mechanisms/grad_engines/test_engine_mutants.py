"""The test of the tests: engines broken on purpose, which the certificate must refuse.

At a clip norm that no gradient reaches too, where a step would hide the fault until it matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from mutation import mutated
from torch import nn

from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.grad_engines import bookkeeping, loop, opacus, vmap
from fedprivacy.mechanisms.grad_engines.certificate import certificate
from fedprivacy.training.losses import LOSSES

LOSS = LOSSES["multiclass"]
BY_LAYERS = "factors = rule.factors(squares, self._layers, max_norm)"
BY_RANGE = "factors = rule.factors(squares, range(len(squares)), max_norm)"
FACTORS = {bookkeeping: BY_RANGE, loop: BY_LAYERS, opacus: BY_LAYERS, vmap: BY_LAYERS}
CLASSES = {
    bookkeeping: "BookkeepingEngine",
    loop: "LoopEngine",
    opacus: "OpacusEngine",
    vmap: "VmapEngine",
}


@dataclass(frozen=True)
class Fault:
    """What is done to the factors after they were found, and to which engines."""

    name: str
    change: str
    batched: bool = False


FAULTS = (
    Fault("clip skipped", "factors = torch.ones_like(squares)"),
    Fault("clipped to twice the norm", "factors = (2 * factors).clamp(max=1)"),
    Fault("squared norms taken for norms", "factors = (max_norm / squares.sum(0)).clamp(max=1)"
          ".expand_as(squares)"),
    Fault("each parameter clipped by itself", "factors = (max_norm / squares.sqrt()).clamp(max=1)"),
    Fault("biases not clipped", "factors = factors.clone(); factors[-1] = 1"),
    Fault("the first record's factor for all", "factors = factors[:, :1].expand_as(squares)", True),
    Fault("the mean factor for all", "factors = factors.mean().expand_as(squares)", True),
    Fault("a batch is clipped only if it is of one", "factors = factors if factors.shape[1] == 1 "
          "else torch.ones_like(factors)", True),
)  # fmt: skip
PAIRS = [
    (fault, module)
    for fault in FAULTS
    for module in CLASSES
    if not (fault.batched and module is loop)
]


def records() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3))
    x = torch.randn(2, 6)
    # Of different norms, so that one factor for both is wrong.
    x[1] *= 3
    return model, x, torch.tensor([0, 1])


def broken(module: ModuleType, change: str) -> type:
    line = FACTORS[module]
    return getattr(mutated(module, line, f"{line}; {change}"), CLASSES[module])


@pytest.mark.parametrize("max_norm", [0.05, 1.0, 2.0, 1e4])
@pytest.mark.parametrize(
    ("fault", "module"), PAIRS, ids=lambda one: getattr(one, "name", None) or one.__name__[35:]
)
def test_a_broken_engine_is_refused(fault: Fault, module: ModuleType, max_norm: float) -> None:
    model, x, y = records()
    with pytest.raises(ProtectionError, match=r"lets one record contribute|differs from the one"):
        certificate(model, LOSS, x, y, broken(module, fault.change)(model, LOSS), max_norm)


@pytest.mark.parametrize("module", CLASSES, ids=lambda module: module.__name__[35:])
def test_the_source_itself_is_no_mutant(module: ModuleType) -> None:
    model, x, y = records()
    for max_norm in (0.05, 1.0, 1e4):
        assert certificate(model, LOSS, x, y, broken(module, "pass")(model, LOSS), max_norm)
