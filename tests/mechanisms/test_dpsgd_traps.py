"""Models on which per-record gradients go wrong: refused before the first step, with a way out.

The engines by themselves are tested in ``grad_engines``; here the mechanism has to notice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.dpsgd import DpSgd
from fedprivacy.mechanisms.grad_engines import certificate, opacus
from fedprivacy.mechanisms.grad_engines.clipping import CLIPPINGS
from fedprivacy.training.losses import LOSSES
from fedprivacy.training.parameters import FlatParameters

BASE = DpSgd(noise_multiplier=1.0, max_grad_norm=1.0, sampling_rate=0.5, divisor=4.0)


class Convolution(nn.Module):
    """A convolution that pads with other values than zeros."""

    def __init__(self, padding_mode: str) -> None:
        super().__init__()
        self.lead = nn.Conv2d(1, 3, 3, padding=1, padding_mode=padding_mode)
        self.head = nn.Linear(75, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.lead(x)).flatten(1))


class UnderTwoNames(nn.Module):
    """A block that registers its layer once itself and once in a sequence, as some U-Nets do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(25, 1)
        self.block = nn.Sequential(nn.Flatten(), self.layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


def in_place() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(25, 4), nn.ReLU(inplace=True), nn.Linear(4, 1))


def batch_norm() -> nn.Module:
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    return nn.Sequential(nn.Flatten(), nn.Linear(25, 4), norm, nn.Linear(4, 1))


TRAPS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "reflect padding": (lambda: Convolution("reflect"), "padding_mode of lead is not zeros"),
    "circular padding": (lambda: Convolution("circular"), "padding_mode of lead is not zeros"),
    "replicate padding": (lambda: Convolution("replicate"), "padding_mode of lead is not zeros"),
    "module registered twice": (UnderTwoNames, r"module block\.1 is also layer"),
    "in-place activation": (in_place, "in-place activation 2"),
    "batch norm": (batch_norm, "batch normalisation 2"),
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "_certified", set())


@pytest.fixture
def hooks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opacus' hooks even where our engine would avoid them."""
    monkeypatch.setattr(opacus, "needs_functorch", lambda model: False)


def images(make_task, make_model: Callable[[], nn.Module]):
    x = torch.randn(8, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    return make_task(make_model=make_model, x=x, y=torch.arange(8) % 2)


@pytest.mark.usefixtures("hooks_only")
@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("clipping", CLIPPINGS)
def test_a_trap_under_hooks_is_refused_by_name(make_task, trap: str, clipping: str) -> None:
    make_model, says = TRAPS[trap]
    task = images(make_task, make_model)
    before = task.parameters.snapshot()
    # A clip norm that no gradient reaches: the bound alone would hide a wrong gradient.
    mechanism = replace(BASE, grad_engine="opacus", clipping=clipping, max_grad_norm=1e6)
    with pytest.raises(ProtectionError, match=says) as caught:
        mechanism.train(task)
    way_out = "Change the model" if trap == "batch norm" else "algorithm.grad_engine=loop"
    assert way_out in str(caught.value)
    assert torch.equal(task.parameters.snapshot(), before)
    assert all(parameter.grad is None for parameter in task.parameters.model.parameters())


@pytest.mark.usefixtures("hooks_only")
@pytest.mark.parametrize("max_grad_norm", [1e-3, 0.1])
def test_reflected_padding_breaks_the_bound_itself_or_the_direction(
    make_task, max_grad_norm: float
) -> None:
    task = images(make_task, lambda: Convolution("reflect"))
    mechanism = replace(BASE, grad_engine="opacus", max_grad_norm=max_grad_norm)
    with pytest.raises(ProtectionError, match=r"lets one record contribute|differs from"):
        mechanism.train(task)


@pytest.mark.parametrize("trap", [name for name in TRAPS if name != "batch norm"])
@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_the_way_out_works(make_task, trap: str, engine: str) -> None:
    task = images(make_task, TRAPS[trap][0])
    before = task.parameters.snapshot()
    replace(BASE, grad_engine=engine).train(task)
    assert not torch.equal(task.parameters.snapshot(), before)


def test_bookkeeping_refuses_an_in_place_activation_by_layer(make_task) -> None:
    with pytest.raises(ProtectionError, match=r"'1' has its input or output changed in place"):
        replace(BASE, grad_engine="bookkeeping").train(images(make_task, in_place))


def test_auto_trains_what_its_first_choice_refuses(make_task) -> None:
    found = {}
    for engine in ("auto", "loop"):
        task = images(make_task, in_place)
        replace(BASE, grad_engine=engine).train(task)
        found[engine] = task.parameters.snapshot()
    torch.testing.assert_close(found["auto"], found["loop"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("engine", ["opacus", "vmap", "loop", "auto"])
def test_no_engine_takes_batch_normalisation(make_task, engine: str) -> None:
    task = images(make_task, batch_norm)
    with pytest.raises(ProtectionError, match="batch normalisation 2"):
        replace(BASE, grad_engine=engine).train(task)


def test_running_statistics_are_refused_before_any_engine() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    with pytest.raises(ProtectionError, match=r"buffers.*1\.running_mean.*GroupNorm"):
        FlatParameters(model)


def test_views_are_certified_as_well(make_task) -> None:
    """Hooks see all views of a batch at once, so batch normalisation mixes records."""
    task = images(make_task, batch_norm)
    with pytest.raises(ProtectionError):
        replace(BASE, grad_engine="opacus", augmentations=3).train(task)


def test_segmentation_with_views_trains(make_task) -> None:
    """Masks move along with their volumes, in every engine that knows convolutions."""
    x = torch.randn(4, 1, 4, 4, 4)
    y = (x[:, 0] > 0).long()
    for engine in ("opacus", "vmap", "loop"):
        task = make_task(
            make_model=lambda: nn.Conv3d(1, 2, 3, padding=1),
            loss=LOSSES["segmentation"],
            x=x,
            y=y,
        )
        mechanism = replace(BASE, grad_engine=engine, augmentations=2, shift=1)
        assert torch.isfinite(torch.tensor(mechanism.train(task).loss))
