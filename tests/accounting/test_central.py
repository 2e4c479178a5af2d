from __future__ import annotations

import math

import pytest

from fedprivacy.accounting.central import central_events, mean_noise
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.statement import privacy_statement
from fedprivacy.errors import AccountingError

DELTA = 1e-5


def _ledger(rounds, noise, sites=("A", "B", "C"), **options):
    return Ledger(
        tuple(
            event
            for number in range(1, rounds + 1)
            for event in central_events(number, sites, noise, **options)
        )
    )


@pytest.mark.parametrize(
    ("rounds", "target", "noise"),
    [(20, 8, 2.68), (20, 1, 16.7), (30, 8, 3.29), (30, 1, 20.4), (50, 8, 4.24), (50, 1, 26.4)],
)
def test_known_noise_of_dp_fedavg(rounds, target, noise):
    statement = privacy_statement(
        _ledger(rounds, noise), rounds=rounds, delta=DELTA, view="aggregate"
    )
    assert statement.epsilon == pytest.approx(target, rel=0.01)
    assert statement.neighbouring == "zero_out"


def test_finite_for_who_sees_the_average_infinite_for_the_server():
    statement = privacy_statement(_ledger(20, 2.68), rounds=20, delta=DELTA)
    assert statement.infinite
    assert "the server sees every update before it adds noise" in statement.reason
    views = {view: claim.total.epsilon for view, claim in statement.per_view.items()}
    assert views["server_updates"] == math.inf
    assert views["aggregate"] == views["final_model"] == pytest.approx(8.0, rel=0.01)
    assert statement.protected_rounds == 20
    assert statement.epsilon_protected_infinite


def test_records_and_patients_are_covered_by_any_replacement():
    statement = privacy_statement(_ledger(20, 2.68), rounds=20, delta=DELTA, view="aggregate")
    record = statement.per_unit["record"]
    assert record.neighbouring == "replace_one"
    assert record.total.epsilon == statement.per_unit["patient"].total.epsilon
    assert record.total.epsilon > statement.epsilon
    doubled = privacy_statement(_ledger(20, 1.34), rounds=20, delta=DELTA, view="aggregate")
    assert record.total.epsilon == pytest.approx(doubled.epsilon, rel=1e-6)


def test_only_the_last_average_published():
    statement = privacy_statement(
        _ledger(3, 2.0, view="final_model"), rounds=3, delta=DELTA, view="aggregate"
    )
    assert statement.infinite
    assert not math.isinf(statement.per_view["final_model"].total.epsilon)


def test_noise_on_the_mean():
    assert mean_noise(2.68, 1.0, 3) == pytest.approx(0.893, abs=1e-3)
    assert mean_noise(0.0, 1.0, 3) == 0.0
    for arguments in ((-1.0, 1.0, 3), (1.0, 0.0, 3), (1.0, 1.0, 0)):
        with pytest.raises(AccountingError):
            mean_noise(*arguments)


def test_no_claim_against_the_server():
    with pytest.raises(AccountingError, match="nothing against the server"):
        central_events(1, ["A"], 1.0, view="server_updates")
