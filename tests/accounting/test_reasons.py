"""Why nothing is proved: the words of the ledger's own events, with rounds and sites."""

from __future__ import annotations

from dataclasses import replace

import dp_accounting
import pytest

from fedprivacy.accounting.events import Event
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.reasons import round_words, why_infinite

RAW = Event(
    round=1,
    site="A",
    mechanism="dpsgd",
    unit="record",
    neighbouring="zero_out",
    view="server_updates",
    dp_event=dp_accounting.NonPrivateDpEvent(),
    protected=False,
)
DELTA = 1e-5


def test_a_release_without_protection_says_its_own_reason() -> None:
    """Even where no release at all was protected."""
    told = [replace(RAW, site=site, reason="the site told of it") for site in "AB"]
    assert why_infinite(Ledger(told), DELTA) == "round 1, all sites: the site told of it"


def test_a_release_without_any_reason_is_no_protection() -> None:
    assert why_infinite(Ledger([RAW]), DELTA) == "no protection"


def test_protected_rounds_do_not_hide_why_another_is_bare() -> None:
    gaussian = dp_accounting.GaussianDpEvent(1.0)
    proved = replace(RAW, dp_event=gaussian, protected=True, strength=1.0)
    told = replace(RAW, round=2, reason="the site told of it")
    assert why_infinite(Ledger([proved, told]), DELTA) == "round 2, site A: the site told of it"
    silent = replace(told, reason="")
    assert why_infinite(Ledger([proved, silent]), DELTA) == (
        "round 2, site A: their records were used in releases that nothing protects"
    )


@pytest.mark.parametrize(
    ("rounds", "words"), [((3,), "round 3"), ((2, 3, 4, 7), "rounds 2-4, 7"), ((1, 1), "round 1")]
)
def test_round_words(rounds: tuple[int, ...], words: str) -> None:
    assert round_words([replace(RAW, round=number) for number in rounds]) == words
