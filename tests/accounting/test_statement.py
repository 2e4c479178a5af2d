from __future__ import annotations

import json
import math

import pytest
from dp_accounting import dp_event as dp

from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.statement import privacy_statement
from fedprivacy.errors import AccountingError

RAW = dp.NonPrivateDpEvent()
DELTA = 1e-5


def _block(ledger, rounds, **options):
    block = privacy_statement(ledger, rounds=rounds, delta=DELTA, **options).to_json()
    return json.loads(json.dumps(block, allow_nan=False))


def test_every_round_protected(run):
    block = _block(run(12, sites=("Guys", "HH")), 12, assumptions=["features are public"])
    assert block["unit"] == "record"
    assert block["neighbouring"] == "zero_out"
    assert block["view"] == "server_updates"
    assert block["delta"] == DELTA
    assert block["direction"] == "upper bound, proved"
    assert block["infinite"] is False
    assert block["epsilon"] == pytest.approx(8.181, abs=1e-3)
    assert block["reason"] == ""
    assert block["epsilon_protected"] == block["epsilon"]
    assert (block["protected_rounds"], block["rounds"], block["protected_share"]) == (12, 12, 1.0)
    assert block["exposed_releases"] == {"number": 0, "first_rounds": []}
    assert block["accountant"] == "dp-accounting 0.6.0 PLD, losses on a grid of 0.001, rounded up"
    assert block["assumptions"][0] == "features are public"
    assert "the number of records of each site is public" in block["assumptions"]
    assert set(block["per_site"]) == {"Guys", "HH"}
    assert block["worst_site"] == "Guys"
    assert block["per_view"]["final_model"]["epsilon"] == block["epsilon"]
    assert block["per_unit"]["site"]["infinite"] is True
    assert block["per_unit"]["site"]["epsilon"] is None


def test_first_round_only(run):
    statement = privacy_statement(
        run(12, lambda number: number == 1, sites=("A", "B", "C")), rounds=12, delta=DELTA
    )
    block = statement.to_json()
    assert block["infinite"] is True
    assert block["epsilon"] is None
    assert block["reason"] == (
        "rounds 2-12, all sites: their records were used in releases that nothing protects"
    )
    assert block["epsilon_protected"] == pytest.approx(2.220, abs=1e-3)
    assert block["epsilon_protected_infinite"] is False
    assert block["protected_share"] == pytest.approx(1 / 12)
    assert block["exposed_releases"] == {"number": 33, "first_rounds": [2, 3, 4, 5, 6]}
    assert all(site["infinite"] for site in block["per_site"].values())
    assert "grid of 0.001" in block["accountant"]
    assert statement.epsilon_after[0] == pytest.approx(2.220, abs=1e-3)
    assert statement.epsilon_after[1:] == (None,) * 11
    assert statement.epsilon_protected_after == (statement.epsilon_after[0],) * 12


def test_no_protection(run):
    block = _block(run(3, lambda _: False), 3)
    assert block["infinite"] is True
    assert block["reason"] == "no protection"
    assert block["epsilon_protected"] is None
    assert block["epsilon_protected_infinite"] is False
    assert block["protected_rounds"] == 0
    assert block["assumptions"] == []


def test_a_filter_that_proves_nothing(event):
    ledger = Ledger(
        (event(RAW, unit="site", neighbouring="replace_one", mechanism="gaussian",
               reason="nothing bounds the update"),)
    )  # fmt: skip
    block = _block(ledger, 1)
    assert block["unit"] == "site"
    assert block["neighbouring"] == "replace_one"
    assert block["epsilon_protected"] is None
    assert block["epsilon_protected_infinite"] is True
    assert block["protected_rounds"] == 1
    assert "nothing bounds the update" in block["reason"]
    assert "the number of records of each site is public" not in block["assumptions"]


def test_nothing_ran():
    block = _block(Ledger(), 0)
    assert block["infinite"] is False
    assert block["epsilon"] == 0.0
    assert block["epsilon_protected"] is None
    assert block["protected_share"] == 0.0
    assert block["worst_site"] is None


def test_seeded_noise_is_a_simulation_and_changes_no_number(run):
    secret = _block(run(2), 2, randomness="secret")
    seeded = _block(run(2), 2, randomness="seeded")
    assert seeded["epsilon"] == secret["epsilon"]
    assert any("simulation" in words for words in seeded["assumptions"])
    assert not any("simulation" in words for words in secret["assumptions"])


