"""Each rule ends a cell exactly when it should, and says on what numbers."""

from __future__ import annotations

import math

import pytest

from fedprivacy.config.schema import PruningConf
from fedprivacy.errors import CellPruned
from fedprivacy.federation.scoring import RoundScore
from fedprivacy.federation.strategy import RoundOutcome
from fedprivacy.tuning.rules import CollapseRules, Listeners


def outcome(number: int, score: float | None, update: float = 1.0, noise: float | None = None):
    scores = RoundScore(score, 0.5, None, {}, {})
    return RoundOutcome(number, 5, 1.0, update, noise, scores, ())


def run(conf: PruningConf, outcomes) -> tuple[int, CellPruned] | None:
    rules = CollapseRules(conf)
    for number, one in enumerate(outcomes, start=1):
        try:
            rules(one)
        except CellPruned as stop:
            return number, stop
    return None


def test_a_score_that_never_rises_above_chance_ends_the_cell_at_its_round() -> None:
    ended = run(PruningConf(chance_rounds=3), [outcome(n, 0.5) for n in (1, 2, 3, 4)])
    assert ended is not None
    assert ended[0] == 3
    assert ended[1].rule == "chance"
    assert "0.5000" in ended[1].reason
    once_above = [outcome(1, 0.6), *(outcome(n, 0.4) for n in (2, 3, 4, 5))]
    assert run(PruningConf(chance_rounds=3), once_above) is None
    assert run(PruningConf(chance_rounds=0), [outcome(n, 0.4) for n in range(1, 9)]) is None


def test_a_drowned_update_ends_the_cell_after_so_many_rounds_in_a_row() -> None:
    conf = PruningConf(min_snr=0.5, snr_rounds=2)
    drowned, loud = outcome(1, 0.6, 1.0, 1.0), outcome(1, 0.6, 3.0, 1.0)
    assert run(conf, [drowned, loud, drowned, loud]) is None
    ended = run(conf, [loud, drowned, drowned])
    assert ended is not None
    assert (ended[0], ended[1].rule) == (3, "noise")
    assert run(conf, [outcome(1, 0.6, 1.0, None)] * 5) is None
    assert run(PruningConf(min_snr=0.5, snr_rounds=0), [drowned] * 9) is None


@pytest.mark.parametrize("bad", [outcome(1, None), outcome(1, 0.6, math.nan)])
def test_what_is_not_finite_ends_the_cell_at_once(bad: RoundOutcome) -> None:
    ended = run(PruningConf(), [bad])
    assert ended is not None
    assert ended[1].rule == "not_finite"


def test_who_ended_the_cell_is_remembered() -> None:
    heard = []
    listeners = Listeners((heard.append, CollapseRules(PruningConf(chance_rounds=1)), heard.append))
    with pytest.raises(CellPruned):
        listeners(outcome(1, 0.5))
    assert listeners.rule == "chance"
    assert len(heard) == 1
