from __future__ import annotations

from dp_accounting import dp_event as dp

from fedprivacy.accounting.explanation import describe, explain
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.statement import privacy_statement


def _explain(ledger, rounds, **options):
    return explain(privacy_statement(ledger, rounds=rounds, delta=1e-5, **options))


def test_a_finite_epsilon_can_be_followed(run):
    text = _explain(run(12, sites=("Guys", "HH")), 12, assumptions=["features are public"])
    assert text.startswith("epsilon <= 8.1814 (one record, zero_out, adversary sees server_updates")
    assert "Releases of Guys, HH:" in text
    assert (
        "rounds 1-12: dpsgd: 20 x [each unit with probability 0.2] Gaussian noise of 2 clip norms"
    ) in text
    assert "Poisson" in text
    assert "Laplace" not in text
    assert "- features are public" in text


def test_an_infinite_one_says_why(run):
    text = _explain(run(3, lambda number: number == 1), 3)
    assert text.startswith("epsilon: infinite")
    assert "rounds 2-3, site A: their records were used in releases that nothing protects" in text
    assert "protection off: raw, nothing proved" in text
    assert "A: epsilon infinite; protected rounds alone 2.2197" in text


def test_what_is_not_proved_has_no_composition(run):
    text = _explain(run(1), 1, unit="site")
    assert "Why: a bound for one record says nothing about one site." in text
    assert "nothing to compose" in text
    assert "nothing to compose" in _explain(Ledger(), 0)


def test_releases_in_words():
    both = dp.ComposedDpEvent((dp.LaplaceDpEvent(3.0), dp.NoOpDpEvent()))
    assert describe(both) == ("(Laplace noise of scale 3 bounds and nothing new (post-processing))")
    response = describe(dp.RandomizedResponseDpEvent(0.5, 2))
    assert response == "randomised response among 2, the truth with probability 0.75"
