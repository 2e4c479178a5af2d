"""The end of a study: how far it confirms, and what broken-off trials count for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import dp_accounting
import optuna
import pytest
from optuna.trial import TrialState

from fedprivacy.accounting import Event
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.config.schema import CellConfig
from fedprivacy.result import LEDGER_FILE
from fedprivacy.tuning import closing, command
from fedprivacy.tuning.outcome import OUTCOME, Outcome
from fedprivacy.tuning.ownership import RETRY_OF
from fedprivacy.tuning.recommendation import Candidate

DONE = Outcome(
    "ok", score=0.8, scores=(0.8,), epsilon=3.0, budget=3.0, below_floor=-0.1, cell_rounds=2
)


def search_of(compose, tmp_path: Path, mode: str) -> SimpleNamespace:
    config: CellConfig = compose(
        f"tuning.mode={mode}", f"tuning.dir={tmp_path}", "tuning.confirm=2"
    )
    return SimpleNamespace(config=config, composer=None, floor=None, beside=())


@pytest.mark.parametrize(("mode", "confirmed"), [("floor", 6), ("budget", 2)])
def test_the_least_epsilon_is_sought_upwards_until_one_holds(
    compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, confirmed: int
) -> None:
    outcomes = [replace(DONE, epsilon=float(number + 1), budget=9.0) for number in range(7)]
    found = [Candidate(number, {}, outcome) for number, outcome in enumerate(outcomes)]

    def luckless(batch, *_):
        return [
            replace(c, confirmed=(0.5,), below_floor=0.1 if c.trial < 4 else -0.1) for c in batch
        ]

    monkeypatch.setattr(closing, "confirm", luckless)
    search = search_of(compose, tmp_path, mode)
    chosen = closing._confirmed(search, found, None)
    assert len(chosen) == confirmed
    if mode == "floor":
        best = closing.choose(chosen, search.config.tuning)
        assert best is not None
        assert (best.trial, best.feasible) == (4, True)


def ledger(folder: Path) -> None:
    step = dp_accounting.GaussianDpEvent(1.0)
    event = Event(1, "a", "dpsgd", "record", "zero_out", "server_updates", step, True)
    folder.mkdir(parents=True)
    Ledger((event,)).write(folder / LEDGER_FILE)


def trial(number: int, state: TrialState, **attrs: object) -> optuna.trial.FrozenTrial:
    value = 0.8 if state is TrialState.COMPLETE else None
    made = optuna.trial.create_trial(state=state, value=value, user_attrs=attrs)
    made.number = number
    return made


def test_what_a_dead_worker_released_is_counted_as_its_repetition(compose, tmp_path: Path) -> None:
    search = search_of(compose, tmp_path, "budget")
    ledger(tmp_path / "trials" / "1")
    dead = trial(0, TrialState.FAIL)
    again = trial(1, TrialState.COMPLETE, **{RETRY_OF: 0, OUTCOME: DONE.to_json()})
    ledgers, missing = closing.ledgers_of(search, [dead, again])
    assert (len(ledgers), missing) == (2, 0)
    ledgers, missing = closing.ledgers_of(search, [dead, replace_retry(again)])
    assert (len(ledgers), missing) == (1, 1)


def replace_retry(one: optuna.trial.FrozenTrial) -> optuna.trial.FrozenTrial:
    """The same trial, of its own accord."""
    return trial(one.number, one.state, **{OUTCOME: DONE.to_json()})


def test_a_private_study_that_another_worker_closed_is_left_alone(
    compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    search = search_of(compose, tmp_path, "budget")
    tuning = replace(search.config.tuning, publish="best_only")
    search.config = replace(search.config, tuning=tuning)
    monkeypatch.setattr(command, "run_search", lambda *_: None)
    (tmp_path / closing.SUMMARY).write_text("{}")
    assert command._finish(search, None) is None
    assert "finished before" in capsys.readouterr().out
