"""The engine a model is trained with: probed before it is used, passed over if it is wrong."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import nn

from fedprivacy.errors import ConfigError, ProtectionError
from fedprivacy.mechanisms.grad_engines import choose, start_up
from fedprivacy.mechanisms.grad_engines.bookkeeping import BookkeepingEngine
from fedprivacy.mechanisms.grad_engines.start_up import probed_engine
from fedprivacy.mechanisms.grad_engines.vmap import VmapEngine
from fedprivacy.training.losses import LOSSES

LOSS = LOSSES["binary"]


class Branching(nn.Module):
    """Looks at values to decide what to do, which vmap cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 2, 3), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One logit a record."""
        out = self.head(self.conv(x).flatten(1))
        return out * 2 if float(x.detach().sum()) > 1e9 else out


class Unclipped(VmapEngine):
    """Clips to ten times the bound."""

    def clipped_sum(self, x, y, max_norm):
        """See ``GradEngine.clipped_sum``."""
        return super().clipped_sum(x, y, 10 * max_norm)


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_up, "_refused", set())
    monkeypatch.setattr("fedprivacy.mechanisms.grad_engines.certificate._certified", set())


def waves(n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.randn(n, 1, 6, generator=draws), torch.arange(n) % 2


def test_auto_passes_over_an_engine_that_fails_on_the_model(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, (x, y) = Branching(), waves()
    assert choose.fastest_engine(model, x.shape[1:]) == "vmap"
    with caplog.at_level(logging.WARNING):
        engine = probed_engine("auto", model, LOSS, x, y, 0.1)
    assert engine.name == "loop"
    assert "auto passes over 'vmap': gradient engine 'vmap' fails on this model" in caplog.text
    naive = torch.zeros_like(engine.clipped_sum(x, y, 0.1).total)
    for one_x, one_y in zip(x, y, strict=True):
        gradients = torch.autograd.grad(LOSS(model(one_x[None]), one_y[None]), model.parameters())
        flat = torch.cat([g.flatten() for g in gradients])
        naive += flat * min(1.0, 0.1 / float(flat.norm()))
    torch.testing.assert_close(engine.clipped_sum(x, y, 0.1).total, naive)

    caplog.clear()
    probed = []
    kept = start_up.ensure_certified
    monkeypatch.setattr(
        start_up, "ensure_certified", lambda *a: (probed.append(a[4].name), kept(*a))
    )
    assert probed_engine("auto", model, LOSS, x, y, 0.1).name == "loop"
    assert (probed, caplog.text) == (["loop"], ""), "what was refused once is not probed again"


def test_auto_passes_over_an_engine_that_does_not_clip(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(choose._IN_CHUNKS, "vmap", Unclipped)
    torch.manual_seed(0)
    model, (x, y) = (
        nn.Sequential(nn.Conv1d(1, 2, 3), nn.PReLU(), nn.Flatten(), nn.Linear(8, 1)),
        waves(),
    )
    assert probed_engine("auto", model, LOSS, x, y, 0.1).name == "loop"
    assert "lets one record contribute" in caplog.text
    with pytest.raises(ProtectionError, match="'vmap' lets one record contribute"):
        probed_engine("vmap", model, LOSS, x, y, 0.1)


def test_linear_networks_fall_back_to_vmap(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(BookkeepingEngine):
        def clipped_sum(self, x, y, max_norm):
            found = super().clipped_sum(x, y, max_norm)
            found.total.mul_(1.5)
            return found

    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Linear(6, 1)), torch.randn(6, 6), torch.arange(6) % 2
    assert probed_engine("auto", model, LOSS, x, y, 0.1).name == "bookkeeping"
    start_up._refused.clear()
    monkeypatch.setattr("fedprivacy.mechanisms.grad_engines.certificate._certified", set())
    monkeypatch.setitem(choose._IN_CHUNKS, "bookkeeping", Wrong)
    assert probed_engine("auto", model, LOSS, x, y, 0.1).name == "vmap"


def test_where_every_engine_is_wrong_nothing_is_trained() -> None:
    class Random(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * torch.rand(())

    torch.manual_seed(0)
    model, (x, y) = Random(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(8, 1)), waves()
    with pytest.raises(ProtectionError, match="'loop' differs from the one-by-one gradients"):
        probed_engine("auto", model, LOSS, x, y, 0.1)


def test_weights_that_show_nothing_condemn_no_engine() -> None:
    torch.manual_seed(0)
    model, (x, y) = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(8, 1)), waves()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1e30)
    with pytest.raises(ProtectionError, match="NaN, infinite or zero"):
        probed_engine("auto", model, LOSS, x, y, 0.1)
    model.load_state_dict(state)
    assert probed_engine("auto", model, LOSS, x, y, 0.1).name == "bookkeeping"
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    found = probed_engine("auto", model, LOSS, x, y, 0.2)
    assert found.name == "bookkeeping", "left to the training"


def test_an_unknown_engine_is_refused() -> None:
    model, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(6, 1)), waves()
    with pytest.raises(ConfigError, match=r"algorithm.grad_engine='ghost'.*auto, opacus"):
        probed_engine("ghost", model, LOSS, x, y, 0.1)