def test_a_unit_may_be_asked_for(run, event):
    asked = _block(run(2), 2, unit="site")
    assert asked["unit"] == "site"
    assert asked["infinite"] is True
    assert asked["epsilon_protected_infinite"] is True
    both = run(1).extended((event(dp.GaussianDpEvent(9.0), unit="site"),))
    with pytest.raises(AccountingError, match="say which unit"):
        privacy_statement(both, rounds=1, delta=DELTA)
    assert _block(both, 1, unit="record")["epsilon"] == pytest.approx(2.220, abs=1e-3)


def test_a_round_missing_from_the_ledger_is_refused(run):
    """A release that nobody entered would be priced at nothing."""
    ledger = run(5, sites=("A", "B"))
    lost = ledger.where(lambda item: (item.round, item.site) != (3, "B"))
    with pytest.raises(AccountingError, match=r"site B has no event for rounds \[3\] of 5"):
        privacy_statement(lost, rounds=5, delta=DELTA)
    with pytest.raises(AccountingError, match="ledger is empty"):
        privacy_statement(Ledger(), rounds=1, delta=DELTA)


def test_a_round_that_was_broken_off_is_counted(run, dpsgd, event):
    """Round 3 ended at site A only: what A sent is priced, and no round 3 is required of B."""
    ledger = run(2, sites=("A", "B")).extended((event(dpsgd(), 3, "A"),))
    statement = privacy_statement(ledger, rounds=2, delta=DELTA)
    assert statement.worst_site == "A"
    assert statement.epsilon == pytest.approx(3.832, abs=1e-3)
    assert statement.protected_rounds == 2
    assert len(statement.epsilon_after) == 2


def test_a_round_counts_as_protected_only_at_all_sites(run):
    ledger = run(2, sites=("A",)).extended(run(2, lambda number: number == 1, sites=("B",)))
    assert privacy_statement(ledger, rounds=2, delta=DELTA).protected_rounds == 1


def test_local_source_is_released_once(event):
    """Later rounds read the noisy copy: post-processing, entered as NoOp."""
    once = dp.GaussianDpEvent(4.0)
    ledger = Ledger(
        tuple(
            event(once if number == 1 else dp.NoOpDpEvent(), number, neighbouring="replace_one")
            for number in range(1, 6)
        )
    )
    statement = privacy_statement(ledger, rounds=5, delta=DELTA)
    assert statement.epsilon == pytest.approx(1.993091, abs=1e-4)
    assert statement.epsilon_after == pytest.approx((statement.epsilon,) * 5)


def test_strict_json_holds_no_infinity(run):
    text = json.dumps(
        privacy_statement(run(2, lambda n: n == 2), rounds=2, delta=DELTA).to_json(),
        allow_nan=False,
    )
    assert "Infinity" not in text
    assert math.isinf(privacy_statement(run(1, lambda _: False), rounds=1, delta=DELTA).epsilon)


def test_protecting_some_rounds_says_nothing_of_the_final_model(event, dpsgd) -> None:
    ledger = Ledger((event(dpsgd(), 1), event(RAW, 2, protected=False)))
    said = privacy_statement(ledger, rounds=2, delta=1e-5).to_json()
    assert said["epsilon_protected"] is not None
    final = said["per_view"]["final_model"]
    assert (final["epsilon_protected"], final["epsilon_protected_infinite"]) == (None, True)
    headline = privacy_statement(ledger, rounds=2, delta=1e-5, view="final_model")
    assert headline.epsilon_protected_infinite
    assert headline.epsilon_protected_after == (None, None)
    whole = Ledger((event(dpsgd(), 1), event(dpsgd(), 2)))
    finite = privacy_statement(whole, rounds=2, delta=1e-5, view="final_model")
    assert finite.epsilon_protected == finite.epsilon < 10


def test_how_many_records_a_patient_has_is_stated(event, dpsgd) -> None:
    ledger = Ledger((event(dpsgd(), 1),))
    said = privacy_statement(ledger, rounds=1, delta=1e-5, records_per_patient=4).to_json()
    assert said["max_records_per_unit"] == {"record": 1, "patient": 4}


def test_noise_too_small_to_be_priced_is_stated_as_infinite(event) -> None:
    tiny = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(0.2, dp.GaussianDpEvent(1e-5)), 20)
    said = privacy_statement(Ledger((event(tiny, 1),)), rounds=1, delta=1e-5)
    assert said.infinite
    assert "noise is so small" in said.reason
    assert said.to_json()["epsilon"] is None
    assert said.caps.max_advantage == 1
