from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest

from fedprivacy.report.rows import make_rows
from fedprivacy.report.series import global_curve, protected_rounds, site_curves


def test_a_curve_is_the_mean_and_range_over_seeds(factory: ModuleType) -> None:
    cells = [factory.make_result(seed=seed, reached=0.3 * seed) for seed in range(3)]
    curve = global_curve(cells)
    assert curve.rounds == tuple(range(1, 9))
    for index, round_number in enumerate(curve.rounds):
        scores = [cell.rounds[round_number - 1].score for cell in cells]
        assert curve.mean[index] == pytest.approx(sum(scores) / 3)
        assert (curve.low[index], curve.high[index]) == (min(scores), max(scores))


def test_rounds_without_a_score_are_left_out(factory: ModuleType) -> None:
    cell = factory.make_result()
    blind = replace(
        cell, rounds=tuple(replace(b, score=None) if b.round % 2 else b for b in cell.rounds)
    )
    assert global_curve([blind]).rounds == (2, 4, 6, 8)
    assert global_curve([]).rounds == ()


def test_sites_keep_their_order(factory: ModuleType) -> None:
    cell = factory.make_result(dataset="ixi_tiny")
    curves = site_curves([cell])
    assert list(curves) == ["Guys", "HH", "IOP"]
    assert curves["HH"].mean[2] == cell.rounds[2].score_per_site["HH"]


def test_protected_rounds_follow_the_schedule(factory: ModuleType) -> None:
    (row,) = make_rows([factory.make_result(schedule="every_nth")])
    assert protected_rounds(row) == [1, 3, 5, 7]
