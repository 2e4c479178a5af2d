from __future__ import annotations

from types import ModuleType

import pytest

from fedprivacy.report.words import (
    about_epsilon,
    delta_text,
    epsilon_label,
    epsilon_text,
    number_text,
    protected_label,
    protected_text,
    varying,
)

FINITE = {
    "unit": "record",
    "neighbouring": "zero_out",
    "view": "server_updates",
    "delta": 1e-5,
    "randomness": "secret",
    "infinite": False,
    "epsilon": 8.181,
    "epsilon_protected": 8.181,
    "epsilon_protected_infinite": False,
    "protected_rounds": 8,
    "rounds": 8,
}
PARTIAL = {**FINITE, "infinite": True, "epsilon": None, "epsilon_protected": 2.22}
PARTIAL["protected_rounds"] = 1
HOPELESS = {**PARTIAL, "unit": "site", "neighbouring": "replace_one", "epsilon_protected": None}
HOPELESS["epsilon_protected_infinite"] = True


@pytest.mark.parametrize(
    ("number", "text"),
    [(8.181, "8.18"), (2.22, "2.22"), (1036.9, "1037"), (0.00123, "0.0012"), (0.0, "0.00")],
)
def test_numbers_keep_three_figures(number: float, text: str) -> None:
    assert number_text(number) == text


@pytest.mark.parametrize(
    ("delta", "text"),
    [(1e-5, "1e-5"), (1.3e-6, "1.3e-6"), (0.001, "0.001"), (1e-10, "1e-10"), (None, "-")],
)
def test_deltas_have_no_leading_zero_in_the_exponent(delta: float | None, text: str) -> None:
    assert delta_text(delta) == text


def test_infinite_stays_a_word() -> None:
    assert epsilon_text(FINITE) == "8.18"
    assert epsilon_text(PARTIAL) == "infinite"
    assert epsilon_text(None) == "unknown"
    assert epsilon_text({}) == "infinite"


def test_protected_rounds_come_with_their_share(factory: ModuleType) -> None:
    assert protected_text(PARTIAL) == "2.22 (1/8 rounds)"
    assert protected_text({**HOPELESS, "protected_rounds": 8}) == "infinite (8/8 rounds)"
    assert protected_text(factory.make_result("none").privacy) == "-"


def test_labels_name_the_unit_of_every_number() -> None:
    assert epsilon_label(FINITE) == "ε = 8.18, record"
    assert protected_label(FINITE) == "ε = 8.18, record; protected 8/8 rounds"
    assert protected_label(PARTIAL) == "ε infinite; 2.22 over 1/8 rounds, record"
    assert protected_label(HOPELESS) == "ε infinite, also over the 1/8 rounds protected"
    assert epsilon_label(None) == "ε unknown"


def test_what_differs_within_a_unit_stands_beside_each_number() -> None:
    other = {**FINITE, "delta": 1e-6}
    assert varying([FINITE, PARTIAL, HOPELESS]) == ()
    assert varying([FINITE, other]) == ("delta",)
    assert epsilon_label(other, ("delta",)) == "ε = 8.18, record, δ=1e-6"
    assert (
        protected_label(PARTIAL, ("delta",)) == "ε infinite; 2.22 over 1/8 rounds, record, δ=1e-5"
    )
    assert "δ" not in about_epsilon([FINITE, other])


def test_what_is_shared_is_said_once() -> None:
    assert about_epsilon([FINITE, HOPELESS]) == (
        "ε: proven upper bound, view server_updates, δ=1e-5, secret noise; "
        "per record: zero_out; per site: replace_one"
    )
    assert "seeded noise (a simulation)" in about_epsilon([{**FINITE, "randomness": "seeded"}])
    assert about_epsilon([]) == ""
