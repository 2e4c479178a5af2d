"""How far settings reach: what it counts, and what earlier trials say of a new setting."""

from __future__ import annotations

from types import SimpleNamespace

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprivacy.tuning.outcome import OUTCOME, Outcome
from fedprivacy.tuning.planning import Infeasible
from fedprivacy.tuning.reach import collapsed_between, reach
from fedprivacy.tuning.trial import TrialRunner

SURVIVED, COLLAPSED = False, True
WORDS = ("federation.lr=0.1", "federation.momentum=0.5", "federation.rounds=3",
         "federation.local_epochs=2", "algorithm.sampling_rate=0.5")  # fmt: skip


def test_it_counts_steps_rate_clip_and_momentum(compose) -> None:
    assert reach(compose(*WORDS, "algorithm.max_grad_norm=2")) == pytest.approx(0.1 * 2 * 12 / 0.5)
    automatic = compose(*WORDS, "algorithm.max_grad_norm=2", "algorithm.clipping=automatic")
    assert reach(automatic) == pytest.approx(0.1 * 12 / 0.5)
    assert reach(compose("algorithm=none")) is None


def test_what_collapsed_between_a_setting_and_the_survivors() -> None:
    known = [(0.1, COLLAPSED), (0.3, COLLAPSED), (1.0, SURVIVED), (4.0, SURVIVED), (9.0, COLLAPSED)]
    assert collapsed_between(0.05, known) == (0.1, 0.3)
    assert collapsed_between(0.2, known) == (0.3,)
    assert collapsed_between(0.5, known) == ()
    assert collapsed_between(2.0, known) == ()
    assert collapsed_between(5.0, known) == ()
    assert collapsed_between(20.0, known) == (9.0,)
    # Where nothing survived yet, nothing is known of where to look.
    assert collapsed_between(0.05, known[:2]) == ()


PAIRS = st.lists(st.tuples(st.floats(1e-6, 1e6), st.booleans()), max_size=12)


@given(known=PAIRS, own=st.floats(1e-6, 1e6))
def test_a_setting_among_survivors_is_never_held_back(known: list, own: float) -> None:
    found = collapsed_between(own, [*known, (own / 2, SURVIVED), (own * 2, SURVIVED)])
    assert found == ()


@pytest.fixture
def runner(compose) -> TrialRunner:
    """With two trials that collapsed at a fifth of the reach of one that survived."""
    config = compose(*WORDS)
    study = optuna.create_study()
    for factor, below in ((1.0, -0.1), (0.2, 0.1), (0.21, 0.1)):
        trial = study.ask()
        outcome = Outcome("ok", below_floor=below, reach=factor * reach(config), cell_rounds=3)
        trial.set_user_attr(OUTCOME, outcome.to_json())
        study.tell(trial, 0.5)
    anything = SimpleNamespace()
    return TrialRunner(study, config, anything, anything, anything, lambda *_: None)


def test_beyond_what_collapsed_nothing_is_trained(compose, runner: TrialRunner) -> None:
    lower = compose(*WORDS, "federation.lr=0.015")
    with pytest.raises(Infeasible, match=r"2 collapsed already \(tuning.pruning.between\)"):
        runner._check_reach(lower)
    runner._check_reach(compose(*WORDS, "federation.lr=0.05"))
    runner._check_reach(compose(*WORDS, "federation.lr=0.5"))


def test_trials_of_other_budgets_say_nothing(compose, runner: TrialRunner) -> None:
    runner.config.tuning.__dict__["mode"] = "floor"
    runner._check_reach(compose(*WORDS, "federation.lr=0.015"))


def test_far_beyond_the_defaults_nothing_is_trained(compose, runner: TrialRunner) -> None:
    with pytest.raises(Infeasible, match=r"tuning\.pruning\.reach=30"):
        runner._check_reach(compose(*WORDS, "federation.lr=3.1"))
