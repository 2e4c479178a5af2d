"""Every shipped sweep plans: all its cells compose, are valid, and are those it promises."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fedprivacy.config.resources import resources_root
from fedprivacy.sweep.plan import Plan, make_plan

SHIPPED = sorted(path.stem for path in (resources_root() / "sweeps").glob("*.yaml"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def plan_of(name: str, root: Path, *more: str) -> Plan:
    """The plan on small volumes, which are the same cells but for their size."""
    return make_plan([f"+sweeps={name}", "dataset.size=demo", f"dataset.root={root}", *more])


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_sweep_plans(name: str, root: Path) -> None:
    plan = plan_of(name, root, "seed=0")
    # A study's trials go under the study's name; run as a sweep it is one cell of defaults.
    assert plan.settings.tuning.name == name if name.startswith("tune_") else plan.name == name
    assert plan.cells
    assert {cell.config.privacy.randomness for cell in plan.cells} == {"seeded"}


@pytest.mark.slow
def test_the_demonstration_is_the_promised_grid(root: Path) -> None:
    plan = plan_of("demo", root)
    points = Counter(
        (c.config.algorithm.name, c.config.schedule.name, c.config.dataset.name)
        for c in plan.cells
        if c.config.algorithm.name != "none"
    )
    datasets = ("wisconsin", "higgs", "ixi_tiny", "breast_density")
    assert points == Counter(
        (algorithm, schedule, dataset)
        for algorithm in ("dpsgd", "svt", "gaussian")
        for schedule in ("every_round", "first_round", "every_nth")
        for dataset in datasets
    )
    baselines = {
        (c.config.federation.name, c.config.dataset.name)
        for c in plan.cells
        if c.config.algorithm.name == "none"
    }
    assert baselines == {(f, d) for f in ("fedavg", "local", "central") for d in datasets}
    assert all(cell.config.federation.rounds >= 8 for cell in plan.cells)
    assert plan.settings.sweep.workers == 2


@pytest.mark.slow
def test_the_article_has_its_own_parameters(root: Path) -> None:
    cells = [cell.config for cell in plan_of("article", root, "dataset=higgs").cells]
    assert {c.seed for c in cells} == {0, 1, 2}
    gaussian = {
        (c.algorithm.percentile, c.schedule.name) for c in cells if c.algorithm.name == "gaussian"
    }
    schedules = {"every_round", "first_round", "every_nth"}
    assert gaussian == {(p, s) for p in (95.0, 50.0) for s in schedules}
    for name in ("svt", "dpsgd"):
        assert {c.schedule.name for c in cells if c.algorithm.name == name} == schedules
    decaying = [c for c in cells if c.algorithm.name == "svt" and c.schedule.name == "every_nth"]
    assert {(c.schedule.n, c.schedule.decay) for c in decaying} == {(2, 0.5)}
    assert {c.federation.name for c in cells if c.algorithm.name == "none"} == {
        "fedavg",
        "local",
        "central",
    }
