"""What every mechanism owes; a new one is added to ``MECHANISMS`` here."""

from __future__ import annotations

import math
import time

import dp_accounting
import pytest
import torch
from torch import nn

from fedprivacy.accounting.units import NEIGHBOURING, UNITS
from fedprivacy.config.schema import (
    DpsgdConf,
    GaussianClippedConf,
    GaussianConf,
    NoneConf,
    PercentileConf,
    SvtConf,
    SvtExactConf,
    SvtFlare28Conf,
)
from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.base import Mechanism
from fedprivacy.mechanisms.registry import build_mechanism
from fedprivacy.training.plain import train_plain
from fedprivacy.training.task import LocalTask

MECHANISMS = {
    "none": NoneConf(),
    "dpsgd": DpsgdConf(sampling_rate=0.2),
    "svt": SvtConf(),
    "svt_flare28": SvtFlare28Conf(),
    "svt_exact": SvtExactConf(),
    "gaussian": GaussianConf(),
    "gaussian_clipped": GaussianClippedConf(),
    "percentile": PercentileConf(),
}
DETERMINISTIC = ("none", "percentile")

# Sparse filters may drop or spare any one coordinate: these settings let none of them be.
EVERY_COORDINATE = {
    "svt": SvtConf(fraction=1.0, replace=False),
    "svt_flare28": SvtFlare28Conf(fraction=1.0, replace=False),
    "svt_exact": SvtExactConf(fraction=1.0),
    "percentile": PercentileConf(gamma=1e-6),
}


@pytest.fixture(params=list(MECHANISMS))
def mechanism(request: pytest.FixtureRequest) -> Mechanism:
    return build_mechanism(MECHANISMS[request.param], declared_records=40)


def sent(mechanism: Mechanism, task: LocalTask) -> torch.Tensor:
    """What leaves the site after one round."""
    before = task.parameters.snapshot()
    trained = mechanism.train(task)
    update = task.parameters.snapshot() - before
    return mechanism.protect(update, task, trained).update


@pytest.mark.parametrize("strength", [None, 1.0])
@pytest.mark.parametrize(
    "update",
    [
        torch.full((43,), math.nan),
        torch.cat([torch.ones(42), torch.tensor([math.inf])]),
        torch.zeros(0),
        torch.ones(43, 1),
        torch.ones(43, dtype=torch.float64),
    ],
)
def test_fails_closed_and_at_once(mechanism, make_task, strength, update: torch.Tensor) -> None:
    task = make_task(strength=strength)
    trained = train_plain(task)
    start = time.perf_counter()
    with pytest.raises(ProtectionError, match="nothing was sent"):
        mechanism.protect(update, task, trained)
    assert time.perf_counter() - start < 1


def test_off_schedule_it_trains_plainly_sends_the_raw_update_and_proves_nothing(
    mechanism, make_task
) -> None:
    task, plain = make_task(strength=None), make_task(strength=None)
    before = plain.parameters.snapshot()
    assert mechanism.train(task) == train_plain(plain)
    assert torch.equal(sent(mechanism, make_task(strength=None)), plain.parameters.flat - before)
    release = mechanism.release(task, train_plain(plain))
    assert release.dp_event == dp_accounting.NonPrivateDpEvent()
    assert release.reason


def test_seeded_rounds_repeat_bit_for_bit(mechanism, make_task) -> None:
    assert torch.equal(sent(mechanism, make_task()), sent(mechanism, make_task()))


@pytest.mark.parametrize("changed", [{"site": 1}, {"round_number": 2}])
def test_sites_and_rounds_differ(mechanism, make_task, changed: dict[str, int]) -> None:
    assert not torch.equal(sent(mechanism, make_task()), sent(mechanism, make_task(**changed)))


def test_secret_protection_is_new_each_time(mechanism, make_task) -> None:
    one, other = (sent(mechanism, make_task(randomness="secret")) for _ in range(2))
    assert torch.equal(one, other) == (mechanism.name in DETERMINISTIC)


def test_global_random_state_neither_matters_nor_moves(mechanism, make_task) -> None:
    torch.manual_seed(1)
    one = sent(mechanism, make_task())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(one, sent(mechanism, make_task()))
    assert torch.equal(state, torch.get_rng_state())


def test_what_it_returns_is_well_formed(mechanism, make_task) -> None:
    task = make_task(strength=0.5)
    trained = mechanism.train(task)
    update = torch.linspace(-1e-3, 1e-3, task.parameters.size)
    kept = update.clone()
    protected = mechanism.protect(update, task, trained)
    assert torch.equal(update, kept)
    assert protected.update.dtype == torch.float32
    assert protected.update.shape == update.shape
    assert protected.update.device.type == "cpu"
    assert protected.noise_norm >= 0
    assert math.isfinite(protected.noise_norm)
    release = mechanism.release(task, trained)
    assert release.unit in UNITS
    assert release.neighbouring in NEIGHBOURING
    private = release.dp_event != dp_accounting.NonPrivateDpEvent()
    assert private == (release.reason == "")
    for value in release.details.values():
        assert isinstance(value, str) or math.isfinite(value)


class Offset(nn.Module):
    """A model whose second parameter has no axes at all."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 5))
        self.offset = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T + self.offset


def test_parameters_without_axes_are_protected_like_the_others(mechanism, make_task) -> None:
    if mechanism.name in EVERY_COORDINATE:
        mechanism = build_mechanism(EVERY_COORDINATE[mechanism.name], declared_records=40)
    protected = sent(mechanism, make_task(make_model=Offset))
    raw = sent(build_mechanism(NoneConf(), 1), make_task(make_model=Offset))
    assert (protected[-1] == raw[-1]) == (mechanism.name == "none")
