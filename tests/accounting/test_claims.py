"""What follows from what: units, views, patients, and the words when nothing follows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import dp_event as dp

from fedprivacy.accounting.claims import _worst_after, claim
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.reasons import exposed

RAW = dp.NonPrivateDpEvent()
DELTA = 1e-5


@pytest.fixture
def site_filter(event):
    """Three rounds of a clipped Gaussian on the updates of two sites."""
    return Ledger(
        tuple(
            event(
                dp.GaussianDpEvent(8.0), number, site,
                unit="site", neighbouring="replace_one", mechanism="gaussian_clipped",
            )
            for number in (1, 2, 3)
            for site in ("A", "B")
        )
    )  # fmt: skip


@pytest.mark.parametrize("view", ["server_updates", "aggregate", "final_model"])
def test_a_bound_against_the_server_holds_against_weaker_adversaries(run, view):
    found = claim(run(1), "record", view, DELTA)
    assert found.total.epsilon == pytest.approx(2.220, abs=1e-3)
    assert (view in found.derivation) or view == "server_updates"


def test_a_bound_for_the_final_model_proves_nothing_against_the_server(event):
    ledger = Ledger((event(dp.GaussianDpEvent(4.0), view="final_model"),))
    assert claim(ledger, "record", "final_model", DELTA).total.epsilon < 1.0
    for view in ("server_updates", "aggregate"):
        found = claim(ledger, "record", view, DELTA)
        assert found.total.epsilon == math.inf
        assert found.reason == (
            f"nothing is proved against an adversary who sees {view}: only for final_model"
        )


def test_the_view_with_its_own_statement_uses_it(event):
    """Output perturbation: every round is raw for the server, the final model is noisy."""
    ledger = Ledger(
        (
            event(RAW, 1, mechanism="release_gaussian", reason="only the final model is noisy"),
            event(RAW, 2, mechanism="release_gaussian", reason="only the final model is noisy"),
            event(dp.NoOpDpEvent(), 1, view="final_model"),
            event(dp.GaussianDpEvent(4.0), 2, view="final_model"),
        )
    )
    assert claim(ledger, "record", "final_model", DELTA).total.epsilon < 1.0
    server = claim(ledger, "record", "server_updates", DELTA)
    assert server.reason == (
        "rounds 1-2, site A: release_gaussian proves nothing: only the final model is noisy"
    )


@pytest.mark.parametrize("unit", ["record", "patient", "site"])
def test_any_replacement_of_a_site_covers_what_lies_inside_it(site_filter, unit):
    found = claim(site_filter, unit, "server_updates", DELTA)
    assert found.total.epsilon == pytest.approx(
        claim(site_filter, "site", "server_updates", DELTA).total.epsilon
    )
    assert found.unit == unit
    assert found.neighbouring == "replace_one"


def test_an_empty_site_is_not_any_replacement(event):
    ledger = Ledger((event(dp.GaussianDpEvent(8.0), unit="site", neighbouring="zero_out"),))
    assert claim(ledger, "site", "server_updates", DELTA).total.epsilon < 1.0
    assert claim(ledger, "record", "server_updates", DELTA).total.epsilon == math.inf


def test_a_record_says_nothing_about_a_site(run):
    found = claim(run(2), "site", "server_updates", DELTA)
    assert found.total.epsilon == math.inf
    assert found.reason == "a bound for one record says nothing about one site"
    assert found.protected is not None
    assert found.protected.epsilon == math.inf
    assert found.worst_site is None
    assert found.by_round(DELTA) == {}


def test_a_patient_needs_a_declared_number_of_records(run, dpsgd):
    ledger = run(1, dp_event=dpsgd(0.01, 1.0, 1000))
    unknown = claim(ledger, "patient", "server_updates", DELTA)
    assert unknown.total.epsilon == math.inf
    assert unknown.reason == "how many records one patient has is not declared"
    alone = claim(ledger, "patient", "server_updates", DELTA, records_per_patient=1)
    assert alone.total.epsilon == claim(ledger, "record", "server_updates", DELTA).total.epsilon
    four = claim(ledger, "patient", "server_updates", DELTA, records_per_patient=4)
    assert four.total.epsilon == pytest.approx(8.90, abs=0.02)
    assert "at most 4 records" in four.derivation


def test_a_patient_without_known_restatement_gets_no_number(event, dpsgd):
    ledger = Ledger((event(dpsgd(), neighbouring="replace_one"),))
    found = claim(ledger, "patient", "server_updates", DELTA, records_per_patient=2)
    assert found.reason == "no known bound for a patient with 2 records"


def test_stacked_mechanisms_give_each_unit_its_own_bound(run, site_filter, dpsgd):
    stacked = Ledger((*run(3, sites=("A", "B")).events, *site_filter.events))
    record = claim(stacked, "record", "server_updates", DELTA)
    site = claim(stacked, "site", "server_updates", DELTA)
    alone = claim(run(3), "record", "server_updates", DELTA)
    from_site = claim(site_filter, "site", "server_updates", DELTA)
    assert record.total.epsilon == min(alone.total.epsilon, from_site.total.epsilon)
    assert site.total.epsilon == from_site.total.epsilon


def test_statements_that_leave_a_release_out_do_not_count(event, run):
    """Round 2 is stated for the record only, round 1 for the site only: nothing composes."""
    ledger = Ledger(
        (event(dp.GaussianDpEvent(4.0), 1, unit="site", neighbouring="replace_one"),)
    ).extended(run(2).where(lambda item: item.round == 2))
    for unit in ("record", "site"):
        found = claim(ledger, unit, "server_updates", DELTA)
        assert found.total.epsilon == math.inf
        assert "covers every release" in found.reason


def test_worst_site_bounds_the_run(event, dpsgd):
    ledger = Ledger(
        tuple(
            event(dpsgd(sigma=sigma), number, site)
            for number in (1, 2)
            for site, sigma in (("quiet", 1.0), ("loud", 4.0))
        )
    )
    found = claim(ledger, "record", "server_updates", DELTA)
    assert found.worst_site == "quiet"
    totals = {name: site.total.epsilon for name, site in found.per_site.items()}
    assert found.total.epsilon == totals["quiet"] > totals["loud"]


def test_one_raw_round_at_one_site_is_named(event, dpsgd):
    ledger = Ledger(
        tuple(
            event(RAW if (site, number) == ("B", 2) else dpsgd(), number, site,
                  protected=(site, number) != ("B", 2))
            for number in (1, 2, 3)
            for site in ("A", "B")
        )
    )  # fmt: skip
    found = claim(ledger, "record", "server_updates", DELTA)
    assert found.total.epsilon == math.inf
    assert found.worst_site == "B"
    assert found.per_site["A"].total.epsilon == pytest.approx(3.832, abs=1e-3)
    assert found.reason == (
        "round 2, site B: their records were used in releases that nothing protects"
    )
    assert [(item.round, item.site) for item in exposed(ledger)] == [(2, "B")]


def test_reasons_name_runs_of_rounds(run):
    found = claim(
        run(9, lambda number: number in (1, 5), sites=("A", "B")),
        "record", "server_updates", DELTA,
    )  # fmt: skip
    assert found.reason == (
        "rounds 2-4, 6-9, all sites: their records were used in releases that nothing protects"
    )


def test_a_mechanism_without_noise_is_named(event):
    ledger = Ledger((event(dp.GaussianDpEvent(0.0), mechanism="gaussian"),))
    found = claim(ledger, "record", "server_updates", DELTA)
    assert found.reason == "round 1, site A: gaussian proves nothing: it adds no noise"


def test_without_protection(run):
    for unit in ("record", "patient", "site"):
        assert claim(run(3, lambda _: False), unit, "final_model", DELTA).reason == "no protection"


def test_nothing_released():
    found = claim(Ledger(), "record", "server_updates", DELTA)
    assert found.total.epsilon == 0.0
    assert found.protected is None
    assert found.reason == ""


def test_curve_takes_the_worst_site_of_each_round(event, dpsgd):
    ledger = Ledger(
        (
            event(dpsgd(sigma=4.0), 1, "A"),
            event(dpsgd(sigma=2.0), 1, "B"),
            event(dpsgd(sigma=1.0), 2, "A"),
            event(dpsgd(sigma=2.0), 2, "B"),
            event(dpsgd(sigma=2.0), 3, "A"),
            event(RAW, 3, "B", protected=False),
        )
    )
    found = claim(ledger, "record", "server_updates", DELTA)
    curve = found.by_round(DELTA)
    assert curve[1] == pytest.approx(2.220, abs=1e-3)
    first_two = claim(ledger.where(lambda item: item.round < 3), "record", "aggregate", DELTA)
    assert curve[2] == pytest.approx(first_two.total.epsilon, abs=1e-5)
    assert first_two.worst_site == "A"
    assert curve[3] is None
    protected = found.by_round(DELTA, protected_only=True)
    assert protected[3] == pytest.approx(found.protected.epsilon, abs=1e-5)


def test_protected_curve_is_empty_before_the_first_and_flat_between(run):
    found = claim(run(4, lambda number: number in (2, 4)), "record", "server_updates", DELTA)
    protected = found.by_round(DELTA, protected_only=True)
    assert protected[1] is None
    assert protected[2] == protected[3] == pytest.approx(2.220, abs=1e-3)
    assert protected[4] == pytest.approx(3.114, abs=1e-3)
    assert set(found.by_round(DELTA).values()) == {None}


@pytest.mark.parametrize("seed", range(20))
def test_the_worst_site_after_each_round_is_that_of_a_naive_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rounds = range(1, 9)
    curves = [
        {
            n: None if rng.random() < 0.05 else float(rng.random())
            for n in rounds
            if rng.random() < 0.6
        }
        for _ in range(3)
    ]

    def naive(number: int) -> float | None:
        reached = [[curve[n] for n in rounds if n <= number and n in curve] for curve in curves]
        last = [values[-1] for values in reached if values]
        return None if not last or None in last else max(last)

    assert _worst_after(rounds, curves) == {number: naive(number) for number in rounds}
