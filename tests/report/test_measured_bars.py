"""Measured bars keep apart, stay near their points and stay inside the panel."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprivacy.report.measured_bars import BAR_NUMBER, levels
from fedprivacy.report.point_numbers import BARS
from fedprivacy.report.price_list import price_list_figure
from fedprivacy.report.rows import make_rows


@given(st.lists(st.floats(-1, 1), max_size=8), st.floats(0.01, 0.5))
def test_levels_rise_by_what_is_asked_for_and_keep_their_middle(
    heights: list[float], apart: float
) -> None:
    heights.sort()
    found = levels(heights, apart)
    assert len(found) == len(heights)
    assert all(b - a >= apart - 1e-9 for a, b in itertools.pairwise(found))
    assert sum(found) == pytest.approx(sum(heights), abs=1e-9)


def test_heights_that_are_apart_already_stay() -> None:
    assert levels([0.0, 0.5, 0.9], 0.3) == pytest.approx([0.0, 0.5, 0.9])
    assert levels([0.5, 0.5, 0.9], 0.2) == pytest.approx([0.4, 0.6, 0.9])
    assert levels([], 1.0) == []


def test_bars_of_equal_scores_are_drawn_apart_inside_the_panel(factory: ModuleType) -> None:
    audit = {
        "epsilon_lower": 0.5, "ceiling": 1.0, "confidence": 0.95, "delta": 1e-5, "unit": "record",
        "neighbouring": "add_remove", "view": "server_updates",
        "per_view": {"server_updates": {"epsilon_lower": 0.5, "ceiling": 1.0}},
    }  # fmt: skip
    cells = [
        replace(
            factory.stated(
                factory.make_result("dpsgd", schedule), "record", "zero_out",
                {"server_updates": epsilon}, epsilon,
            ),
            audit=audit,
            score=factory.make_result("dpsgd").score,
        )
        for schedule, epsilon in (("every_round", 8.0), ("every_nth", 4.0), ("first_round", 2.0))
    ]  # fmt: skip
    figure = price_list_figure(make_rows(cells), 0.2)
    assert figure is not None
    [axes] = figure.axes
    flat = sorted(heights(axes))
    assert len(flat) == len(cells)
    named = {text.get_text(): text.xy[1] for text in axes.texts if text.get_gid() == BAR_NUMBER}
    assert sorted(named) == ["1", "2", "3"]
    assert sorted(named.values()) == pytest.approx(flat)
    bottom, top = axes.get_ylim()
    assert bottom < flat[0] < flat[-1] < top
    pixels = axes.transData.transform([(0.0, y) for y in flat])[:, 1]
    assert all(b - a > 4 * figure.dpi / 72 for a, b in itertools.pairwise(pixels))


def heights(axes: Any) -> list[float]:
    """Of the bars that lie; those that stand are standard errors and joints."""
    bars = [line.get_xydata() for line in axes.lines if line.get_gid() == BARS]
    return [float(a[1]) for a, b in bars if a[1] == b[1] and a[0] != b[0]]
