"""Prices by hand, on results whose every number is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report.factory import make_result
from sklearn.isotonic import IsotonicRegression

from fedprivacy.pricing.data_loss import discarded, equivalent_data_loss
from fedprivacy.pricing.file import to_json
from fedprivacy.pricing.frontier import pareto
from fedprivacy.pricing.price import ALL_LEFT, NO_LOCAL, NO_PROOF, NO_SCORE, NO_TWIN, losses, price
from fedprivacy.pricing.twins import find_twin
from fedprivacy.result import CellResult, ScoreBlock

SHARE = "dataset.train_share"


def cell(value: float | None, seed: int = 0, algorithm: str = "dpsgd", **more) -> CellResult:
    """A cell with this score; ``sites``, ``classes`` and ``advantage`` may be given."""
    sites, classes = more.pop("sites", {}), more.pop("classes", {})
    advantage = more.pop("advantage", None)
    made = make_result(algorithm, seed=seed, **more)
    score = ScoreBlock("auc", value, 0.5, 0.01, sites, classes)
    privacy = made.privacy
    if advantage is not None:
        privacy = {**made.privacy, "infinite": False, "epsilon": 2.0, "max_advantage": advantage}
    return replace(made, score=score, privacy=privacy)


def test_the_score_lost_is_paired_by_seed() -> None:
    protected = [cell(0.8, 0), cell(0.7, 1), cell(0.9, 2)]
    twins = [cell(0.9, seed, "none") for seed in (0, 1)]
    found = price(protected, [*protected, *twins], 0.2)
    assert found.score_lost.value == pytest.approx((0.1 + 0.2) / 2)
    assert found.score_lost.n == 2
    assert losses([*protected, *twins]) == {
        protected[0].cell_id: pytest.approx(0.1),
        protected[1].cell_id: pytest.approx(0.2),
    }


def test_without_a_twin_nothing_is_priced() -> None:
    found = price([cell(0.8)], [cell(0.8)], 0.2)
    assert found.score_lost is None
    assert NO_TWIN in found.reasons
    assert found.worst_site is None


def test_training_that_ended_non_finite_costs_all_that_the_twin_learned() -> None:
    twins = [cell(0.9, seed, "none") for seed in (0, 1)]
    lived = cell(0.8, 0, advantage=0.6)
    diverged = cell(None, 1, status="collapsed", advantage=0.6)
    found = price([lived, diverged], [lived, diverged, *twins], 0.2)
    assert found.score_lost.value == pytest.approx((0.1 + 0.4) / 2)
    assert found.score_lost.n == 2
    assert found.collapsed == (diverged.cell_id,)
    assert found.exchange_rate == pytest.approx(0.25 / 0.4)


def test_training_that_ended_non_finite_discards_all_that_the_curve_has() -> None:
    """The same seeds are counted as in the score lost, at chance."""
    plain = [
        cell(value, seed, "none", config={SHARE: share})
        for seed in (0, 1)
        for share, value in ((1.0, 0.9), (0.5, 0.8), (0.1, 0.6))
    ]
    lived, diverged = cell(0.8, 0), cell(None, 1, status="collapsed")
    found = equivalent_data_loss([lived, diverged], [lived, diverged, *plain])
    assert found.share is not None
    assert found.share.n == 2
    assert found.share.value == pytest.approx((0.5 + 0.9) / 2)
    assert found.beyond, "even the smallest share is worth more than chance"


def test_harm_that_is_of_fewer_seeds_than_the_score_lost_says_so() -> None:
    twins = [cell(0.9, seed, "none", sites={"a": 0.9}) for seed in (0, 1)]
    lived, diverged = cell(0.8, 0, sites={"a": 0.7}), cell(None, 1, status="collapsed")
    found = price([lived, diverged], [lived, diverged, *twins], 0.2)
    assert (found.score_lost.n, found.worst_site.lost.n) == (2, 1)
    [reason] = [one for one in found.reasons if one != NO_LOCAL]
    assert reason.startswith("what sites lost is of 1 of 2 seeds")
    assert price([lived], [lived, *twins], 0.2).reasons == (NO_LOCAL,)


def test_a_missing_score_is_not_called_a_missing_twin() -> None:
    failed = replace(cell(0.8, advantage=0.6), score=None, status="failed")
    found = price([failed], [failed, cell(0.9, algorithm="none")], 0.2)
    assert found.exchange_text == NO_SCORE
    assert NO_TWIN not in found.reasons
    assert NO_SCORE in found.reasons


def test_the_exchange_rate_is_score_lost_over_the_fall_of_the_cap() -> None:
    protected, twin = cell(0.8, advantage=0.6), cell(0.9, algorithm="none")
    found = price([protected], [protected, twin], 0.2)
    assert found.bought == pytest.approx(0.4)
    assert found.exchange_rate == pytest.approx(0.1 / 0.4)


def test_no_proof_has_no_rate() -> None:
    protected, twin = cell(0.8, schedule="first_round"), cell(0.9, algorithm="none")
    found = price([protected], [protected, twin], 0.2)
    assert (found.bought, found.exchange_rate, found.exchange_text) == (0.0, None, NO_PROOF)
    # One seed without a proof is enough: the row's worst counts.
    both = [cell(0.8, 0, advantage=0.5), cell(0.8, 1, schedule="first_round")]
    assert price(both, both, 0.2).exchange_text == NO_PROOF


def test_a_proof_that_leaves_all_of_the_advantage_has_no_rate_but_is_a_proof() -> None:
    protected, twin = cell(0.8, advantage=1.0), cell(0.9, algorithm="none")
    found = price([protected], [protected, twin], 0.2)
    assert (found.bought, found.exchange_rate, found.exchange_text) == (0.0, None, ALL_LEFT)
    dear = price([cell(0.8, advantage=1 - 1e-7)], [protected, twin], 0.2)
    assert dear.exchange_text == "1e+06 of score for the whole of an attacker's advantage"


def test_what_federation_still_gains_is_against_the_best_site_alone() -> None:
    protected = cell(0.8)
    alone = cell(0.7, algorithm="none", federation="local", sites={"a": 0.85, "b": 0.6, "c": None})
    found = price([protected], [protected, alone], 0.2)
    assert found.federation_gain_left.value == pytest.approx(0.8 - 0.85)
    assert NO_LOCAL not in found.reasons
    assert NO_LOCAL in price([protected], [protected], 0.2).reasons


def test_the_local_baseline_is_the_one_that_trained_most_alike() -> None:
    def alone(score: float, **config) -> CellResult:
        return cell(
            0.7, algorithm="none", federation="local", sites={"a": score},
            config={f"federation.{key}": value for key, value in config.items()},
        )  # fmt: skip

    protected = cell(0.8, config={"federation.lr": 0.5})
    far, near = alone(0.1, lr=9.0, batch_size=1), alone(0.6, lr=9.0)
    exact = alone(0.7, lr=0.5)
    for results in ([far, near], [near, far]):
        found = price([protected], [protected, *results], 0.2)
        assert found.federation_gain_left.value == pytest.approx(0.8 - 0.6)
        assert found.local_differs == ("federation.lr",)
    found = price([protected], [protected, far, near, exact], 0.2)
    assert found.federation_gain_left.value == pytest.approx(0.8 - 0.7)
    assert found.local_differs == ()
    assert to_json([found], 0.2)["rows"][0]["local_differs"] == []
    # One that failed is no baseline, however much it is alike.
    failed = replace(exact, score=None)
    found = price([protected], [protected, failed, near], 0.2)
    assert found.federation_gain_left.value == pytest.approx(0.8 - 0.6)


def test_harm_is_that_of_the_worst_site_and_the_worst_class() -> None:
    protected = [
        cell(0.8, s, sites={"a": 0.8, "b": 0.5}, classes={"0": 0.9, "1": 0.1}) for s in (0, 1)
    ]
    sites = {"a": 0.9, "b": 0.8}
    twins = [
        cell(0.9, s, "none", sites=sites, classes={"0": 0.9, "1": None if s else 0.7})
        for s in (0, 1)
    ]
    found = price(protected, [*protected, *twins], 0.2)
    assert found.worst_site.name == "b"
    assert found.worst_site.lost.value == pytest.approx(0.3)
    assert (found.worst_class.name, found.worst_class.lost.n) == ("1", 1)
    # Everyone else is told as well, with what was measured.
    assert [(h.name, h.measure, h.lost.n) for h in found.sites] == [
        ("b", "auc", 2),
        ("a", "auc", 2),
    ]
    assert [(h.name, h.measure) for h in found.classes] == [("1", "recall"), ("0", "recall")]
    assert found.worst_class.text() == "recall of 1: 0.600 (n = 1, no interval)"
    (row,) = to_json([found], 0.2)["rows"]
    assert [(h["name"], h["lost"]["n"]) for h in row["classes"]] == [("1", 1), ("0", 2)]
    assert row["sites"][1]["lost"]["value"] == pytest.approx(0.1)
    assert row["worst_class"] == row["classes"][0]


def test_harm_says_how_few_it_hurts() -> None:
    def sized(one: CellResult) -> CellResult:
        score = replace(one.score, class_sizes={"0": 190, "1": 10})
        return replace(one, score=score, sites={"a": {"train": 90, "test": 150}, "b": {"test": 50}})

    protected = sized(cell(0.8, sites={"a": 0.8, "b": 0.5}, classes={"0": 0.9, "1": 0.1}))
    twin = sized(cell(0.9, 0, "none", sites={"a": 0.9, "b": 0.8}, classes={"0": 0.9, "1": 0.7}))
    found = price([protected], [protected, twin], 0.2)
    assert (found.worst_site.name, found.worst_site.records) == ("b", (50, 200))
    assert found.worst_class.text().startswith("recall of 1 (10 of 200 held-out records): 0.600")
    (row,) = to_json([found], 0.2)["rows"]
    assert (row["worst_class"]["held_out_records"], row["sites"][0]["held_out_records"]) == (10, 50)


def test_collapses_are_told_against_chance_and_the_twin() -> None:
    protected = [cell(0.57, 0), cell(0.59, 1), replace(cell(0.9, 2), status="collapsed")]
    twins = [cell(0.9, seed, "none") for seed in range(3)]
    found = price(protected, [*protected, *twins], 0.2)
    # chance 0.5, twin 0.9: the floor is 0.58.
    assert found.collapsed == (protected[0].cell_id, protected[2].cell_id)


def test_a_twin_was_trained_on_as_much_and_audited_alike() -> None:
    def audited(one: CellResult, name: str) -> CellResult:
        return replace(one, config={**one.config, "audit": {"name": name}})

    protected = audited(cell(0.8, config={SHARE: 0.5}), "fast")
    others = [
        audited(cell(0.9, algorithm="none", config={SHARE: s}), a)
        for s, a in product((0.5, 1.0), ("fast", "none"))
    ]
    assert find_twin(protected, others) is others[0]


def test_data_loss_is_read_off_a_monotone_curve() -> None:
    curve = {0.1: 0.6, 0.5: 0.8, 1.0: 0.9}
    assert discarded(curve, 0.7) == (pytest.approx(1 - 0.3), False)
    assert discarded(curve, 0.95) == (0.0, False)
    assert discarded(curve, 0.5) == (pytest.approx(0.9), True)
    # A dip is levelled out first.
    assert discarded({0.1: 0.6, 0.5: 0.7, 0.7: 0.6, 1.0: 0.9}, 0.65)[0] == pytest.approx(0.3)


@given(st.lists(st.floats(0.5, 1.0), min_size=3, max_size=6), st.floats(0.5, 1.0))
def test_data_loss_against_scikit_learns_isotonic_regression(scores, score) -> None:
    shares = np.linspace(0.2, 1.0, len(scores))
    fitted = IsotonicRegression().fit(shares, scores).predict(shares)
    found, beyond = discarded(dict(zip(shares.tolist(), scores, strict=True)), score)
    assert 0 <= found < 1
    if beyond:
        assert score < fitted[0] + 1e-9
    elif found > 0:
        assert np.interp(1 - found, shares, fitted) == pytest.approx(score, abs=1e-6)
    else:
        assert score >= fitted[-1] - 1e-9


def test_data_loss_needs_a_curve_of_its_own_seed() -> None:
    protected = cell(0.7, config={SHARE: 1.0})
    curve = [
        cell(value, algorithm="none", config={SHARE: share})
        for share, value in ((0.1, 0.6), (0.5, 0.8), (1.0, 0.9))
    ]
    found = equivalent_data_loss([protected], [protected, *curve])
    assert found.share.value == pytest.approx(0.7)
    elsewhere = [replace(one, seed=5) for one in curve]
    assert equivalent_data_loss([protected], elsewhere).share is None
    assert "train_share" in equivalent_data_loss([protected], []).reason


POINTS = st.lists(
    st.tuples(st.sampled_from([0.5, 1.0, 2.0, math.inf]), st.sampled_from([0.1, 0.2, 0.3, 0.4])),
    max_size=8,
)


@given(POINTS)
def test_the_front_is_what_no_other_beats(points) -> None:
    front = pareto([(eps, score, index) for index, (eps, score) in enumerate(points)])
    kept = {points[index] for index in front}
    for eps, score in points:
        beaten = any((e <= eps and s >= score) and (e < eps or s > score) for e, s in points)
        assert ((eps, score) in kept) is not beaten


def test_prices_are_strict_json_with_what_they_are_about() -> None:
    protected, twin = cell(0.8, advantage=0.6), cell(0.9, algorithm="none")
    raw = cell(0.85, schedule="first_round")
    results = [protected, raw, twin]
    prices = [price([one], results, 0.2) for one in results[:2]]
    file = json.loads(json.dumps(to_json(prices, 0.2), allow_nan=False))
    finite, infinite = file["rows"]
    assert finite["privacy"]["epsilon"] == 2.0
    assert infinite["privacy"]["epsilon"] is None
    assert infinite["privacy"]["infinite"] is True
    assert infinite["exchange_rate"] == {"value": None, "text": NO_PROOF}
    for row in file["rows"]:
        assert {"unit", "neighbouring", "view", "delta"} <= set(row["privacy"])
        assert row["measured"] is None
    assert finite["score_lost"]["text"].endswith("(n = 1, no interval)")
