"""The findings' rules, on results that settle them one way, the other way, or not at all."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest

from fedprivacy.pricing.price import price
from fedprivacy.report.findings import (
    AGREES,
    CANNOT_TELL,
    DISAGREES,
    NOT_RUN,
    NOT_SETTLED,
    findings,
    unsaid,
)
from fedprivacy.report.rows import make_rows


@pytest.fixture
def svt(factory: ModuleType):
    """``svt(first, every, synthetic)``: IXI cells with these scores, one for each seed."""

    def make(first, every, synthetic: bool = True):
        cells = []
        for schedule, values in (("first_round", first), ("every_round", every)):
            for seed, value in enumerate(values):
                made = factory.make_result("svt", schedule, "ixi_tiny", seed=seed)
                score = replace(made.score, value=value)
                cells.append(replace(made, score=score, synthetic=synthetic))
        return cells

    return make


@pytest.mark.parametrize(
    ("first", "every", "synthetic", "answer"),
    [
        ((0.8, 0.82, 0.81), (0.4, 0.41, 0.42), True, AGREES),
        ((0.41, 0.42, 0.4), (0.4, 0.41, 0.42), True, DISAGREES),
        ((0.8, 0.3, 0.5), (0.4, 0.41, 0.42), True, CANNOT_TELL),
        ((0.8, 0.3, 0.5), (0.4, 0.41, 0.42), False, NOT_SETTLED),
        ((0.8,), (0.4,), True, CANNOT_TELL),
        ((), (0.4, 0.5), True, NOT_RUN),
    ],
)
def test_the_first_observation(svt, first, every, synthetic, answer) -> None:
    found = findings(svt(first, every, synthetic))[0]
    assert found.answer == answer
    assert ("synthetic" in found.figure) == (synthetic and answer != NOT_RUN)
    if answer == NOT_RUN:
        assert "fedprivacy run +sweeps=article" in found.figure


def test_without_cells_every_observation_says_what_to_run() -> None:
    assert {found.answer for found in findings([])} == {NOT_RUN}
    assert len(findings([])) == 6


def test_what_the_article_could_not_say_is_said_of_its_settings(factory: ModuleType) -> None:
    cells = [
        factory.make_result(algorithm, dataset="higgs", seed=seed)
        for algorithm in ("svt", "gaussian", "dpsgd", "none")
        for seed in (0, 1)
    ]
    rows = make_rows(cells)
    prices = {r.first.cell_id: price(r.cells, cells, 0.2) for r in rows if r.protected}
    lines = unsaid(rows, prices)
    assert [line["setting"] for line in lines] == ["svt", "gaussian"]
    for line in lines:
        assert line["case"] == "higgs (synthetic)"
        assert line["proof bought"] == "infinite"
        assert "n=2" in line["score lost"]
