"""Ratios of engines are taken between runs that were neighbours in time."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def overhead(scripts: Any) -> Any:
    return scripts("engine_overhead")


def runs(overhead: Any, *seconds: float) -> list[Any]:
    return [overhead.Timed(wall=one, cpu=one / 2, weights="same") for one in seconds]


def test_each_run_stands_beside_its_neighbour_and_a_long_one_beside_its_repeat(
    overhead: Any,
) -> None:
    """Two repeats of three turns; the machine was half as fast in the second."""
    found = {
        "bare": runs(overhead, 1.0, 1.0, 9.0, 2.0, 2.0, 2.0),
        "flat": runs(overhead, 0.5, 0.5, 0.5, 1.0, 1.0, 8.0),
        "inprocess": runs(overhead, 1.5, 1.5, 13.5, 3.0, 3.0, 3.0),
        "ray": runs(overhead, 10.0, 20.0),
    }
    summary = overhead.summary(found)
    assert summary["ratios"] == {"inprocess": 1.5, "ray": 10.0}
    assert summary["ratios_cpu"] == {"inprocess": 1.5}
    assert summary["ratios_to_flat"] == {"inprocess": 3.0, "ray": 20.0}
    assert summary["ratios_to_flat_cpu"] == {"inprocess": 3.0}
    assert summary["median_s"] == {"bare": 2.0, "flat": 0.75, "inprocess": 3.0, "ray": 15.0}
