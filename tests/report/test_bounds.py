"""Measured bounds stand with their ceilings, and only beside claims that they are about."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from types import ModuleType

import pytest

from fedprivacy.report.bounds import bound_lines, bounds, bounds_csv, measured
from fedprivacy.report.price_points import panels
from fedprivacy.report.price_table import measured_text
from fedprivacy.report.rows import make_rows
from fedprivacy.tracking.content import metrics

LOWER = {"server_updates": 2.5, "aggregate": 1.2, "final_model": 0.4}
ASSUMED = "f_dp_if_the_curve_is_gaussian"


def audit(lower: dict[str, float] | None = None, **changes) -> dict:
    """An audit block as ``assess`` leaves it."""
    found = LOWER if lower is None else lower
    per_view = {
        view: {
            "epsilon_lower": epsilon,
            "ceiling": 3.0,
            "confidence": 0.95,
            "method": "one run",
            "delta": 1e-5,
            "under_assumptions": {
                ASSUMED: {
                    "epsilon_lower": epsilon + 0.5,
                    "ceiling": 4.0,
                    "method": "against curves",
                    "assumption": "the trade-off curve is a Gaussian one",
                }
            },
        }
        for view, epsilon in found.items()
    }
    best = max(per_view.values(), key=lambda item: item["epsilon_lower"])
    top = {key: best[key] for key in ("epsilon_lower", "ceiling", "confidence", "delta", "method")}
    about = {"unit": "record", "neighbouring": "add_remove", "view": "server_updates"}
    return {**top, **about, "per_view": per_view, **changes}


@pytest.fixture
def row(factory: ModuleType):
    """DP-SGD in every round over two seeds; the second seed's audit found less in updates."""
    less = audit({**LOWER, "server_updates": 1.0, "final_model": 0.7})
    cells = [replace(factory.make_result(seed=s), audit=a) for s, a in enumerate((audit(), less))]
    (made,) = make_rows(cells)
    return made


@pytest.mark.parametrize(
    ("view", "lower"), [("server_updates", 2.5), ("aggregate", 1.2), ("final_model", 0.7)]
)
def test_a_view_is_told_what_was_shown_with_it_or_with_less(row, view, lower) -> None:
    found = measured(row, "record", "zero_out", view, 1e-5)
    assert (found.lower, found.ceiling) == (lower, 3.0)
    assert found.view == view


@pytest.mark.parametrize(
    ("unit", "relation", "delta"),
    [("record", "replace_one", 1e-5), ("site", "zero_out", 1e-5), ("record", "zero_out", 1e-4)],
)
def test_claims_of_another_kind_are_told_nothing(row, unit, relation, delta) -> None:
    assert measured(row, unit, relation, "server_updates", delta) is None


def test_a_stronger_view_than_the_claims_is_no_evidence_against_it(factory: ModuleType) -> None:
    seen = audit({"server_updates": 2.5})
    (made,) = make_rows([replace(factory.make_result(), audit=seen)])
    assert measured(made, "record", "zero_out", "final_model", 1e-5) is None
    unstated = {"epsilon_lower": 2.5, "ceiling": 3.0, "confidence": 0.95, "delta": 1e-5}
    (made,) = make_rows([replace(factory.make_result(), audit=unstated)])
    assert measured(made, "record", "zero_out", "server_updates", 1e-5) is None


def test_each_panel_of_the_price_list_has_its_own_lower_end(factory: ModuleType) -> None:
    made = factory.make_result("svt")
    views = ("server_updates", "aggregate", "final_model")
    claims = {
        v: {"unit": "record", "neighbouring": relation, "view": v, "epsilon": eps,
            "infinite": eps is None}
        for v, relation, eps in zip(
            views, ("zero_out", "zero_out", "replace_one"), (None, 4.0, 4.0), strict=True
        )
    }  # fmt: skip
    about = {"unit": "record", "neighbouring": "zero_out", "view": "server_updates"}
    privacy = {**made.privacy, **about, "per_view": claims}
    other = {
        **privacy, "view": "final_model", "neighbouring": "replace_one", "infinite": False,
        "epsilon": 4.0,
    }  # fmt: skip
    cells = [
        replace(made, audit=audit(), privacy=privacy),
        replace(factory.make_result("gaussian"), privacy=other),
    ]
    found = panels(make_rows(cells))
    lowers = {
        kind[1:3]: next(p.lower for p in points if p.row.first.algorithm == "svt")
        for kind, points in found.items()
    }
    assert lowers == {
        ("zero_out", "server_updates"): 2.5,
        ("zero_out", "aggregate"): 1.2,
        ("replace_one", "final_model"): None,
    }


def test_every_bound_of_every_cell_and_view_has_its_ceiling(row) -> None:
    lines = bound_lines([row])
    assert len(lines) == 2 * 3 * 2
    assert all(float(line["ceiling"]) >= float(line["epsilon at least"]) for line in lines)
    assert {line["confidence"] for line in lines} == {"0.95"}
    assert {line["assumes"] for line in lines[::2]} == {"none"}
    assert {line["assumes"] for line in lines[1::2]} == {"the trade-off curve is a Gaussian one"}
    assert {line["of one"] for line in lines} == {"record, add_remove, delta 1e-5"}
    rows = list(csv.DictReader(io.StringIO(bounds_csv([row]))))
    assert [(r["view"], r["epsilon_lower"], r["ceiling"]) for r in rows[:3]] == [
        ("server_updates", "2.5", "3.0"),
        ("server_updates", "3.0", "4.0"),
        ("aggregate", "1.2", "3.0"),
    ]
    assert {r["direction"] for r in rows} == {"lower bound measured"}
    assert bounds_csv([]) == ""


def test_results_of_an_earlier_version_say_that_their_ceiling_is_unknown(
    factory: ModuleType,
) -> None:
    block = audit({"final_model": 0.4})
    block["per_view"]["final_model"]["under_assumptions"] = {ASSUMED: 1.5}
    cell = replace(factory.make_result(), audit=block)
    plain, assumed = bounds(cell)
    assert (plain.ceiling, plain.assumption) == (3.0, "")
    assert (assumed.lower, assumed.ceiling, assumed.assumption) == (1.5, None, ASSUMED)
    assert assumed.text() == ">= 1.50 (ceiling unknown)"


def test_the_price_table_says_of_what_it_was_measured(factory: ModuleType, row) -> None:
    assert (
        measured_text(row)
        == ">= 2.50 of one record, add_remove (ceiling 3.00, 2 audited, 90 % confidence)"
    )
    (site,) = make_rows([replace(factory.make_result("svt"), audit=audit())])
    assert (
        measured_text(site)
        == ">= 2.50 of one record, add_remove (ceiling 3.00, 1 audited, 95 % confidence)"
    )


def test_mlflow_has_the_ceiling_beside_the_bound(row) -> None:
    points = {key: value for key, _, value in metrics(row.first)}
    assert (points["audit/epsilon_lower"], points["audit/ceiling"]) == (2.5, 3.0)
