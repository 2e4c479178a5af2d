from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fedprivacy.report.canvas import style
from fedprivacy.report.curves import curves_figure
from fedprivacy.report.palette import algorithm_look
from fedprivacy.report.rows import Row, make_rows


def draw(rows: list[Row]) -> Any:
    with style():
        figure = curves_figure(rows)
        figure.canvas.draw()
    return figure


def texts(figure: Any) -> list[str]:
    found = [text.get_text() for text in figure.texts]
    return found + [text.get_text() for axes in figure.axes for text in axes.texts]


def panel(figure: Any, title: str) -> Any:
    (found,) = [a for a in figure.axes if any(t.get_text() == title for t in a.texts)]
    return found


@pytest.fixture(scope="module")
def rows(factory: ModuleType) -> list[Row]:
    return [row for row in make_rows(factory.demo_results()) if row.first.dataset == "ixi_tiny"]


@pytest.fixture(scope="module")
def figure(rows: list[Row]) -> Any:
    return draw(rows)


def test_there_is_a_panel_for_each_algorithm_and_schedule(figure: Any) -> None:
    assert len(figure.axes) == 9
    lefts = {round(axes.get_position().x0, 3) for axes in figure.axes}
    tops = {round(axes.get_position().y1, 3) for axes in figure.axes}
    assert (len(lefts), len(tops)) == (3, 3)


def test_the_thick_line_is_the_global_score(figure: Any, rows: list[Row]) -> None:
    (row,) = [r for r in rows if r.algorithm == "dpsgd" and r.schedule == "every_nth"]
    axes = panel(figure, "dpsgd, every_nth")
    (thick,) = [line for line in axes.lines if line.get_linewidth() == 2.0]
    np.testing.assert_allclose(thick.get_ydata(), [b.score for b in row.first.rounds])
    assert thick.get_color() == algorithm_look("dpsgd").colour
    drawn = [tuple(line.get_ydata()) for line in axes.lines]
    for site in ("Guys", "HH", "IOP"):
        assert tuple(b.score_per_site[site] for b in row.first.rounds) in drawn


def test_protected_rounds_are_marked_at_the_foot(figure: Any) -> None:
    (marks,) = [
        line
        for line in panel(figure, "dpsgd, every_nth").lines
        if line.get_linestyle() == "None" and line.get_marker() == "s"
    ]
    assert list(marks.get_xdata()) == [1, 3, 5, 7]


def test_baselines_and_chance_are_reference_lines(figure: Any, rows: list[Row]) -> None:
    axes = panel(figure, "svt, first_round")
    levels = {line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1}
    for federation in ("central", "local"):
        (row,) = [r for r in rows if not r.protected and r.first.federation == federation]
        assert row.score.mean in levels
    assert 0.46 in levels
    (twin,) = [r for r in rows if not r.protected and r.first.federation == "fedavg"]
    drawn = [tuple(line.get_ydata()) for line in axes.lines]
    assert tuple(b.score for b in twin.first.rounds) in drawn


def test_titles_say_what_is_synthetic_and_what_is_proved(figure: Any) -> None:
    found = texts(figure)
    assert "ixi_tiny (synthetic stand-in): dice on held-out records" in found
    assert "ε = 8.18, record; protected 8/8 rounds" in found
    assert "ε infinite; 2.22 over 1/8 rounds, record" in found
    assert any("δ=1e-5, seeded noise (a simulation)" in text for text in found)


def test_collapsed_and_failed_panels_say_so(figure: Any) -> None:
    assert any("collapsed in round 3" in text for text in texts(figure))
    assert any("failed\nsite Guys failed" in text for text in texts(figure))
    (against,) = [text for text in texts(figure) if "twin" in text]
    assert against.endswith("collapsed against its twin")
    assert any(text.get_text() == against for text in panel(figure, "svt, every_nth").texts)


def test_texts_do_not_run_into_each_other_or_off_the_picture(factory: ModuleType) -> None:
    results = [
        factory.make_result(algorithm, schedule, seed=seed, config=config)
        for seed in range(2)
        for schedule in ("every_round", "every_nth")
        for algorithm, config in (
            ("none", {}),
            ("dpsgd", {}),
            ("gaussian", {}),
            ("gaussian", {"algorithm.percentile": 50.0, "algorithm.sigma0": 0.001}),
        )
    ]
    figure = draw(make_rows({result.cell_id: result for result in results}.values()))
    boxes = [t.get_window_extent() for t in figure.texts if t.get_text()]
    boxes += [t.get_window_extent() for a in figure.axes for t in a.texts]
    boxes += [legend.get_window_extent() for legend in figure.legends]
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
        boxes += [label.get_window_extent() for at, label in ticks if low <= at <= high]
    for index, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        for other in boxes[index + 1 :]:
            assert not box.overlaps(other), (box, other)


def test_many_sites_become_one_entry(factory: ModuleType) -> None:
    from dataclasses import replace

    result = factory.make_result()
    sites = {f"s{index}": 0.5 for index in range(9)}
    many = replace(result, rounds=tuple(replace(b, score_per_site=sites) for b in result.rounds))
    (legend,) = draw(make_rows([many])).legends
    assert "each site" in [text.get_text() for text in legend.get_texts()]


def test_baselines_alone_and_failures_alone_are_drawn(factory: ModuleType) -> None:
    baselines = [factory.make_result("none", federation=f) for f in ("fedavg", "local")]
    assert len(draw(make_rows(baselines)).axes) == 2
    assert len(draw(make_rows([factory.failed_result()])).axes) == 1


def test_each_setting_has_the_baselines_of_its_own(factory: ModuleType) -> None:
    cells = []
    for size, reached in (("demo", 0.3), ("full", 0.7)):
        config = {"dataset.size": size}
        cells.append(factory.make_result("dpsgd", config=config))
        cells.append(factory.make_result("none", config=config))
        local = {"federation": "local", "config": config, "reached": reached}
        cells.append(factory.make_result("none", **local))
    rows = make_rows(cells)
    figure = draw(rows)
    for size in ("demo", "full"):
        [row] = [r for r in rows if r.first.federation == "local" and size in r.variant]
        axes = panel(figure, f"dpsgd size={size}, every_round")
        dotted = [line for line in axes.lines if len(set(line.get_ydata())) == 1]
        levels = {float(line.get_ydata()[0]) for line in dotted}
        others = {r.score.mean for r in rows if r.first.federation == "local"} - {row.score.mean}
        assert row.score.mean in levels
        assert not others & levels


def test_a_twin_of_each_site_alone_looks_like_the_baseline_that_it_is(factory: ModuleType) -> None:
    cells = [factory.make_result(name, federation="local") for name in ("dpsgd", "none")]
    figure = draw(make_rows(cells))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "local, no protection" in names
    assert "fedavg, no protection" not in names
