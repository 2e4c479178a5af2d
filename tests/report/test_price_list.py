"""The price list's panels never mix claims of different kinds; infinite has a place of its own."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from types import ModuleType

import pytest

from fedprivacy.pricing.price import price
from fedprivacy.report.audit_figure import audit_figure, falsified
from fedprivacy.report.price_csv import prices_csv
from fedprivacy.report.price_list import price_list_figure
from fedprivacy.report.price_points import panels
from fedprivacy.report.price_table import (
    NO_BOUND,
    clinician,
    price_tables,
    price_text,
    verdict_text,
)
from fedprivacy.report.rows import make_rows


@pytest.fixture
def rows(factory: ModuleType):
    dpsgd = [
        factory.stated(factory.make_result("dpsgd", schedule), "record", "zero_out",
               {"server_updates": eps, "aggregate": eps, "final_model": eps}, eps)
        for schedule, eps in (("every_round", 8.0), ("first_round", None))
    ]  # fmt: skip
    central = factory.stated(
        factory.make_result("svt"), "site", "zero_out",
        {"server_updates": None, "aggregate": 4.0, "final_model": 4.0},
    )  # fmt: skip
    return make_rows([*dpsgd, central, factory.make_result("none")])


def test_one_panel_for_each_kind_of_claim(rows) -> None:
    found = panels(rows)
    assert list(found) == [
        ("record", "zero_out", "server_updates", 1e-5),
        ("site", "zero_out", "server_updates", 1e-5),
        ("site", "zero_out", "aggregate", 1e-5),
    ]
    # Where nothing is proved the row stands at infinity, and is not dropped.
    assert [p.epsilon for p in found["site", "zero_out", "server_updates", 1e-5]] == [math.inf]
    record = found["record", "zero_out", "server_updates", 1e-5]
    assert sorted(point.epsilon for point in record) == [8.0, math.inf]
    assert {point.row.first.algorithm for point in record} == {"dpsgd"}


def test_infinite_has_a_tick_of_its_own(rows) -> None:
    figure = price_list_figure(rows, 0.2)
    for axes in figure.axes:
        labels = [tick.get_text() for tick in axes.get_xticklabels()]
        assert labels[-1] == "infinite"
        assert len(set(labels)) == len(labels) >= 3
        place = axes.get_xticks()[-1]
        assert axes.get_xlim()[0] < place < axes.get_xlim()[1]
    assert "synthetic" in figure.get_suptitle()


def test_without_protection_there_is_no_list(factory: ModuleType) -> None:
    assert price_list_figure(make_rows([factory.make_result("none")]), 0.2) is None
    assert price_text(price_tables([], {})) == "no protection to price\n"


def test_a_clinician_is_told_only_what_is_proved_for_patients(rows, factory: ModuleType) -> None:
    every, first = (r for r in rows if r.first.algorithm == "dpsgd")
    said = clinician(every.privacy, "patients")
    assert said.startswith("any attacker who tolerates 1 % false alarms finds at most 5.0 % of the")
    assert "zero_out" in said
    assert clinician(first.privacy, "patients") == NO_BOUND
    whole = {
        "per_unit": {
            "patient": factory.claim("patient", "zero_out", "server_updates", 9.0, 0.99301)
        }
    }
    assert "excludes next to nothing (proved: epsilon" in clinician(whole, "patients")
    assert "100 %" not in clinician(whole, "patients")
    assert clinician(None, "patients") == NO_BOUND


def test_a_patient_with_several_records_has_a_panel_and_a_figure_of_its_own(
    factory: ModuleType,
) -> None:
    made = factory.stated(
        factory.make_result("dpsgd"), "record", "zero_out", {"server_updates": 8.9}, patient=52.5
    )
    same = factory.stated(
        factory.make_result("dpsgd"), "record", "zero_out", {"server_updates": 8.9}, patient=8.9
    )
    [row] = make_rows([made])
    kinds = {kind[0]: points for kind, points in panels([row]).items()}
    assert [p.epsilon for p in kinds["patient"]] == [52.5]
    assert [p.epsilon for p in kinds["record"]] == [8.9]
    assert {kind[0] for kind in panels(make_rows([same]))} == {"record"}
    prices = {row.first.cell_id: price([made], [made], 0.2)}
    [table] = price_tables([row], prices)
    assert table.lines[0]["of one"].endswith("delta 1e-5; of one patient 52.50")
    [line] = csv.DictReader(io.StringIO(prices_csv([row], prices)))
    about = ("patient_epsilon", "patient_neighbouring", "patient_view")
    assert [line[key] for key in about] == ["52.5", "zero_out", "server_updates"]
    said = table.lines[0]["clinician"]
    assert "of the patients" not in said, "HIGGS has none, and these are made up"
    assert "made-up events (proved: epsilon 52.50 of each, zero_out, view server_updates" in said


def test_an_audit_that_could_show_nothing_has_a_mark_of_its_own(factory: ModuleType) -> None:
    audit = {
        "epsilon_lower": 0.0, "ceiling": 0.0, "confidence": 0.95, "delta": 1e-5, "unit": "record",
        "neighbouring": "add_remove", "view": "server_updates",
        "per_view": {"server_updates": {"epsilon_lower": 0.0, "ceiling": 0.0}},
    }  # fmt: skip
    made = factory.stated(
        factory.make_result("dpsgd"), "record", "zero_out", {"server_updates": 8.9}, 8.9
    )
    figure = price_list_figure(make_rows([replace(made, audit=audit)]), 0.2)
    [axes] = figure.axes
    markers = [line.get_marker() for line in axes.lines]
    assert markers.count("x") == 1, "one mark: it found nothing and could have shown nothing"
    assert not {"<", 7}.intersection(markers)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "audit could show nothing" in names
    assert not {"measured 0", "most it could show", "nothing proved"}.intersection(names)


def test_what_nobody_audited_is_not_said_to_have_been_looked_at(factory: ModuleType) -> None:
    part = replace(factory.make_result("dpsgd", "first_round"), verdict="partial", audit=None)
    seen = replace(factory.make_result("dpsgd", "first_round", seed=1), verdict="partial")
    audit = {"epsilon_lower": 0.0, "ceiling": 1.0, "claim": {"rejected": False}}
    untested = replace(seen, seed=2, audit={**audit, "claim": {"rejected": None}})
    [row] = make_rows([part, replace(seen, audit=audit), untested])
    assert verdict_text(row) == (
        "partial (1/3), partial and not audited (1/3), partial, claim not tested (1/3)"
    )


def test_audits_are_drawn_and_counted(factory: ModuleType) -> None:
    claimed = {"rejected": True, "could_reject": True}
    audit = {
        "epsilon_lower": 2.5, "ceiling": 3.0, "confidence": 0.95, "delta": 1e-5, "claim": claimed
    }  # fmt: skip
    cells = [
        replace(factory.make_result("dpsgd", "first_round", seed=s), audit=audit, verdict=v)
        for s, v in enumerate(("falsified", "partial"))
    ]
    shown = make_rows([*cells, factory.make_result("none")])
    assert "rejected in 1 of 2 audited cells that make it (2 of them could" in falsified(shown)
    silent = replace(cells[1], audit={**audit, "claim": {"rejected": None}})
    assert "in 1 of 1" in falsified(make_rows([cells[0], silent]))
    assert "1 more make no claim" in falsified(make_rows([cells[0], silent]))
    assert "None of the 1 audited cells" in falsified(make_rows([silent]))
    assert "is 2.50, of at most 3.00 that its audit could have shown" in falsified(shown)
    figure = audit_figure(shown)
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["dpsgd, first_round"]
    assert axes.get_xticklabels()[-1].get_text() == "infinite"
    assert audit_figure(make_rows([factory.make_result("none")])) is None
    assert falsified([]) == ""


def test_what_is_infinite_for_a_record_stands_in_every_panel_of_records(
    factory: ModuleType,
) -> None:
    """Nothing proved is nothing proved, whatever relation it was asked for; a number is not."""
    dpsgd = factory.stated(factory.make_result("dpsgd"), "record", "zero_out",
                   {"server_updates": 8.0, "aggregate": 8.0, "final_model": 8.0})  # fmt: skip
    views = {"server_updates": None, "aggregate": None, "final_model": None}
    audit = {"epsilon_lower": 2.5, "ceiling": 3.0, "confidence": 0.95, "delta": 1e-5,
             "unit": "record", "neighbouring": "zero_out", "view": "server_updates"}  # fmt: skip
    raw, bounded = (
        factory.stated(factory.make_result(name), "site", "replace_one", views)
        for name in ("svt", "gaussian")
    )
    for number, (cell, epsilon) in enumerate(((raw, None), (bounded, 24.0))):
        record = factory.claim("record", "replace_one", "server_updates", epsilon)
        changed = {**cell.privacy, "per_unit": {"record": record}}
        both = replace(cell, privacy=changed, audit=audit)
        raw, bounded = (both, bounded) if number == 0 else (raw, both)
    found = panels(make_rows([dpsgd, raw, bounded]))
    record = {p.row.first.algorithm: p for p in found["record", "zero_out", "server_updates", 1e-5]}
    assert set(record) == {"dpsgd", "svt"}, "24 under another relation says nothing here"
    assert math.isinf(record["svt"].epsilon)
    assert (record["svt"].lower, record["svt"].ceiling) == (2.5, 3.0)


def test_the_zone_of_collapse_reaches_down_and_hollow_means_nothing_proved(rows) -> None:
    figure = price_list_figure(rows, 0.2)
    for axes in figure.axes:
        bottom = axes.get_ylim()[0]
        for patch in axes.patches:
            assert patch.get_extents().y0 <= axes.transData.transform((0, bottom))[1] + 1
        points = [line for line in axes.lines if str(line.get_gid()).startswith("point-")]
        infinite = axes.get_xticks()[-1]
        for line in points:
            hollow = line.get_markerfacecolor() == "white"
            assert hollow == (abs(line.get_xdata()[0] - infinite) < 0.2)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"nothing proved", "collapse"} < set(names)
    assert "measured 0" not in names, "nobody looked"
    handles = zip(figure.legends[0].legend_handles, names, strict=True)
    hollow = {
        name: mark.get_markerfacecolor() == "white" for mark, name in handles if name[0] in "123"
    }
    assert hollow == {
        "1  dpsgd, every_round": False, "2  dpsgd, first_round": True, "3  svt, every_round": False,
    }  # fmt: skip
