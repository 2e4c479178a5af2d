"""What every mechanism owes, wherever it acts."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import dp_accounting
import pytest
import torch
from torch import nn

from fedprivacy.accounting.units import NEIGHBOURING, UNITS, VIEWS
from fedprivacy.config.schema import AlgorithmConf, NoneConf
from fedprivacy.errors import ProtectionError
from fedprivacy.mechanisms.base import Mechanism
from fedprivacy.mechanisms.registry import build_mechanism
from fedprivacy.training.plain import train_plain
from fedprivacy.training.task import LocalTask

RAW, NOTHING = dp_accounting.NonPrivateDpEvent(), dp_accounting.NoOpDpEvent()


def sent(mechanism: Mechanism, task: LocalTask) -> torch.Tensor:
    """What leaves the site after one round."""
    before = task.parameters.snapshot()
    trained = mechanism.train(task)
    update = task.parameters.snapshot() - before
    return mechanism.protect(update, task, trained).update


def random_at_the_site(mechanism: Mechanism) -> bool:
    """Whether it draws anything in training or on the update; others act elsewhere or not."""
    return mechanism.placement in ("training", "update") and mechanism.name != "percentile"


class Offset(nn.Module):
    """A model whose second parameter has no axes at all."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 5))
        self.offset = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T + self.offset


class MechanismContract:
    """Subclasses say which mechanism: a fixture ``conf``, an ``algorithm`` configuration."""

    every_coordinate: AlgorithmConf | None = None
    """Settings that let no coordinate drop out, for filters that are sparse."""

    @pytest.fixture
    def mechanism(self, conf: AlgorithmConf) -> Mechanism:
        return build_mechanism(conf, declared_records=40)

    @pytest.mark.parametrize("strength", [None, 1.0])
    @pytest.mark.parametrize(
        "update",
        [
            torch.full((43,), math.nan),
            torch.cat([torch.ones(42), torch.tensor([math.inf])]),
            torch.zeros(0),
            torch.ones(43, 1),
            torch.tensor(1.0),
            torch.ones(43, dtype=torch.float64),
            torch.ones(43, dtype=torch.int64),
            torch.ones(43, dtype=torch.bool),
        ],
    )
    def test_fails_closed_and_at_once(
        self, mechanism, make_task, strength, update: torch.Tensor
    ) -> None:
        task = make_task(strength=strength)
        trained = train_plain(task)
        start = time.perf_counter()
        with pytest.raises(ProtectionError, match="nothing was sent"):
            mechanism.protect(update, task, trained)
        assert time.perf_counter() - start < 1

    def test_off_schedule_it_trains_plainly_sends_the_raw_update_and_proves_nothing(
        self, mechanism, make_task
    ) -> None:
        task, plain = make_task(strength=None), make_task(strength=None)
        before = plain.parameters.snapshot()
        assert mechanism.train(task) == train_plain(plain)
        assert torch.equal(
            sent(mechanism, make_task(strength=None)), plain.parameters.flat - before
        )
        release = mechanism.release(task, train_plain(plain))
        assert release.dp_event == RAW
        assert release.reason
        # To who sees the final model alone, a round before the last shows nothing.
        assert all(said.dp_event in (RAW, NOTHING) for said in release.statements)

    def test_seeded_rounds_repeat_bit_for_bit(self, mechanism, make_task) -> None:
        assert torch.equal(sent(mechanism, make_task()), sent(mechanism, make_task()))

    @pytest.mark.parametrize("changed", [{"site": 1}, {"round_number": 2}])
    def test_sites_and_rounds_differ(self, mechanism, make_task, changed: dict[str, int]) -> None:
        assert not torch.equal(sent(mechanism, make_task()), sent(mechanism, make_task(**changed)))

    def test_secret_protection_is_new_each_time(self, mechanism, make_task) -> None:
        one, other = (sent(mechanism, make_task(randomness="secret")) for _ in range(2))
        assert torch.equal(one, other) == (not random_at_the_site(mechanism))

    def test_global_random_state_neither_matters_nor_moves(self, mechanism, make_task) -> None:
        torch.manual_seed(1)
        one = sent(mechanism, make_task())
        torch.manual_seed(2)
        state = torch.get_rng_state()
        assert torch.equal(one, sent(mechanism, make_task()))
        assert torch.equal(state, torch.get_rng_state())

    def test_what_it_returns_is_well_formed(self, mechanism, make_task) -> None:
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
        for said in mechanism.release(task, trained).statements:
            assert said.unit in UNITS
            assert said.neighbouring in NEIGHBOURING
            assert said.view in VIEWS
            assert (said.dp_event != RAW) == (said.reason == "")
            for value in said.details.values():
                assert isinstance(value, str) or math.isfinite(value)

    def test_it_speaks_of_the_same_kinds_in_every_round(self, mechanism, make_task) -> None:
        """Only statements of one kind compose, so each kind must cover every round."""
        trained, found = train_plain(make_task()), set()
        for strength in (None, 1.0, 0.5):
            for number, last in ((1, False), (2, False), (3, True)):
                task = replace(make_task(strength=strength, round_number=number), last_round=last)
                said = mechanism.release(task, trained).statements
                kinds = tuple((one.unit, one.neighbouring, one.view) for one in said)
                assert len(set(kinds)) == len(kinds)
                found.add(kinds)
        assert len(found) == 1

    def test_parameters_without_axes_are_protected_like_the_others(
        self, mechanism, make_task
    ) -> None:
        if self.every_coordinate is not None:
            mechanism = build_mechanism(self.every_coordinate, declared_records=40)
        protected = sent(mechanism, make_task(make_model=Offset))
        raw = sent(build_mechanism(NoneConf(), 1), make_task(make_model=Offset))
        at_the_site = mechanism.placement in ("training", "update")
        assert (protected[-1] == raw[-1]) == (not at_the_site)
