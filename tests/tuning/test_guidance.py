"""What a study teaches is found where it was put, and not where nothing was."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedprivacy.report.canvas import style
from fedprivacy.tuning.advice import advise, best_split
from fedprivacy.tuning.collapse_map import collapse_map
from fedprivacy.tuning.floor import Floor
from fedprivacy.tuning.importance import collapse_importance, most_important, score_importance
from fedprivacy.tuning.outcome import Outcome, outcome_of
from fedprivacy.tuning.recommendation import Candidate, candidates, front
from fedprivacy.tuning.study_figures import front_figure, history_figure
from fedprivacy.tuning.trial_look import DROWNED, LOOKS, kind_of

FLOOR = Floor(0.6, 0.95, 0.5, "made up")
CLAIM = {"unit": "record", "neighbouring": "zero_out", "view": "server_updates", "delta": 1e-5}


@pytest.fixture(scope="module")
def made() -> ModuleType:
    path = Path(__file__).with_name("trials.py")
    spec = importlib.util.spec_from_file_location("tuning_trials", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def trained(trials: list[Any]) -> list[tuple[Any, Outcome]]:
    return [(t, o) for t in trials if (o := outcome_of(t)) is not None]


def test_the_parameter_that_kills_is_named_with_its_counts(made: ModuleType) -> None:
    trials = made.study_of(40, lambda rate: rate > 1)
    assert most_important(trials, made.SPACE)[0] == "federation.lr"
    assert max(collapse_importance(trials, made.SPACE), key=collapse_importance(
        trials, made.SPACE).__getitem__) == "federation.lr"  # fmt: skip
    split = best_split(trained(trials), made.SPACE)
    assert split is not None
    assert split.key == "federation.lr"
    assert split.high.startswith("federation.lr above")
    dead = sum(o.collapsed for _, o in trained(trials))
    assert split.collapsed[0] + split.others[0] == dead
    assert split.others[0] == 0
    words = advise(trials, made.SPACE, FLOOR, None, 40, "budget")
    assert f"{dead} of 40 trained trials collapsed" in words
    assert "federation.lr tells them best" in words


def test_chance_is_called_chance(made: ModuleType) -> None:
    trials = made.study_of(30, lambda rate: int(rate * 1e6) % 5 == 0)
    assert best_split(trained(trials), made.SPACE) is None
    assert "beyond chance" in advise(trials, made.SPACE, FLOOR, None, 30, "budget")


def test_too_few_trials_and_equal_ones_have_no_importance(made: ModuleType) -> None:
    assert score_importance(made.study_of(5, lambda rate: False), made.SPACE) == {}
    assert collapse_importance(made.study_of(20, lambda rate: False), made.SPACE) == {}


def test_advice_compares_with_the_defaults_and_the_twin_and_names_edges(made: ModuleType) -> None:
    trials = made.study_of(20, lambda rate: rate > 1)
    [best, *_] = candidates(trials, "budget")
    best = replace(best, settings={**best.settings, "schedule.decay": 1.0})
    words = advise(trials, made.SPACE, FLOOR, best, 20, "budget")
    assert "efaults" in words
    assert f"costs {0.95 - best.score:.4f}" in words
    assert "schedule.decay=1" in words


def test_trials_that_wait_or_died_are_not_called_refused(made: ModuleType) -> None:
    trials = made.study_of(6, lambda rate: False)
    refused = Outcome("pruned", "reach", "r", budget=3.0)
    trials += [made.untold(6, "WAITING"), made.untold(7, "FAIL"), made.untold(8, "RUNNING")]
    words = advise(trials, made.SPACE, FLOOR, None, 6, "budget")
    assert "0 of 6 trained trials collapsed." in words
    assert "refused" not in words
    broken = replace(refused, status="failed", rule="", cell_rounds=1)
    trials += [made.made(9, trials[0].params, refused), made.made(10, trials[0].params, broken)]
    words = advise(trials, made.SPACE, FLOOR, None, 6, "budget")
    assert "0 of 6 trained trials collapsed (1 more was refused before training, 1 failed)" in words


def test_the_place_of_the_best_trial_counts_trials_with_an_outcome(made: ModuleType) -> None:
    trials = [made.untold(0, "FAIL"), *made.study_of(6, lambda rate: False), made.untold(9, "FAIL")]
    for number, trial in enumerate(trials[:-1]):
        trial.number = number
    trials += [made.untold(number, "WAITING") for number in (10, 11)]
    found = {c.trial: c for c in candidates(trials, "budget")}
    words = advise(trials, made.SPACE, FLOOR, found[2], 6, "budget")
    assert "trial 2, number 2 of the 6 trials in their order" in words
    assert "trial 6, number 6 of the 6" in (
        late := advise(trials, made.SPACE, FLOOR, found[6], 6, "budget")
    )
    assert "tuning.n_trials=12" in late
    assert "n_trials" not in words


def test_what_later_trials_did_is_told_as_it_was(made: ModuleType) -> None:
    trials = made.study_of(8, lambda rate: False)
    best, *others = candidates(trials, "budget")
    below = next(c for c in others if c.trial < best.trial)
    fresh = replace(below, confirmed=(0.95, 0.95))

    def said(recommended: Candidate, mode: str) -> str:
        return advise(trials, made.SPACE, FLOOR, recommended, 8, mode)

    ahead = sum(c.trial > below.trial and c.score > below.score for c in others) + 1
    assert f"in the search {ahead} later one" in said(fresh, "budget")
    assert "fresh seeds decided for this one" in said(fresh, "budget")
    assert "no later one scored more at no larger epsilon" in said(fresh, "front")
    assert "in the search no later one held at a smaller epsilon" in said(fresh, "floor")
    trials[-1] = made.made(
        7, trials[-1].params, replace(outcome_of(trials[-1]), epsilon=1.0, budget=1.0)
    )
    assert "1 later one held at a smaller epsilon, but it did not hold on" in said(fresh, "floor")
    doubtful = replace(fresh, below_floor=0.1)
    assert "none stayed within budget and floor" in said(doubtful, "budget")


def test_a_trial_ended_for_its_signal_did_not_collapse(made: ModuleType) -> None:
    drowned = Outcome("pruned", "noise", "r", 0.9468, (0.9468,), budget=3.0, cell_rounds=3,
                      below_floor=0.6 - 0.9468)  # fmt: skip
    assert not drowned.collapsed
    assert kind_of(drowned) == DROWNED
    assert LOOKS[DROWNED]["marker"] not in {
        look["marker"] for kind, look in LOOKS.items() if kind != DROWNED
    }
    trials = made.study_of(20, lambda rate: rate > 1)
    dead = sum(o.collapsed for _, o in trained(trials))
    before = best_split(trained(trials), made.SPACE)
    trials += [made.made(20 + k, trials[k].params, drowned) for k in range(20)]
    words = advise(trials, made.SPACE, FLOOR, None, 40, "budget")
    assert f"{dead} of 40 trained trials collapsed (20 were ended early for their signal" in words
    assert before is not None
    assert f"p = {before.p:.2g}" in words


def test_the_defaults_are_told_with_what_sets_them_apart(made: ModuleType) -> None:
    trials = made.study_of(8, lambda rate: False)
    [best, *_] = candidates(trials, "budget")
    usual = outcome_of(trials[0])
    assert usual is not None
    trials[0] = made.made(0, trials[0].params, replace(usual, epsilon=20.0), "the defaults")
    fresh = replace(best, confirmed=(0.9, 0.9))
    words = advise(trials, made.SPACE, FLOOR, fresh, 8, "floor")
    assert f"The defaults scored {usual.score:.4f} at epsilon 20, the recommended" in words
    assert "0.9000 on fresh seeds" in words


def test_pictures_hold_to_their_layout(made: ModuleType) -> None:
    spec = importlib.util.spec_from_file_location(
        "report_conftest", Path(__file__).parents[1] / "report" / "conftest.py"
    )
    assert spec is not None
    assert spec.loader is not None
    layout = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(layout)
    trials = made.study_of(40, lambda rate: rate > 1)
    lagging = Outcome("pruned", "behind", "r", 0.7, (0.7,), budget=3.0, cell_rounds=3)
    refused = Outcome("pruned", "reach", "r", budget=3.0)
    trials += [
        made.made(40 + k, trials[k].params, outcome) for k, outcome in enumerate((lagging, refused))
    ]
    title = "breast_density (synthetic stand-in), epsilon 3: trials in their order"
    with style():
        history = history_figure(trials, FLOOR, title)
        where = collapse_map(trials, made.SPACE, title)
        spread = [
            t for k, budget in enumerate((1.0, 3.0, 10.0))
            for t in made.study_of(5 + k, lambda rate: rate > 3, budget)
        ]  # fmt: skip
        best = front([c for c in candidates(spread, "budget") if c.feasible])
        against = front_figure(spread, best, FLOOR, CLAIM, title)
    for figure in (history, where, against):
        assert figure is not None
        layout._check_layout(figure)
    assert against is not None
    about = against.axes[0].get_xlabel()
    assert all(word in about for word in ("record", "zero_out", "server_updates", "1e-5"))


def test_one_parameter_has_no_map(made: ModuleType) -> None:
    trials = made.study_of(20, lambda rate: rate > 1)
    for trial in trials:
        trial.params = {"federation.lr": trial.params["federation.lr"]}
    assert collapse_map(trials, made.SPACE, "x") is None
