from __future__ import annotations

import math
import statistics
from dataclasses import replace
from types import ModuleType

import pytest

from fedprivacy.report.rows import (
    AGAINST_TWIN,
    collapsed_against,
    estimate,
    find_twin,
    main_rows,
    make_rows,
)


def test_seeds_share_a_row_and_nothing_else_does(factory: ModuleType) -> None:
    results = [
        factory.make_result(algorithm, schedule, dataset, seed=seed)
        for algorithm in ("svt", "dpsgd")
        for schedule in ("first_round", "every_round")
        for dataset in ("wisconsin", "higgs")
        for seed in (2, 0, 1)
    ]
    rows = make_rows(results)
    assert len(rows) == 8
    assert all([cell.seed for cell in row.cells] == [0, 1, 2] for row in rows)


def test_rows_are_ordered_by_dataset_then_algorithm_then_schedule(factory: ModuleType) -> None:
    rows = make_rows(reversed(list(factory.demo_results())))
    found = [(row.first.dataset, row.first.algorithm, row.first.schedule) for row in rows[:12]]
    assert found[:3] == [("breast_density", "none", "never")] * 3
    assert [row.first.federation for row in rows[:3]] == ["fedavg", "central", "local"]
    assert [name for _, name, _ in found[3:]] == ["dpsgd"] * 3 + ["svt"] * 3 + ["gaussian"] * 3
    assert [name for _, _, name in found[3:6]] == ["every_round", "first_round", "every_nth"]
    assert rows[-1].first.dataset == "wisconsin"


def test_the_mean_has_the_error_of_records_and_of_seeds(factory: ModuleType) -> None:
    cells = [factory.make_result(seed=seed, reached=value) for seed, value in enumerate((0.2, 0.6))]
    values = [cell.score.value for cell in cells]
    found = estimate(cells)
    assert found is not None
    assert found.mean == pytest.approx(statistics.fmean(values))
    spread = abs(values[0] - values[1]) / math.sqrt(2) / math.sqrt(2)
    assert found.standard_error == pytest.approx(math.sqrt(0.011**2 + spread**2))
    assert found.n == 2


def test_one_seed_keeps_its_own_error(factory: ModuleType) -> None:
    result = factory.make_result()
    found = estimate([result])
    assert found is not None
    assert (found.mean, found.standard_error, found.n) == (result.score.value, 0.011, 1)


def test_cells_without_a_score_do_not_count_and_diverged_ones_are_worth_chance(
    factory: ModuleType,
) -> None:
    assert estimate([factory.failed_result()]) is None
    well, diverged = factory.make_result(), factory.diverged_result(seed=1)
    found = estimate([well, diverged])
    assert found is not None
    assert found.n == 2
    assert found.mean == pytest.approx((well.score.value + diverged.score.chance) / 2)
    assert estimate([replace(diverged, score=None)]) is None


def test_the_twin_agrees_in_all_but_the_protection(factory: ModuleType) -> None:
    cell = factory.make_result(seed=1)
    twin = factory.make_result("none", seed=1)
    others = [
        factory.make_result("none", seed=2),
        factory.make_result("none", seed=1, dataset="wisconsin"),
        factory.make_result("none", seed=1, federation="local"),
        factory.make_result("none", seed=1, config={"dataset.size": "full"}),
        factory.make_result("none", seed=1, config={"model.hidden": [8]}),
        cell,
    ]
    assert find_twin(cell, [*others, twin]) is twin
    assert find_twin(cell, others) is None
    assert find_twin(twin, [twin]) is None


def test_the_most_alike_twin_is_taken_and_its_differences_told(factory: ModuleType) -> None:
    cell = factory.make_result(config={"federation.lr": 0.5})
    far = factory.make_result("none", config={"federation.lr": 9.0, "federation.batch_size": 1})
    near = factory.make_result("none", config={"federation.lr": 9.0})
    rows = make_rows([cell, far, near])
    (row,) = [row for row in rows if row.protected]
    assert row.twins == (near,)
    assert row.twin_differs == ("federation.lr",)
    exact = factory.make_result("none", config={"federation.lr": 0.5})
    (row,) = [row for row in make_rows([cell, far, near, exact]) if row.protected]
    assert row.twins == (exact,)
    assert row.twin_differs == ()


def test_variants_say_what_differs(factory: ModuleType) -> None:
    rows = make_rows(
        [
            factory.make_result("gaussian"),
            factory.make_result("gaussian", config={"algorithm.percentile": 50.0}),
            factory.make_result("svt", "every_nth"),
            factory.make_result("svt", "every_nth", config={"schedule.decay": 0.9}),
            factory.make_result("dpsgd"),
        ]
    )
    assert [(row.algorithm, row.schedule) for row in rows] == [
        ("dpsgd", "every_round"),
        ("svt", "every_nth decay=0.9"),
        ("svt", "every_nth decay=1"),
        ("gaussian percentile=50", "every_round"),
        ("gaussian percentile=95", "every_round"),
    ]


def test_a_row_states_its_weakest_cell(factory: ModuleType) -> None:
    strong, weak = factory.make_result(), factory.make_result(seed=1)
    weak = replace(weak, privacy={**weak.privacy, "epsilon": 9.0})
    (row,) = make_rows([strong, weak])
    assert row.privacy["epsilon"] == 9.0
    none = replace(weak, privacy={**weak.privacy, "infinite": True, "epsilon": None})
    (row,) = make_rows([strong, none])
    assert row.privacy["infinite"]


