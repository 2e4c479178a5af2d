"""Prices and harm for programs: every number with what it is about, and nobody left out."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from types import ModuleType

import pytest

from fedprivacy.pricing.price import price
from fedprivacy.report.harm_table import harm_csv, harm_lines
from fedprivacy.report.price_csv import prices_csv
from fedprivacy.report.price_table import notes, price_tables, price_text, verdict_text
from fedprivacy.report.rows import make_rows

AUDIT = {
    "epsilon_lower": 1.5, "ceiling": 3.0, "confidence": 0.95, "method": "one run",
    "direction": "lower bound, measured", "unit": "record", "neighbouring": "add_remove",
    "view": "server_updates", "delta": 1e-5,
}  # fmt: skip


@pytest.fixture
def cells(factory: ModuleType):
    """DP-SGD in every round and in the first, with a twin and a local baseline, over two seeds."""
    found = []
    for seed in (0, 1):
        for made in (
            factory.make_result("dpsgd", seed=seed),
            factory.make_result("dpsgd", "first_round", seed=seed, audit=AUDIT),
            factory.make_result("none", seed=seed, config={"federation.lr": 0.3}),
            factory.make_result("none", seed=seed, federation="local"),
        ):
            lost = 0.1 * (made.algorithm == "dpsgd")
            classes = {"0": 0.9 - 2 * lost, "1": 0.8 - 6 * lost}
            found.append(replace(made, score=replace(made.score, per_class=classes)))
    return found


@pytest.fixture
def rows(cells):
    return make_rows(cells)


@pytest.fixture
def prices(rows, cells):
    return {row.first.cell_id: price(row.cells, cells, 0.2) for row in rows if row.protected}


def test_the_csv_has_a_line_for_each_protection(rows, prices) -> None:
    every, first = csv.DictReader(io.StringIO(prices_csv(rows, prices)))
    assert (every["epsilon"], first["epsilon"]) == ("8.181", "infinite")
    assert (every["direction"], every["unit"], every["delta"]) == (
        "upper bound proved", "record", "1e-05",
    )  # fmt: skip
    assert (first["measured_epsilon_lower"], first["measured_ceiling"]) == ("1.5", "3.0")
    assert (first["measured_neighbouring"], first["measured_view"]) == (
        "add_remove", "server_updates",
    )  # fmt: skip
    assert first["measured_direction"] == "lower bound, measured"
    assert (every["measured_epsilon_lower"], every["measured_ceiling"]) == ("", "")
    assert first["exchange_rate"] == "no proof bought"
    assert (every["score_lost_seeds"], every["worst_class"]) == ("2", "1")
    assert every["worst_class_measure"] == "recall"
    assert float(every["worst_class_lost"]) == pytest.approx(0.6)
    assert (every["twin_differs"], every["local_differs"]) == ("federation.lr", "")
    assert prices_csv([row for row in rows if not row.protected], {}) == ""


def test_harm_is_told_of_every_site_and_every_class(rows, prices) -> None:
    row = next(row for row in rows if row.protected)
    lines = harm_lines(row, prices[row.first.cell_id])
    assert [line["measure"] for line in lines] == ["auc"] * 3 + ["recall"] * 2
    assert {line["who"] for line in lines[:3]} == {"site site1", "site site2", "site site3"}
    assert [line["who"] for line in lines[3:]] == ["class 1", "class 0"]
    assert lines[3]["lost"] == "0.600 [0.600, 0.600] (n=2)"
    found = list(csv.DictReader(io.StringIO(harm_csv(rows, prices))))
    assert len(found) == 2 * 5
    assert [float(one["lost"]) for one in found[3:5]] == pytest.approx([0.6, 0.2])
    assert (found[3]["kind"], found[3]["name"], found[3]["seeds"]) == ("class", "1", "2")


def test_the_price_table_names_the_measure_and_what_a_star_stands_for(rows, prices) -> None:
    (table,) = price_tables(rows, prices)
    line, values = table.lines[0], table.values[0]
    assert line["worst class"] == "recall of 1: 0.600 [0.600, 0.600] (n=2)"
    assert line["worst site"].startswith("auc of site")
    assert values["worst class"] == pytest.approx(0.6)
    assert line["score lost"].endswith("*")
    assert not line["federation gain left"].endswith("*")
    assert "differs in federation.lr as well" in notes([table])[-1]
    assert "differs in federation.lr as well" in " ".join(price_text([table]).split())
    assert not any(note.startswith("*") for note in notes([replace(table, differs=())]))


def test_a_falsified_claim_is_told_before_all_others(factory: ModuleType) -> None:
    verdicts = ("partial", "falsified", "partial", "proven")
    cells = [
        replace(factory.make_result(seed=seed), verdict=word) for seed, word in enumerate(verdicts)
    ]
    (row,) = make_rows(cells)
    assert verdict_text(row) == "falsified (1/4), partial and not audited (2/4), proven (1/4)"
