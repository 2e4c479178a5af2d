"""What a study teaches is found where it was put, and not where nothing was."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from optuna.distributions import FloatDistribution

from fedprivacy.report.canvas import style
from fedprivacy.tuning.advice import advise, best_split
from fedprivacy.tuning.collapse_map import collapse_map
from fedprivacy.tuning.floor import Floor
from fedprivacy.tuning.guidance import Guidance, guide
from fedprivacy.tuning.importance import (
    collapse_importance,
    most_important,
    score_importance,
    searched,
)
from fedprivacy.tuning.outcome import OUTCOME, Outcome, outcome_of
from fedprivacy.tuning.recommendation import Candidate, candidates, front
from fedprivacy.tuning.study_figures import epsilon_history_figure, front_figure, history_figure
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
    drowned, dying = replace(lagging, rule="noise"), replace(lagging, rule="chance", score=0.5)
    trials += [
        made.made(40 + k, trials[k].params, outcome)
        for k, outcome in enumerate((lagging, refused, drowned, dying))
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
        least = epsilon_history_figure(spread, CLAIM, title)
        few = collapse_map(trials[:6], made.SPACE, title)
    for figure in (history, where, against, least, few):
        assert figure is not None
        layout._check_layout(figure)
    assert against is not None
    about = against.axes[0].get_xlabel()
    assert all(word in about for word in ("record", "zero_out", "server_updates", "1e-5"))


@pytest.fixture
def close(made: ModuleType, tmp_path: Path) -> Callable[..., Guidance]:
    """``close(trials, mode, best)``: what the study of that mode leaves in the test's folder."""

    def closed(trials: list[Any], mode: str, best: list[Candidate]) -> Guidance:
        tuning = SimpleNamespace(dir=str(tmp_path), mode=mode, budget=3.0, n_trials=9)
        dataset = SimpleNamespace(name="wisconsin", source="real")
        whole = SimpleNamespace(tuning=SimpleNamespace(n_trials=27))
        search: Any = SimpleNamespace(
            config=SimpleNamespace(tuning=tuning, dataset=dataset),
            composer=SimpleNamespace(base=lambda: whole),
            space=made.SPACE,
            floor=FLOOR,
            n_trials=9,
        )
        return guide(search, trials, best, best[0] if best else None, CLAIM)

    return closed


def test_a_front_is_drawn_only_where_epsilon_varies_and_a_stale_one_goes(
    made: ModuleType, close: Callable[..., Guidance], tmp_path: Path
) -> None:
    # Calibration leaves a residue: each epsilon is a little below its budget.
    residue = [
        t for k in range(3) for t in made.study_of(5 + k, lambda rate: False, 3.0 - 0.0002 * k)
    ]  # fmt: skip
    spread = [t for b in (1.0, 3.0) for t in made.study_of(6, lambda rate: False, b)]
    picture = tmp_path / "front.png"
    for mode, trials, drawn in (
        ("budget", residue, False),
        ("floor", spread, True),
        ("budget", spread, False),
        ("front", spread, True),
        ("front", residue, False),
    ):
        told = close(trials, mode, candidates(trials, mode)[:3])
        assert picture.is_file() == drawn
        assert (picture in told.paths) == drawn
    assert (tmp_path / "history.png").is_file()


def test_only_the_front_of_the_candidates_is_joined(made: ModuleType) -> None:
    trials = [t for b in (1.0, 2.0, 3.0, 4.0) for t in made.study_of(4, lambda rate: False, b)]
    first = {c.epsilon: c for c in candidates(trials, "budget")}
    fresh = {1.0: 0.80, 2.0: 0.75, 3.0: 0.90, 4.0: 0.95}
    best = [replace(first[e], confirmed=(score, score)) for e, score in fresh.items()]
    best[-1] = replace(best[-1], below_floor=0.1)
    with style():
        figure = front_figure(trials, best, FLOOR, CLAIM, "x")
    assert figure is not None
    steps = [ln for ln in figure.axes[0].lines if ln.get_drawstyle() == "steps-post"]
    assert [list(ln.get_xdata()) for ln in steps] == [[1.0, 3.0]]
    assert [list(ln.get_ydata()) for ln in steps] == [[0.80, 0.90]]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"front, score on fresh seeds", "not on it, score on fresh seeds"} <= set(words)


def test_where_epsilon_is_minimised_history_shows_the_least_feasible(made: ModuleType) -> None:
    trials = []
    for number, (epsilon, dead) in enumerate([(3.0, False), (1.0, True), (2.0, False), (5, False)]):
        [one] = made.study_of(1, lambda rate, dead=dead: dead, epsilon)
        one.number = number
        trials.append(one)
    ended = Outcome("pruned", "chance", "r", 0.5, (0.5,), budget=0.4, epsilon=0.1, cell_rounds=3)
    trials.append(made.made(4, trials[0].params, ended))
    with style():
        figure = epsilon_history_figure(trials, CLAIM, "x")
    assert figure is not None
    axes = figure.axes[0]
    [curve] = [ln for ln in axes.lines if ln.get_drawstyle() == "steps-post"]
    assert list(curve.get_ydata()) == [3.0, 3.0, 2.0, 2.0, 2.0]
    marks = [float(ln.get_ydata()[0]) for ln in axes.lines if ln is not curve]
    assert marks == [3.0, 1.0, 2.0, 5.0, 0.4]
    assert axes.get_ylabel() == "epsilon"
    assert any("record" in text.get_text() for text in figure.texts)


