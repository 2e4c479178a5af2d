"""Which cells of a sweep begin first."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedprivacy.config.store import register
from fedprivacy.sweep.plan import make_plan
from fedprivacy.sweep.runner import expected_work, longest_first

ORDER = [
    ("ixi_tiny", "dpsgd", 8), ("breast_density", "dpsgd", 8), ("ixi_tiny", "none", 8),
    ("breast_density", "none", 8), ("ixi_tiny", "none", 2), ("wisconsin", "none", 8),
]  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
def test_longest_first(tmp_path: Path, seed: int) -> None:
    """Volumes before images before tables, protected before plain, many rounds before few."""
    register()
    words = [
        "dataset=wisconsin,breast_density,ixi_tiny", "algorithm=none,dpsgd", "dataset.size=demo",
        "federation.rounds=2,8", f"seed={seed}", f"hydra.sweep.dir={tmp_path}",
        "hydra.mode=MULTIRUN", "sweep.twins=false",
    ]  # fmt: skip
    cells = make_plan(words).cells
    assert len(cells) == 12
    found = [
        (cell.config.dataset.name, cell.config.algorithm.name, cell.config.federation.rounds)
        for cell in longest_first(cells)
    ]
    assert [one for one in found if one in ORDER] == ORDER
    assert sorted(found) == sorted(
        (c.config.dataset.name, c.config.algorithm.name, c.config.federation.rounds) for c in cells
    )


def test_the_longest_cell_is_handed_out_first(tmp_path: Path) -> None:
    """Whatever the order of the grid, and cells of equal length keep theirs."""
    register()
    words = [
        "dataset=wisconsin", "algorithm=none", "federation.rounds=1,4,2", "seed=0,1",
        f"hydra.sweep.dir={tmp_path}", "hydra.mode=MULTIRUN", "sweep.twins=false",
    ]  # fmt: skip
    cells = make_plan(words).cells
    for given in (cells, cells[::-1]):
        rounds = [cell.config.federation.rounds for cell in longest_first(given)]
        assert rounds == [4, 4, 2, 2, 1, 1]
        same = [cell.cell_id for cell in given if cell.config.federation.rounds == 4]
        assert [cell.cell_id for cell in longest_first(given)][:2] == same


def test_fewer_records_and_raw_rounds_take_less(tmp_path: Path) -> None:
    register()
    words = [
        "dataset=wisconsin", "algorithm=dpsgd", "schedule=every_round,first_round",
        "dataset.train_share=1,0.5", "federation.rounds=8", f"hydra.sweep.dir={tmp_path}",
        "hydra.mode=MULTIRUN", "sweep.twins=false",
    ]  # fmt: skip
    found = [
        (c.config.schedule.name, c.config.dataset.train_share, expected_work(c.config))
        for c in longest_first(make_plan(words).cells)
    ]
    assert found == [
        ("every_round", 1.0, 16.0), ("first_round", 1.0, 9.0),
        ("every_round", 0.5, 8.0), ("first_round", 0.5, 4.5),
    ]  # fmt: skip
