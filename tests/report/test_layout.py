"""Pictures at the size they are seen: nothing collides, leaves the canvas or hides data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fedprivacy.audit.membership import membership
from fedprivacy.report.audit_figure import audit_figure, claim_kind, falsified
from fedprivacy.report.budgets import budget_figure
from fedprivacy.report.canvas import style
from fedprivacy.report.curves import curves_figure
from fedprivacy.report.measured_bars import BAR_NUMBER
from fedprivacy.report.overview import overview_figure
from fedprivacy.report.palette import look_of
from fedprivacy.report.price_list import price_list_figure
from fedprivacy.report.roc import Attack, attack_lines, roc_figure
from fedprivacy.report.rows import Row, make_rows
from fedprivacy.result import CellResult

Check = Callable[[Any], None]
LONG = {"algorithm.noise_multiplier": 12.3456, "algorithm.max_grad_norm": 0.123}


def draw(make: Callable[..., Any], *args: Any) -> Any:
    with style():
        figure = make(*args)
        figure.canvas.draw()
    return figure


def audited(cell: CellResult, lower: float, **changes: Any) -> CellResult:
    """The cell with an audit, and with a claim for one record of its own kind."""
    audit = {
        "epsilon_lower": lower, "ceiling": 3.3, "confidence": 0.95, "delta": 1e-5,
        "reconstruction": {"attack": "first layer", "mean_similarity": 0.3, "measure": "cosine"},
        **changes,
    }  # fmt: skip
    return replace(cell, audit=audit)


def claims(cell: CellResult, epsilon: float | None, relation: str = "zero_out") -> CellResult:
    record = {
        "unit": "record", "neighbouring": relation, "view": "server_updates", "epsilon": epsilon,
        "infinite": epsilon is None, "epsilon_protected": epsilon or 2.2,
    }  # fmt: skip
    return replace(cell, privacy={**(cell.privacy or {}), "per_unit": {"record": record}})


@pytest.fixture(scope="module")
def cells(factory: ModuleType) -> list[CellResult]:
    """Many audited settings of one dataset, with long names, and budgets up to a million."""
    found = []
    for seed in (0, 1):
        for number, epsilon in enumerate((10.0, 100.0, 1e4, 1e6)):
            more = {**LONG, "algorithm.noise_multiplier": 12.3456 + number}
            cell = factory.make_result("dpsgd", seed=seed, config=more, reached=0.5 + 0.1 * number)
            found.append(audited(claims(cell, epsilon), 0.4 * number))
        first = factory.make_result("dpsgd", "first_round", seed=seed)
        found.append(audited(claims(first, None), 2.9))
        svt = factory.make_result("svt", "every_nth", seed=seed)
        found.append(audited(svt, 1.0))
        clipped = factory.make_result("gaussian", seed=seed)
        found.append(audited(claims(clipped, 24.0, "replace_one"), 0.0))
        found.append(audited(factory.make_result("none", seed=seed), 3.0))
    return found


@pytest.fixture(scope="module")
def rows(cells: list[CellResult]) -> list[Row]:
    return make_rows(cells)


def attacks(rows: list[Row]) -> list[Attack]:
    rng = np.random.default_rng(0)
    found = []
    for row in rows:
        for name in ("updates", "loss threshold", "LiRA", "RMIA"):
            coins = rng.random(400) < 0.5
            scores = rng.normal(size=400) + coins
            found.append(Attack(name, row, scores, coins, membership(name, scores, coins)))
    return found


def test_audits_of_many_settings(rows: list[Row], check_layout: Check) -> None:
    figure = draw(audit_figure, rows)
    check_layout(figure)
    # Claims under two relations never share an axis.
    assert len(figure.axes) == len({claim_kind(row) for row in rows} - {None}) == 2
    about = [axes.get_xlabel() for axes in figure.axes]
    assert all(
        "epsilon of one record" in words and "view server_updates" in words for words in about
    )
    assert {words.split(", ")[1] for words in about} == {"zero_out", "replace_one"}


def test_a_price_lists_legend_fits_beside_short_names(
    factory: ModuleType, check_layout: Check
) -> None:
    view = {"server_updates": {"epsilon_lower": 0.5, "ceiling": 3.3}}
    cells = [
        audited(
            claims(factory.make_result(name), epsilon), 0.5, unit="record",
            neighbouring="add_remove", view="server_updates", per_view=view,
        )
        for name, epsilon in (("svt", 8.0), ("dpsgd", 3.0))
    ]  # fmt: skip
    figure = draw(price_list_figure, make_rows(cells), 0.2)
    check_layout(figure)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert max(names, key=len) == "measured at least, add_remove, 95 %"


def test_an_audits_title_says_what_its_attackers_see(factory: ModuleType) -> None:
    def cell(view: str, name: str = "dpsgd") -> CellResult:
        made = claims(factory.make_result(name), 8.0)
        privacy = {**made.privacy, "view": view}
        return replace(audited(made, 0.5, view=view, neighbouring="add_remove"), privacy=privacy)

    def title(*cells: CellResult) -> str:
        return draw(audit_figure, make_rows(cells)).texts[0].get_text()

    assert "an attacker who sees every update showed" in title(cell("server_updates"))
    last = draw(audit_figure, make_rows([cell("final_model")]))
    assert "an attacker who sees the final model alone showed" in last.texts[0].get_text()
    assert "view final_model" in last.axes[0].get_xlabel().split("\n")[1]
    assert "what an attacker showed" in title(cell("final_model"), cell("server_updates", "svt"))


def test_what_audits_measured_never_stands_beside_another_relation(factory: ModuleType) -> None:
    def axes(relation: str) -> Any:
        made = claims(factory.make_result("local_source"), 8.0, relation)
        [found] = draw(audit_figure, make_rows([audited(made, 0.5)])).axes
        return found

    beside, apart = axes("zero_out"), axes("replace_one")
    assert "o" in [line.get_marker() for line in beside.lines]
    assert "o" not in [line.get_marker() for line in apart.lines]
    assert "not comparable" in apart.get_xlabel()


def test_an_audits_legend_has_only_what_is_drawn(factory: ModuleType) -> None:
    def names(epsilon: float | None) -> list[str]:
        made = audited(claims(factory.make_result("dpsgd"), epsilon), 0.5)
        legend = draw(audit_figure, make_rows([made])).legends[0]
        return [text.get_text() for text in legend.get_texts()]

    assert "advertised: protected rounds alone" in names(None)
    assert "advertised: protected rounds alone" not in names(8.0)


def test_audits_of_another_confidence_have_a_panel_of_their_own(factory: ModuleType) -> None:
    cells = [
        audited(claims(factory.make_result(name), 8.0), 0.5, confidence=confidence)
        for name, confidence in (("dpsgd", 0.95), ("svt", 0.99))
    ]
    figure = draw(audit_figure, make_rows(cells))
    assert ["99 %" in axes.get_xlabel() for axes in figure.axes] == [False, True]


def test_long_names_of_datasets(factory: ModuleType, check_layout: Check) -> None:
    cells = []
    for number, epsilon in enumerate((10.0, 1e3, 1e6)):
        more = {"algorithm.noise_multiplier": 2.0 + number}
        cell = factory.make_result("dpsgd", dataset="breast_density", config=more)
        measure = {"attack": "x", "mean_similarity": 0.3, "measure": "structural similarity"}
        cells.append(audited(claims(cell, epsilon), 0.0, reconstruction=measure))
    rows = make_rows(cells)
    check_layout(draw(audit_figure, rows))
    check_layout(draw(budget_figure, rows))
    check_layout(draw(price_list_figure, rows, 0.2))
    check_layout(draw(roc_figure, attacks(rows)))


def test_an_audits_bound_is_told_with_its_ceiling(rows: list[Row]) -> None:
    assert "of at most 3.30 that its audit could have shown" in falsified(rows)


def test_membership_of_many_settings(rows: list[Row], check_layout: Check) -> None:
    figure = draw(roc_figure, attacks(rows))
    check_layout(figure)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    # Of four settings of DP-SGD in every round three are drawn, the first and the last among them.
    alike = [row.name for row in rows if row.name.endswith("every_round") and "dpsgd" in row.name]
    assert len(alike) == 4
    assert len(labels) == len(set(labels)) == len(rows) - 1 + 1
    assert set(labels) == {row.name for row in rows} - {alike[1]} | {"guessing"}
    assert "1 more in the table" in figure.get_suptitle()
    lines = figure.legends[0].get_lines()
    # An algorithm keeps its colour; no look is there twice, not even in grey.
    colours = {row.name: look_of(row.first.algorithm, row.first.federation) for row in rows}
    for label, line in zip(labels[:-1], lines, strict=False):
        assert line.get_color() == colours[label].colour
    looks = {
        (line.get_linestyle(), line.get_linewidth(), line.get_marker(), line.get_markerfacecolor())
        for line in lines
    }
    assert len(looks) == len(labels)
    grey = {(line.get_linestyle(), line.get_marker(), line.get_markerfacecolor() == "white")
            for line in figure.legends[0].get_lines()}  # fmt: skip
    assert len(grey) >= len(labels) - 1


def test_membership_lines_name_dataset_and_federation(rows: list[Row]) -> None:
    line = attack_lines(attacks(rows))[0]
    assert (line["dataset"], line["federation"]) == ("higgs", "fedavg")


def test_prices_of_many_settings(rows: list[Row], check_layout: Check) -> None:
    figure = draw(price_list_figure, rows, 0.2)
    check_layout(figure)
    for axes in figure.axes:
        of_points = [text for text in axes.texts if text.get_gid() != BAR_NUMBER]
        numbers = [text.get_text() for text in of_points]
        assert len(numbers) == len(set(numbers)) > 0
        # What stands at infinity stands side by side, so that no bar covers another point.
        points = [line for line in axes.lines if str(line.get_gid()).startswith("point-")]
        hollow = [line for line in points if line.get_markerfacecolor() == "white"]
        at = sorted(axes.transData.transform(line.get_xydata()[0])[0] for line in hollow)
        assert all(after - before > 5.5 for before, after in pairwise(at))
        # No number lies on the front, on a bar or beyond the panel.
        lines = [one for one in axes.lines if one.get_gid() in ("steps", "bars")]
        drawn = [one.get_path().transformed(one.get_transform()) for one in lines]
        for text in of_points:
            box = text.get_window_extent().shrunk(0.6, 0.5)
            assert axes.bbox.x0 <= box.x0 <= box.x1 <= axes.bbox.x1
            assert axes.bbox.y0 <= box.y0 <= box.y1 <= axes.bbox.y1 + 1
            assert not any(path.intersects_bbox(box, filled=False) for path in drawn)
    named = [text.get_text().split("  ")[0] for text in figure.legends[0].get_texts()]
    assert {text.get_text() for axes in figure.axes for text in axes.texts} <= set(named)


def test_budgets(rows: list[Row], check_layout: Check) -> None:
    figure = draw(budget_figure, rows)
    check_layout(figure)
    assert "one record" in figure.axes[0].get_xlabel()
    assert "zero_out" in figure.axes[0].get_xlabel()


@pytest.mark.parametrize("status", ["collapsed", "failed"])
def test_how_a_row_ended_covers_no_curve(
    factory: ModuleType, check_layout: Check, status: str
) -> None:
    cells = [cell for cell in factory.demo_results() if cell.dataset == "ixi_tiny"]
    rows = make_rows(cells)
    assert any(status in row.status for row in rows)
    figure = draw(curves_figure, rows)
    check_layout(figure)
    for axes in figure.axes:
        inside = axes.get_window_extent()
        for text in axes.texts:
            assert text.get_window_extent().y0 >= inside.y1 - 1, text.get_text()


def test_the_overview_of_two_sweeps_stays_readable(
    factory: ModuleType, cells: list[CellResult], check_layout: Check
) -> None:
    figure = draw(overview_figure, make_rows([*factory.demo_results(), *cells]))
    check_layout(figure)
    assert figure.get_figwidth() <= 14


def test_rows_of_two_federations_are_told_apart(factory: ModuleType, check_layout: Check) -> None:
    cells = [
        audited(claims(factory.make_result(name, federation=federation), None), 1.0)
        for name in ("none", "dpsgd")
        for federation in ("fedavg", "local")
    ]
    figure = draw(audit_figure, make_rows(cells))
    check_layout(figure)
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert sorted(names) == [
        "dpsgd, every_round", "dpsgd, every_round, local", "without protection",
        "without protection, local",
    ]  # fmt: skip
