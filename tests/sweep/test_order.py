"""Which cells of a sweep begin first."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedprivacy.config.store import register
from fedprivacy.sweep.order import expected_seconds, longest_first
from fedprivacy.sweep.plan import make_plan

ORDER = [
    ("ixi_tiny", "dpsgd", 8), ("ixi_tiny", "none", 8), ("breast_density", "dpsgd", 8),
    ("breast_density", "none", 8), ("breast_density", "none", 2), ("wisconsin", "none", 8),
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


def test_what_a_cell_takes_grows_with_what_it_does(tmp_path: Path) -> None:
    register()

    def seconds(*words: str) -> float:
        given = [
            "hydra.mode=MULTIRUN", f"hydra.sweep.dir={tmp_path}", "sweep.twins=false",
            *(words or ("dataset=higgs",)),
        ]  # fmt: skip
        [cell] = make_plan(given).cells
        return expected_seconds(cell.config)

    base = ("dataset=ixi_tiny", "algorithm=dpsgd", "dataset.size=demo", "federation.rounds=8")
    whole = seconds(*base)
    assert seconds(*base, "dataset.size=full") > 2 * whole
    assert seconds(*base, "dataset.shape=[20,24,20]") < whole / 2
    assert seconds(*base, "dataset.train_share=0.5") < whole
    assert seconds(*base, "schedule=first_round") < whole
    assert seconds(*base, "federation.local_epochs=3") > whole
    assert seconds(*base, "audit=full") > whole == seconds(*base, "audit=fast")