def with_epsilon(trials: list[Any]) -> list[Any]:
    """The same trials, each with a searched epsilon that decides their collapse and no other."""
    rng = np.random.default_rng(1)
    for trial in trials:
        epsilon = float(np.exp(rng.uniform(np.log(0.3), np.log(30.0))))
        outcome = outcome_of(trial)
        assert outcome is not None
        score = 0.52 if epsilon < 2 else 0.9
        outcome = replace(
            outcome, epsilon=epsilon, budget=epsilon, score=score, below_floor=0.6 - score
        )
        trial.distributions = {**trial.distributions, "epsilon": FloatDistribution(0.3, 30, True)}
        trial.params = {**trial.params, "epsilon": epsilon}
        trial.set_user_attr(OUTCOME, outcome.to_json())
    return trials


def test_a_searched_epsilon_is_a_parameter_like_the_others(
    made: ModuleType, close: Callable[..., Guidance]
) -> None:
    trials = with_epsilon(made.study_of(40, lambda rate: False))
    told = close(trials, "floor", candidates(trials, "floor")[:1])
    shares = told.importance["collapse"]
    assert max(shares, key=shares.__getitem__) == "epsilon"
    assert "epsilon tells them best" in told.advice
    with style():
        figure = collapse_map(trials, searched(trials, made.SPACE), "x")
    assert figure is not None
    assert "epsilon" in figure.axes[0].get_xlabel()
    assert searched(made.study_of(3, lambda rate: False), made.SPACE) is made.SPACE


def test_an_epsilon_at_the_end_of_its_range_is_an_edge(made: ModuleType) -> None:
    trials = with_epsilon(made.study_of(20, lambda rate: False))
    best = candidates(trials, "floor")[0]
    best = replace(best, outcome=replace(best.outcome, budget=0.301))
    words = advise(trials, searched(trials, made.SPACE), FLOOR, best, 20, "floor")
    assert "epsilon=0.301" in words


def test_importance_of_collapse_is_known_where_most_collapsed(made: ModuleType) -> None:
    trials = made.study_of(60, lambda rate: rate > 0.1)
    dead = sum(o.collapsed for _, o in trained(trials))
    assert dead > 30
    assert collapse_importance(trials, made.SPACE)["federation.lr"] > 0.5


def test_no_shares_are_made_up_where_nothing_tells_the_best_apart(made: ModuleType) -> None:
    trials = made.study_of(20, lambda rate: True)
    alive = replace(outcome_of(trials[3]), score=0.9, below_floor=-0.3)
    trials[3] = made.made(3, trials[3].params, alive)
    assert collapse_importance(trials, made.SPACE) == {}
    assert score_importance(trials, made.SPACE) == {}


def test_the_map_says_where_importance_did_not_choose_its_axes(made: ModuleType) -> None:
    def captions(n: int) -> list[str]:
        with style():
            figure = collapse_map(made.study_of(n, lambda rate: rate > 1), made.SPACE, "x")
        assert figure is not None
        return [text.get_text() for text in figure.texts]

    assert any("not by importance, which takes 8" in words for words in captions(6))
    assert captions(40) == ["x"]


def test_choices_stay_at_their_label_and_pages_have_no_band(made: ModuleType) -> None:
    trials = made.study_of(40, lambda rate: rate > 1)
    for trial in trials:  # the choice is on the map when all else is the same
        trial.params = {**trial.params, "schedule.decay": 0.7}
    with style():
        where = collapse_map(trials, made.SPACE, "x")
        history = history_figure(trials, FLOOR, "x")
    assert where is not None
    assert history is not None
    heights = [float(ln.get_ydata()[0]) for ln in where.axes[0].lines]
    assert all(abs(y - round(y)) <= 0.05 for y in heights)
    assert len(set(heights)) > 2
    for figure in (where, history):
        figure.canvas.draw()
        legend = figure.legends[0].get_window_extent()
        assert figure.axes[0].get_tightbbox().y0 - legend.y1 < 0.3 * figure.dpi


def test_what_mattered_is_in_the_advice_and_the_whole_front_is_asked_for(
    made: ModuleType, close: Callable[..., Guidance], tmp_path: Path
) -> None:
    trials = made.study_of(40, lambda rate: rate > 1)
    last = next(c for c in candidates(trials, "budget") if c.trial >= 35)
    told = close(trials, "budget", [last])
    share = told.importance["collapse"]["federation.lr"]
    assert f"for collapse, federation.lr {100 * share:.0f} %" in told.advice
    assert "go on with tuning.n_trials=54" in told.advice
    assert (tmp_path / "advice.txt").read_text() == told.advice + "\n"
    few = close(made.study_of(5, lambda rate: False), "budget", [])
    assert "takes 8 trained trials that differ" in few.advice


def test_one_parameter_has_no_map(made: ModuleType) -> None:
    trials = made.study_of(20, lambda rate: rate > 1)
    for trial in trials:
        trial.params = {"federation.lr": trial.params["federation.lr"]}
    assert collapse_map(trials, made.SPACE, "x") is None
