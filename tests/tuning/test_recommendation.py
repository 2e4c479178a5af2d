"""Which setting is recommended: fresh seeds decide, and most of them go to what may win."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedprivacy.tuning import recommendation
from fedprivacy.tuning.outcome import Outcome
from fedprivacy.tuning.recommendation import Candidate, choose, confirm, confirmations, front


def candidate(score: float, epsilon: float, confirmed: tuple[float, ...] = (), below: float = -1.0):
    outcome = Outcome(
        "ok", score=score, scores=(score,), standard_error=0.02, epsilon=epsilon, budget=epsilon,
        below_floor=-0.1, cell_rounds=8,
    )  # fmt: skip
    return Candidate(0, {}, outcome, confirmed, below)


def test_fresh_seeds_decide_and_not_the_luck_of_the_search(compose) -> None:
    conf = compose().tuning
    lucky, steady = candidate(0.95, 3.0, (0.80, 0.82)), candidate(0.90, 3.0, (0.89, 0.91))
    assert choose([lucky, steady], replace(conf, mode="budget")) is steady
    assert steady.score == pytest.approx(0.90)


def test_the_floor_must_hold_on_fresh_seeds(compose) -> None:
    conf = replace(compose().tuning, mode="floor")
    fell, held = candidate(0.7, 0.5, (0.5,), below=0.1), candidate(0.7, 0.9, (0.7,), below=-0.1)
    assert not fell.feasible
    assert choose([fell, held], conf) is held
    assert choose([fell], conf) is fell  # nothing held: said to be infeasible, not hidden


def test_a_front_recommends_the_least_epsilon_within_one_standard_error(compose) -> None:
    conf = replace(compose().tuning, mode="front")
    points = [candidate(0.80, 1.0), candidate(0.89, 3.0), candidate(0.90, 8.0)]
    assert choose(points, conf) is points[1]
    assert front([*points, candidate(0.85, 5.0)]) == points
    assert choose([], conf) is None


# ----------------------------------------------------------------------------------- the race


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Which trial was run with which seed; its score is its number, in hundredths."""
    done: list[tuple[int, int]] = []

    def with_seed(candidate, seed, config, composer, floor, record):
        done.append((candidate.trial, seed))
        return candidate.and_fresh(candidate.trial / 100, -0.1)

    monkeypatch.setattr(recommendation, "_with_seed", with_seed)
    return done


def raced(compose, mode: str, cells: int, seeds: int) -> tuple[list[Candidate], object]:
    config = compose(
        f"tuning.mode={mode}", f"tuning.confirm={cells}", f"tuning.confirm_seeds={seeds}"
    )
    field = [replace(candidate(0.9, 3.0), trial=number) for number in range(50, 50 + cells)]
    return confirm(field, config, None, None, None), config.tuning


def test_half_of_the_field_drops_out_after_each_seed(compose, run: list) -> None:
    found, conf = raced(compose, "budget", 5, 3)
    assert [(c.trial, len(c.confirmed)) for c in found] == [
        (54, 3), (53, 3), (52, 2), (51, 1), (50, 1),
    ]  # fmt: skip
    assert len(run) == len(set(run)) == confirmations(conf) == 10
    assert len({seed for _, seed in run}) == 3
    assert choose(found, conf).trial == 54


def test_a_setting_whose_runs_differ_is_not_relied_on(compose) -> None:
    conf = replace(compose().tuning, mode="budget")
    wild, steady = (
        candidate(0.95, 3.0, (0.97, 0.80, 0.99)),
        candidate(0.93, 3.0, (0.90, 0.92, 0.91)),
    )
    assert wild.score > steady.score
    assert choose([wild, steady], conf) is steady
    assert steady.assured < steady.score == pytest.approx(0.91)
    assert candidate(0.95, 3.0).assured == 0.95  # one run says nothing of its own error


def test_a_setting_that_dropped_out_does_not_come_back(compose) -> None:
    conf = replace(compose().tuning, mode="budget")
    dropped, through = candidate(0.9, 3.0, (0.90,)), candidate(0.9, 3.0, (0.91, 0.85))
    assert choose([dropped, through], conf) is through


@pytest.mark.parametrize("mode", ["floor", "front"])
def test_where_epsilons_differ_all_are_run_with_all_seeds(compose, run: list, mode: str) -> None:
    found, _ = raced(compose, mode, 3, 2)
    assert [len(c.confirmed) for c in found] == [2, 2, 2]


def test_the_floor_is_judged_by_the_mean_of_the_fresh_runs() -> None:
    first = candidate(0.9, 3.0, below=None).and_fresh(0.7, 0.1)
    assert first.below_floor == pytest.approx(0.1)
    both = first.and_fresh(0.9, -0.3)
    assert both.below_floor == pytest.approx(-0.1)
    assert both.confirmed == (0.7, 0.9)
    assert both.score == pytest.approx(0.8)
