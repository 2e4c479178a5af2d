"""What the comparison of sweeps concludes from the cells' results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedprivacy.cell import run_cell
from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.loading import to_cell_config
from fedprivacy.result import CellResult


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> CellResult:
    words = ["federation.rounds=1", "privacy=seeded", "tracking.enabled=false"]
    with hydra_ready():
        config = to_cell_config(compose_cell(words))
    folder: Path = tmp_path_factory.mktemp("cell")
    return run_cell(config, folder)


@pytest.fixture
def sweep_speed(scripts: Any) -> Any:
    return scripts("sweep_speed")


def test_results_that_differ_in_time_alone_are_the_same(sweep_speed, result) -> None:
    slower = replace(result, timing_s={"total": 1e3}, overrides=("sweep.workers=2",))
    assert sweep_speed.differing([result], [slower]) == []


@pytest.mark.parametrize(
    "changes", [{"rounds": ()}, {"score": None}, {"privacy": None}, {"status": "failed"}]
)
def test_any_other_difference_is_told(sweep_speed, result, changes: dict[str, Any]) -> None:
    assert sweep_speed.differing([result], [replace(result, **changes)]) == [result.cell_id]


def test_a_cell_that_the_other_run_lacks_is_told(sweep_speed, result) -> None:
    assert sweep_speed.differing([result], []) == [result.cell_id]


def test_cells_that_failed_or_are_missing_are_not_measured(sweep_speed, result) -> None:
    assert sweep_speed.unsound([result, replace(result, status="collapsed")], 2) == []
    failed = replace(result, status="failed", reason="no disk")
    told = sweep_speed.unsound([failed], 3)
    assert told == [f"{result.cell_id}: no disk", "2 of 3 cells left no result"]
