"""Which cells of a sweep begin first."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from types import SimpleNamespace

import pytest

from fedprivacy.config.schema import CellConfig
from fedprivacy.sweep.order import expected_seconds, longest_first

Compose = Callable[..., CellConfig]
ORDER = [
    ("ixi_tiny", "dpsgd", 8), ("ixi_tiny", "none", 8), ("breast_density", "dpsgd", 8),
    ("breast_density", "none", 8), ("breast_density", "none", 2), ("wisconsin", "none", 8),
]  # fmt: skip


def names(cells: list[SimpleNamespace]) -> list[tuple[str, str, int]]:
    return [
        (c.config.dataset.name, c.config.algorithm.name, c.config.federation.rounds) for c in cells
    ]


@pytest.mark.parametrize("turned", [False, True])
def test_longest_first(compose: Compose, turned: bool) -> None:
    """Volumes before images before tables, protected before plain, many rounds before few."""
    datasets, algorithms = ("wisconsin", "breast_density", "ixi_tiny"), ("none", "dpsgd")
    cells = [
        SimpleNamespace(
            config=compose(
                f"dataset={dataset}", f"algorithm={algorithm}", f"federation.rounds={rounds}",
                *(() if dataset == "wisconsin" else ("dataset.size=demo",)),
            )
        )
        for dataset, algorithm, rounds in product(datasets, algorithms, (2, 8))
    ]  # fmt: skip
    given = cells[::-1] if turned else cells
    found = names(longest_first(given))
    assert [one for one in found if one in ORDER] == ORDER
    assert sorted(found) == sorted(names(cells))


def test_cells_of_equal_length_keep_their_order(compose: Compose) -> None:
    cells = [
        SimpleNamespace(config=compose("dataset=wisconsin", f"federation.rounds={r}", f"seed={s}"))
        for r in (1, 4, 2)
        for s in (0, 1)
    ]
    for given in (cells, cells[::-1]):
        found = longest_first(given)
        assert [c.config.federation.rounds for c in found] == [4, 4, 2, 2, 1, 1]
        assert [c for c in found if c.config.federation.rounds == 4] == [
            c for c in given if c.config.federation.rounds == 4
        ]


def test_what_a_cell_takes_grows_with_what_it_does(compose: Compose) -> None:
    def seconds(*words: str) -> float:
        base = ("dataset=ixi_tiny", "algorithm=dpsgd", "dataset.size=demo", "federation.rounds=8")
        return expected_seconds(compose(*base, *words))

    whole = seconds()
    assert seconds("dataset.size=full") > 2 * whole
    assert seconds("dataset.shape=[20,24,20]") < whole / 2
    assert seconds("dataset.train_share=0.5") < whole
    assert seconds("schedule=first_round") < whole
    assert seconds("federation.local_epochs=3") > whole
    assert seconds("audit=full") > whole == seconds("audit=fast")
