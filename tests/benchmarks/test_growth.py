"""What the growth of cost concludes from what it measured."""

from __future__ import annotations

from typing import Any

import pytest

AXES = ("sites", "rounds", "changing rounds", "records", "parameters")
SIZES = (10, 20, 40, 80, 160, 320)


@pytest.fixture
def growth(scripts: Any) -> Any:
    return scripts("growth")


def series(power: float, start: float = 0.0) -> dict[str, list[tuple[int, float]]]:
    return {axis: [(size, start + size**power) for size in SIZES] for axis in AXES}


def rows_of(memory: dict[str, list[float]]) -> dict[str, list[dict[str, Any]]]:
    flat = [1.0] * len(SIZES)
    return {
        axis: [
            {"size": size, "memory_mib": mib, "accounting_memory_mib": 2.0}
            for size, mib in zip(SIZES, memory.get(axis, flat), strict=True)
        ]
        for axis in AXES
    }


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 1.7])
def test_a_power_is_found_again(growth, power: float) -> None:
    assert growth.exponents(series(power)) == dict.fromkeys(AXES, power)
    assert growth.last_steps(series(power)) == dict.fromkeys(AXES, power)


def test_what_does_not_grow_does_not_hide_what_does(growth) -> None:
    # All points together would show less: 5000 s of a constant in front of a square.
    points = series(2.0, 5000.0)["sites"]
    assert growth.slope(points) < 1.1 < growth.exponent(points) < 2.0


def test_growth_in_proportion_misses_nothing(growth) -> None:
    assert growth.missed_of(rows_of({}), series(1.0), series(1.0)) == []


def test_growth_faster_than_that_is_told_for_sites_and_rounds_alone(growth) -> None:
    missed = growth.missed_of(rows_of({}), series(1.0), series(1.4))
    assert [text.split(" by ")[0] for text in missed] == [
        f"time with accounting grows with {axis}" for axis in AXES[:3]
    ]


def test_a_last_step_that_bends_upwards_is_told(growth) -> None:
    points = series(0.9)
    points["sites"][-1] = (320, 2.5 * points["sites"][-2][1])
    (missed,) = growth.missed_of(rows_of({}), points, series(1.0))
    assert "grows with sites" in missed


def test_memory_that_rises_with_rounds_is_told(growth) -> None:
    flat, rising = [5.0, 6.0, 5.0, 7.0, 9.0, 12.0], [5.0, 6.0, 8.0, 10.0, 12.0, 14.0]
    assert growth.missed_of(rows_of({"rounds": flat}), series(1.0), series(1.0)) == []
    (missed,) = growth.missed_of(rows_of({"rounds": rising}), series(1.0), series(1.0))
    assert missed.startswith("memory_mib grows with rounds")
