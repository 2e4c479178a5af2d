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
    Finding,
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
    assert len(findings([])) == 9


def at(made, value: float, **changes):
    """The cell with this score."""
    return replace(made, score=replace(made.score, value=value), **changes)


def answer(cells, about: str) -> Finding:
    (found,) = [one for one in findings(cells) if about in one.observation]
    return found


def test_points_of_learning_curves_are_no_scores(factory: ModuleType, svt) -> None:
    cells = svt((0.8, 0.82), (0.4, 0.41))
    share = {"dataset.train_share": 0.1}
    points = [
        at(factory.make_result("svt", schedule, "ixi_tiny", seed=seed, config=share), 0.1)
        for schedule in ("first_round", "every_round")
        for seed in (0, 1)
    ]
    assert findings([*cells, *points])[0] == findings(cells)[0]
    assert findings(points)[0].answer == NOT_RUN


def test_pairs_agree_in_every_setting_but_the_schedule(factory: ModuleType, svt) -> None:
    first, every = svt((0.8, 0.82), ()), svt((), (0.4, 0.41))
    other = [replace(c, config={**c.config, "model": {"hidden": [8]}}) for c in every]
    assert findings([*first, *other])[0].answer == NOT_RUN
    # A second directory, whose cells came last, changes nothing while it has no pair of its own.
    assert findings([*first, *every, *other])[0] == findings([*first, *every])[0]


def test_several_settings_that_fit_are_refused(svt) -> None:
    one = svt((0.8, 0.82), (0.4, 0.41))
    full = [
        replace(c, config={**c.config, "dataset": {**c.config["dataset"], "size": "full"}})
        for c in svt((0.3, 0.32), (0.4, 0.41))
    ]
    found = findings([*one, *full])[0]
    assert found.answer == NOT_SETTLED
    assert "2 settings fit, which differ in dataset.size" in found.figure
    assert findings([*full, *one])[0] == found
    assert findings(one)[0].answer == AGREES
    twice = [replace(one[0], cell_id="again"), *one]
    assert "2 cells fit with the same seed" in findings(twice)[0].figure


@pytest.mark.parametrize(
    ("schedule", "judged"),
    [
        ({"schedule.decay": 0.5}, True),
        ({"schedule.decay": 1.0}, False),
        ({"schedule.decay": 0.5, "schedule.n": 3}, False),
    ],
)
def test_only_a_decreasing_threshold_every_second_round_lies_between(
    factory: ModuleType, svt, schedule, judged: bool
) -> None:
    nth = [
        at(factory.make_result("svt", "every_nth", "ixi_tiny", seed=s, config=schedule), 0.6)
        for s in (0, 1)
    ]
    found = answer([*svt((0.8, 0.82), (0.4, 0.41)), *nth], "lies in between")
    assert found.answer == (AGREES if judged else NOT_RUN)


def test_three_signs_that_agree_settle_nothing(factory: ModuleType) -> None:
    """A bootstrap over three seeds excludes 0 whenever all are on one side of it."""
    cells = []
    for seed, score in enumerate((0.501, 0.504, 0.520)):
        made = factory.make_result("gaussian", dataset="higgs", seed=seed)
        alone = factory.make_result("none", dataset="higgs", seed=seed, federation="local")
        cells += [at(made, score), replace(alone, score=replace(alone.score, per_site={"a": 0.5}))]
    assert answer(cells, "site alone: higgs").answer in (CANNOT_TELL, NOT_SETTLED)


def test_cells_of_another_federation_are_not_the_federations(factory: ModuleType) -> None:
    def cells(federation: str, score: float):
        return [
            at(factory.make_result("gaussian", dataset="higgs", seed=s, federation=federation), v)
            for s, v in enumerate((score, score + 0.001))
        ]

    twins = [at(factory.make_result("none", dataset="higgs", seed=s), 0.9) for s in (0, 1)]
    own = answer([*cells("fedavg", 0.89), *twins], "percentile 95")
    assert own.answer == AGREES
    assert answer([*cells("fedavg", 0.89), *cells("local", 0.6), *twins], "percentile 95") == own
    # A twin that trained otherwise is none.
    rate = {"federation.lr": 7.0}
    far = [
        at(factory.make_result("none", dataset="higgs", seed=s, config=rate), 0.9) for s in (0, 1)
    ]
    assert answer([*cells("fedavg", 0.89), *far], "percentile 95").answer == NOT_RUN


