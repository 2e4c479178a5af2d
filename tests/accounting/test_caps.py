from __future__ import annotations

import json

import pytest
from dp_accounting import dp_event as dp

from fedprivacy.accounting.caps import caps
from fedprivacy.accounting.claims import claim
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.profile import privacy_profile


def test_an_attack_may_choose_the_worst_site(event):
    ledger = Ledger(
        (event(dp.GaussianDpEvent(4.0), 1, "A"), event(dp.GaussianDpEvent(1.0), 1, "B"))
    )
    found = caps(claim(ledger, "record", "server_updates", 1e-5))
    worst = privacy_profile(ledger.site("B"), "zero_out")
    assert found.max_advantage == worst.max_advantage
    assert found.max_tpr[0.01] == worst.max_tpr(0.01)
    assert found.mu_gdp == pytest.approx(1.0, rel=1e-5)
    assert found.delta_profile[1.0] == pytest.approx(0.12694, abs=1e-4)


def test_nothing_proved_caps_nothing(run):
    for ledger, unit in ((run(2, lambda n: n == 1), "record"), (run(2), "site")):
        found = caps(claim(ledger, unit, "server_updates", 1e-5))
        assert found.max_advantage == 1.0
        assert set(found.max_tpr.values()) == {1.0}
        assert found.mu_gdp is None
        assert found.mu_regret is None
        assert set(found.delta_profile.values()) == {1.0}


def test_nothing_released_leaves_guessing(run):
    found = caps(claim(Ledger(), "record", "server_updates", 1e-5))
    assert found.max_tpr[0.01] == pytest.approx(0.01)
    assert found.mu_gdp == 0.0


def test_strict_json(run):
    for ledger in (run(1), run(1, lambda _: False)):
        block = caps(claim(ledger, "record", "server_updates", 1e-5)).to_json()
        again = json.loads(json.dumps(block, allow_nan=False))
        assert again == block
        assert set(again["max_tpr_at_fpr"]) == {"0.001", "0.01", "0.1"}