def test_mixed_ends_are_counted(factory: ModuleType) -> None:
    (row,) = make_rows([factory.make_result(), factory.failed_result(seed=1)])
    assert row.status == "1 ok, 1 failed"
    (row,) = make_rows([factory.failed_result()])
    assert row.status == "failed"
    assert row.privacy is None


@pytest.mark.parametrize(
    ("score", "fraction", "collapsed"),
    [(0.58, 0.2, True), (0.5801, 0.2, False), (0.58, 0.1, False), (0.9, 1.0, True), (0.5, 0, True)],
)
def test_a_collapse_against_the_twin_is_a_share_of_its_gain(
    factory: ModuleType, score: float, fraction: float, collapsed: bool
) -> None:
    cell, twin = factory.make_result("svt"), factory.make_result("none")
    cell = replace(cell, score=replace(cell.score, value=score))
    twin = replace(twin, score=replace(twin.score, value=0.9))
    assert collapsed_against(cell, twin, fraction) is collapsed
    (row,) = [row for row in make_rows([cell, twin], fraction) if row.protected]
    assert row.status == (AGAINST_TWIN if collapsed else "ok")


def test_nothing_collapses_against_a_twin_that_is_missing_or_learned_nothing(
    factory: ModuleType,
) -> None:
    cell, twin = factory.make_result("svt", reached=0.01), factory.make_result("none")
    flat = replace(twin, score=replace(twin.score, value=0.5))
    unknown = replace(twin, score=replace(twin.score, value=None))
    assert collapsed_against(cell, twin) is True
    for other in (None, flat, unknown, factory.failed_result(algorithm="none")):
        assert collapsed_against(cell, other) is None
    assert collapsed_against(factory.failed_result(), twin) is None
    assert [row.status for row in make_rows([cell, flat])] == ["ok", "ok"]


def test_a_collapse_of_its_own_is_not_renamed(factory: ModuleType) -> None:
    own = factory.make_result("svt", reached=0.001, status="collapsed")
    low = factory.make_result("svt", reached=0.05, seed=1)
    fine = factory.make_result("svt", reached=0.8, seed=2)
    twins = [factory.make_result("none", seed=seed) for seed in range(3)]
    (row,) = [row for row in make_rows([own, low, fine, *twins]) if row.protected]
    assert row.status == f"1 collapsed, 1 {AGAINST_TWIN}, 1 ok"
    assert row.against_twin == {low.cell_id}


def test_points_of_a_learning_curve_are_told_apart_and_kept_out_of_pictures(
    factory: ModuleType,
) -> None:
    share = "dataset.train_share"
    cells = [
        factory.make_result(algorithm, config={share: value})
        for algorithm, value in (("none", 1.0), ("none", 0.1), ("dpsgd", 1.0))
    ]
    rows = make_rows(cells)
    assert {row.algorithm for row in rows} == {"none", "none train_share=0.1", "dpsgd"}
    assert [row.algorithm for row in main_rows(rows)] == ["none", "dpsgd"]
    assert main_rows(rows[1:2]) == rows[1:2]


def set_to(cell, group: str, **settings):
    """The cell with other settings of a group, and an identity of its own."""
    config = {**cell.config, group: {**cell.config.get(group, {}), **settings}}
    return replace(cell, config=config, cell_id=f"{cell.cell_id} {group} {settings}")


def test_audited_cells_say_so_beside_others_that_are_not(factory: ModuleType) -> None:
    cells = [factory.make_result("none"), factory.make_result()]
    audited = [
        set_to(set_to(cells[0], "audit", name="fast", canaries=100), "privacy", view="aggregate"),
        set_to(cells[1], "audit", name="fast", canaries=100),
        set_to(cells[1], "audit", name="full", canaries=400),
    ]
    assert {row.algorithm for row in make_rows([*cells, *audited])} == {
        "none", "none audited", "dpsgd",
        "dpsgd canaries=100 audit=fast audited", "dpsgd canaries=400 audit=full audited",
    }  # fmt: skip
    assert {row.algorithm for row in make_rows(audited[:2])} == {"none", "dpsgd"}


def test_how_a_privacy_setting_was_written_is_no_difference(factory: ModuleType) -> None:
    derived = [factory.make_result(seed=seed) for seed in (0, 1)]
    typed = [
        set_to(factory.make_result(seed=seed), "privacy", delta=1e-5, unit="record")
        for seed in (2, 3)
    ]
    silent = set_to(factory.make_result(seed=4), "privacy", diagnostics=False)
    (row,) = make_rows([*derived, *typed, silent])
    assert [cell.seed for cell in row.cells] == [0, 1, 2, 3, 4]
    assert row.algorithm == "dpsgd"


def test_the_same_cell_written_twice_is_not_two_seeds(factory: ModuleType) -> None:
    derived = [factory.make_result(seed=seed) for seed in (0, 1)]
    typed = [set_to(cell, "privacy", delta=1e-5) for cell in derived]
    rows = make_rows([*derived, *typed])
    assert [len(row.cells) for row in rows] == [2, 2]
    assert [row.algorithm for row in rows] == ["dpsgd", "dpsgd again 1"]


def test_a_privacy_setting_that_means_something_else_has_a_row(factory: ModuleType) -> None:
    made = factory.make_result()
    other = set_to(factory.make_result(seed=1), "privacy", delta=1e-6)
    other = replace(other, privacy={**other.privacy, "delta": 1e-6})
    assert [row.algorithm for row in make_rows([made, other])] == [
        "dpsgd delta=1e-05",
        "dpsgd delta=1e-06",
    ]