def test_each_case_is_told_by_itself_whether_federation_beats_local(factory: ModuleType) -> None:
    cells = []
    for dataset, own in (("higgs", 0.8), ("breast_density", 0.2)):
        for seed in (0, 1, 2):
            made = factory.make_result("gaussian", dataset=dataset, seed=seed)
            alone = factory.make_result("none", dataset=dataset, seed=seed, federation="local")
            score = replace(alone.score, per_site={"a": 0.5, "b": 0.3 + 0.01 * seed})
            cells += [at(made, own), replace(alone, score=score)]
    higgs, breast = (answer(cells, f"site alone: {c}") for c in ("higgs", "breast_density"))
    assert (higgs.answer, breast.answer) == (AGREES, DISAGREES)
    assert "0.300 [0.300, 0.300] (n=3), synthetic" in higgs.figure
    assert "-0.300 [-0.300, -0.300] (n=3)" in breast.figure
    assert answer(cells, "site alone: ixi_tiny").answer == NOT_RUN


def test_the_most_sensitive_case_is_that_which_loses_the_largest_share(
    factory: ModuleType,
) -> None:
    cells = []
    for dataset, chance, twin, own in (
        ("ixi_tiny", 0.46, 0.86, 0.82), ("breast_density", 0.0, 0.5, 0.1), ("higgs", 0.5, 0.9, 0.8),
    ):  # fmt: skip
        for seed in (0, 1):
            cells.append(at(factory.make_result("gaussian", dataset=dataset, seed=seed), own))
            cells.append(at(factory.make_result("none", dataset=dataset, seed=seed), twin))
            assert cells[-1].score.chance == chance
    found = answer(cells, "most sensitive")
    assert found.answer == AGREES
    assert f"{0.8 - 0.25:.3f} [" in found.figure
    assert answer(cells[:-4], "most sensitive").answer == NOT_RUN


def test_what_the_article_could_not_say_is_said_of_its_settings(factory: ModuleType) -> None:
    cells = [
        factory.make_result(algorithm, dataset="higgs", seed=seed)
        for algorithm in ("svt", "gaussian", "dpsgd", "none")
        for seed in (0, 1)
    ]
    rows = make_rows(cells)
    prices = {r.first.cell_id: price(r.cells, cells, 0.2) for r in rows if r.protected}
    lines = unsaid(rows, prices)
    other = [
        factory.make_result("svt", dataset="higgs", config={"algorithm.fraction": 0.5}),
        factory.make_result("svt", dataset="wisconsin"),
        factory.make_result("svt", dataset="higgs", federation="central"),
    ]
    others = make_rows(other)
    assert not unsaid(others, {r.first.cell_id: price(r.cells, other, 0.2) for r in others})
    assert [line["setting"] for line in lines] == ["svt", "gaussian"]
    for line in lines:
        assert line["case"] == "higgs (synthetic)"
        assert line["proof bought"] == "infinite"
        assert "n=2" in line["score lost"]


def test_the_what_if_figure_is_the_largest_of_the_seeds(factory: ModuleType) -> None:
    def line(*epsilons: float | None) -> str:
        cells = []
        for seed, epsilon in enumerate(epsilons):
            one = factory.make_result("gaussian", dataset="higgs", seed=seed)
            about = {"unit": "site", "neighbouring": "replace_one", "delta": 1e-5}
            figure = None if epsilon is None else {"epsilon": epsilon, "mu": epsilon / 10, **about}
            cells.append(replace(one, privacy={**one.privacy, "what_if": figure}))
        rows = make_rows(cells)
        [found] = unsaid(rows, {r.first.cell_id: price(r.cells, cells, 0.2) for r in rows})
        return found["what-if, no guarantee"]

    one = "one site, replace_one, delta 1e-5"
    assert line(86.0, 119.0, 90.0) == f"epsilon 119 (mu 11.9) of {one}, the largest of 3 seeds"
    assert line(86.0, None) == f"epsilon 86 (mu 8.6) of {one}, the largest of 1 of 2 seeds"
    assert line(86.0) == f"epsilon 86 (mu 8.6) of {one}"
    assert line(None, None) == "-"
