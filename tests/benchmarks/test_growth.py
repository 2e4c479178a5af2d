"""What the growth of cost concludes from what it measured."""

from __future__ import annotations

from typing import Any

import pytest

AXES = ("sites", "rounds", "changing rounds", "records", "parameters")
SIZES = (10, 20, 40, 80, 160, 320)
MEMORY = ("memory_mib", "accounting_memory_mib")


@pytest.fixture
def growth(scripts: Any) -> Any:
    return scripts("growth")


def series(power: float, start: float = 0.0) -> dict[str, list[tuple[int, float]]]:
    return {axis: [(size, start + size**power) for size in SIZES] for axis in AXES}


def rows_of(memory: dict[tuple[str, str], list[float]]) -> dict[str, list[dict[str, Any]]]:
    flat = [1.0] * len(SIZES)
    return {
        axis: [
            {"size": size, **{key: memory.get((axis, key), flat)[place] for key in MEMORY}}
            for place, size in enumerate(SIZES)
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


@pytest.mark.parametrize("axis", ["rounds", "changing rounds"])
@pytest.mark.parametrize(("key", "most"), [("memory_mib", 4.0), ("accounting_memory_mib", 8.0)])
def test_memory_that_rises_with_rounds_is_told(growth, axis: str, key: str, most: float) -> None:
    for rise, told in ((most - 0.1, []), (most + 0.1, [f"{key} grows with {axis}"])):
        rising = [5.0, 5.0, 5.0, 5.0 + rise / 2, 5.0 + rise, 5.0]
        missed = growth.missed_of(rows_of({(axis, key): rising}), series(1.0), series(1.0))
        assert [text.split(":")[0] for text in missed] == told
