from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from fedprivacy.report.canvas import DPI, style
from fedprivacy.report.overview import overview_figure
from fedprivacy.report.palette import algorithm_look
from fedprivacy.report.rows import Row, make_rows


@pytest.fixture(scope="module")
def rows(factory: ModuleType) -> list[Row]:
    return make_rows(factory.demo_results())


@pytest.fixture(scope="module")
def figure(rows: list[Row]) -> Any:
    with style():
        figure = overview_figure(rows)
        figure.set_dpi(DPI)
        figure.canvas.draw()
    return figure


def panel(figure: Any, title: str) -> Any:
    (found,) = [a for a in figure.axes if any(t.get_text() == title for t in a.texts)]
    return found


def test_each_dataset_has_a_panel_that_says_whether_it_is_synthetic(figure: Any) -> None:
    assert len(figure.axes) == 4
    for name in ("higgs", "ixi_tiny", "breast_density"):
        assert panel(figure, f"{name} (synthetic stand-in)")
    assert panel(figure, "wisconsin (real records)")


def test_every_score_is_drawn_at_its_place(figure: Any, rows: list[Row]) -> None:
    axes = panel(figure, "higgs (synthetic stand-in)")
    points = {
        line.get_ydata()[0]: line for line in axes.lines if line.get_marker() not in ("None", "")
    }
    higgs = [row for row in rows if row.first.dataset == "higgs"]
    for place, row in enumerate(higgs):
        assert points[place].get_xdata()[0] == row.score.mean
        assert points[place].get_marker() == algorithm_look(row.first.algorithm).marker
        filled = points[place].get_markerfacecolor() != "white"
        assert filled == (row.algorithm == "dpsgd" and row.schedule == "every_round")


def test_twin_and_chance_run_through_the_panel(figure: Any, rows: list[Row]) -> None:
    axes = panel(figure, "higgs (synthetic stand-in)")
    levels = {line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]}
    (twin,) = [
        row
        for row in rows
        if not row.protected and row.first.federation == "fedavg" and row.first.dataset == "higgs"
    ]
    assert levels == {0.5, twin.score.mean}


def test_what_was_proved_stands_beside(figure: Any) -> None:
    words = [text.get_text() for text in panel(figure, "ixi_tiny (synthetic stand-in)").texts]
    assert words.count("ε = 8.18, record") == 1
    assert words.count("ε infinite, collapsed") == 1
    assert words.count("failed") == 1
    assert words.count("ε infinite, collapsed†") == 1
    assert words.count("ε infinite") == 5
    (small,) = [text.get_text() for text in figure.texts]
    assert "† against its twin: above chance by no more than 0.2 of" in " ".join(small.split())


def test_nothing_collides_at_the_width_of_a_readme(figure: Any) -> None:
    width, height = figure.get_size_inches()
    assert 9 <= width <= 11
    boxes = [t.get_window_extent() for axes in figure.axes for t in axes.texts]
    boxes += [t.get_window_extent() for t in figure.texts]
    boxes += [legend.get_window_extent() for legend in figure.legends]
    for index, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= width * DPI
        assert 0 <= box.y0 <= box.y1 <= height * DPI
        for other in boxes[index + 1 :]:
            assert not box.overlaps(other), (box, other)


def test_one_dataset_is_enough(factory: ModuleType) -> None:
    with style():
        assert len(overview_figure(make_rows([factory.make_result()])).axes) == 1
        assert len(overview_figure(make_rows([factory.failed_result()])).axes) == 1
