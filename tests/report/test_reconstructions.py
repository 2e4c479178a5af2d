"""Reconstructed images: every row under its own originals, none left out, all told apart."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fedprivacy.report.canvas import style
from fedprivacy.report.reconstructions import Pair, reconstruction_figures
from fedprivacy.report.rows import make_rows
from fedprivacy.result import CellResult

BREAST: dict[str, Any] = {"dataset": "breast_density"}


def images(side: int, offset: float = 0.0) -> np.ndarray:
    return np.linspace(0, 1, 4 * side * side).reshape(4, 1, side, side) + offset


def drawn(cells: list[CellResult], pairs: dict[str, Pair]) -> list[Any]:
    with style():
        figures = reconstruction_figures(make_rows(cells), pairs)
        for figure in figures:
            figure.canvas.draw()
    return figures


def labels(figure: Any) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_both_federations_are_named_and_nothing_is_cut(factory: ModuleType) -> None:
    long = {"algorithm.noise_multiplier": 12.3456, "algorithm.max_grad_norm": 0.123}
    cells = [
        factory.make_result("none", **BREAST),
        factory.make_result("none", federation="local", **BREAST),
        factory.make_result("dpsgd", "every_nth", federation="local", config=long, **BREAST),
        factory.make_result("dpsgd", "every_nth", **BREAST),
    ]
    [figure] = drawn(cells, {c.cell_id: (images(8), images(8, 0.1)) for c in cells})
    found = labels(figure)
    assert found[0] == "originals"
    assert {"without protection", "without protection, local"} < set(found)
    assert len(set(found)) == len(found) == 5
    notes = figure.texts[1].get_text().replace("\n", " ")
    assert "proven upper bound" in notes
    assert "zero_out" in notes
    assert "δ=1e-5" in notes
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    boxes = [text.get_window_extent() for text in texts]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[n + 1 :])


def test_rows_of_another_setting_stand_under_their_own_originals(factory: ModuleType) -> None:
    cells, pairs = [], {}
    for side in (8, 12):
        for algorithm in ("none", "dpsgd"):
            config = {"dataset.size": f"side{side}"}
            cells.append(factory.make_result(algorithm, config=config, **BREAST))
            pairs[cells[-1].cell_id] = (images(side), images(side, 0.1))
    [figure] = drawn(cells, pairs)
    found = labels(figure)
    assert found.count("originals") == 2
    second = found.index("originals", 1)
    parts = found[1:second], found[second + 1 :]
    assert sorted(len(part) for part in parts) == [2, 2]
    for part in parts:
        assert len({label.split("size=")[1][:5].strip(", ") for label in part}) == 1


def test_what_is_too_long_for_a_picture_goes_on_in_the_next(factory: ModuleType) -> None:
    cells = [
        factory.make_result("dpsgd", config={"algorithm.noise_multiplier": 1.0 + n}, **BREAST)
        for n in range(23)
    ]
    figures = drawn(cells, {c.cell_id: (images(8), images(8, 0.1)) for c in cells})
    assert len(figures) == 3
    found = [labels(figure) for figure in figures]
    assert all(page[0] == "originals" for page in found)
    rows = [label for page in found for label in page[1:]]
    assert len(rows) == len(set(rows)) == 23
    assert "(2 of 3)" in figures[1].texts[0].get_text()


def test_another_seed_is_shown_where_the_first_has_none(factory: ModuleType) -> None:
    cells = [factory.make_result("dpsgd", seed=seed, **BREAST) for seed in (0, 1)]
    [figure] = drawn(cells, {cells[1].cell_id: (images(8), images(8, 0.1))})
    assert len(labels(figure)) == 2


@pytest.mark.parametrize("shape", [(4, 9), (4,)])
def test_tables_are_told_by_numbers(factory: ModuleType, shape: tuple[int, ...]) -> None:
    cell = factory.make_result("none")
    assert drawn([cell], {cell.cell_id: (np.zeros(shape), np.zeros(shape))}) == []
