"""A sweep runs the twins that its grids lack, each once, and none that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedprivacy.sweep.plan import make_plan
from fedprivacy.sweep.twins import with_twins


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def added(*words: str) -> list[tuple[str, str, int, int]]:
    plan = make_plan(words)
    whole = with_twins(plan)
    assert whole.cells[: len(plan.cells)] == plan.cells
    configs = [cell.config for cell in whole.cells[len(plan.cells) :]]
    return [(c.algorithm.name, c.federation.name, c.seed, c.federation.rounds) for c in configs]


def test_each_seed_and_federation_gets_its_twin_once() -> None:
    words = ["algorithm=dpsgd,svt", "schedule=every_round,first_round", "seed=0,1"]
    assert added(*words, "federation.rounds=3") == [
        ("none", "fedavg", 0, 3), ("none", "fedavg", 1, 3)
    ]  # fmt: skip
    several = added("algorithm=dpsgd", "federation=fedavg,central")
    assert [twin[:2] for twin in several] == [("none", "fedavg"), ("none", "central")]


def test_a_twin_that_is_there_is_not_added() -> None:
    assert added("algorithm=none,dpsgd", "seed=0,1") == []
    assert added("+sweeps=demo", "dataset.size=demo") == []


def test_settings_of_the_protection_are_left_behind() -> None:
    words = ["algorithm=dpsgd", "algorithm.noise_multiplier=1,2", "schedule=every_nth"]
    twins = added(*words, "schedule.offset=1", "dataset=higgs", "dataset.size=demo", "seed=3")
    assert [twin[:3] for twin in twins] == [("none", "fedavg", 3)]


def test_no_twins_where_none_are_wanted() -> None:
    assert added("algorithm=dpsgd", "sweep.twins=false") == []


def test_a_twin_that_cannot_be_composed_is_left_to_the_report(here: Path) -> None:
    (here / "sweeps").mkdir()
    text = "# @package _global_\nhydra: {mode: MULTIRUN}\nalgorithm: {noise_multiplier: 2.0}\n"
    head = "defaults:\n  - override /algorithm: dpsgd\n"
    (here / "sweeps" / "own.yaml").write_text(text.replace("hydra:", head + "hydra:"))
    assert added("+sweeps=own", "seed=0") == []
