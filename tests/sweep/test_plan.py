"""A plan is every product of every grid, once, validated before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedprivacy.errors import ConfigError, DataError
from fedprivacy.sweep.plan import make_plan, split_axes


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    return tmp_path


def write_sweep(here: Path, text: str) -> None:
    (here / "sweeps" / "own.yaml").write_text("# @package _global_\n" + text)


GRIDS = """
hydra: {mode: MULTIRUN}
sweep: {name: own}
grids:
  - {algorithm: "dpsgd,svt", schedule: "every_round,first_round", federation.rounds: 3}
  - {algorithm: none, federation: "fedavg,local,central", federation.rounds: 3}
"""


def points(*overrides: str) -> list[tuple[str, str, str]]:
    plan = make_plan(overrides)
    return [
        (c.config.algorithm.name, c.config.schedule.name, c.config.federation.name)
        for c in plan.cells
    ]


def test_union_of_products_from_the_current_directory(here: Path) -> None:
    write_sweep(here, GRIDS)
    plan = make_plan(["+sweeps=own"])
    assert plan.name == "own"
    assert plan.folder == Path("outputs/own")
    assert len(plan.cells) == 4 + 3
    assert len({cell.folder for cell in plan.cells}) == 7
    assert all(cell.folder.name == cell.cell_id for cell in plan.cells)
    assert all(cell.config.federation.rounds == 3 for cell in plan.cells)


def test_the_command_line_wins_over_the_file(here: Path) -> None:
    write_sweep(here, GRIDS)
    assert {point[0] for point in points("+sweeps=own", "algorithm=gaussian")} == {"gaussian"}
    swept = points("+sweeps=own", "schedule=every_round,last_round", "algorithm=svt")
    assert {point[1] for point in swept} == {"every_round", "last_round"}
    plan = make_plan(["+sweeps=own", "federation.rounds=2", "seed=1,2"])
    assert {cell.config.federation.rounds for cell in plan.cells} == {2}
    assert {cell.config.seed for cell in plan.cells} == {1, 2}


def test_all_schedules_share_the_twin(here: Path) -> None:
    plan = make_plan(["algorithm=none,dpsgd", "schedule=every_round,first_round,every_nth"])
    assert len(plan.cells) == 1 + 3


def test_sweeper_params_are_axes(here: Path) -> None:
    write_sweep(
        here, "hydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2,3', algorithm: none}}}\n"
    )
    assert len(make_plan(["+sweeps=own"]).cells) == 3


def test_ranges_and_lists_are_axes(here: Path) -> None:
    write_sweep(here, "grids:\n  - {seed: 'range(0,4)', model.hidden: ['[8]', '[16]']}\n")
    assert len(make_plan(["+sweeps=own"]).cells) == 8


def test_one_bad_cell_stops_the_sweep_before_it_starts(here: Path) -> None:
    with pytest.raises(ConfigError, match="noise_multiplier") as caught:
        make_plan(["algorithm.noise_multiplier=1,-1"])
    assert "fedprivacy run algorithm.noise_multiplier=-1" in "".join(caught.value.__notes__)


def test_a_schedule_that_protects_no_round_is_refused(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.offset"):
        make_plan(["schedule=every_nth", "schedule.offset=10"])


def test_a_grid_that_is_no_mapping_is_refused(here: Path) -> None:
    write_sweep(here, "grids: [just_a_word]\n")
    with pytest.raises(ConfigError, match=r"grids\[0\]"):
        make_plan(["+sweeps=own"])


def test_real_data_that_is_missing_is_refused_with_the_download_command(here: Path) -> None:
    with pytest.raises(DataError, match="fedprivacy data download higgs"):
        make_plan(["dataset=higgs", "dataset.source=real"])


def test_a_model_that_does_not_fit_is_refused(here: Path) -> None:
    with pytest.raises(ConfigError, match="model=mlp"):
        make_plan(["dataset=wisconsin", "model=unet3d"])


def test_split_axes_keeps_order_and_kind() -> None:
    fixed, axes = split_axes(["seed=1,2", "+sweeps=x", "model.hidden=[8,8]"])
    assert fixed == ["+sweeps=x", "model.hidden=[8,8]"]
    assert axes == {"seed": ["1", "2"]}


def test_axes_that_need_each_other_plan(here: Path) -> None:
    """A key that only some choices of a swept group have."""
    plan = make_plan(["dataset=wisconsin,higgs", "dataset.size=demo", "model.hidden=[8]"])
    assert len(plan.cells) == 2
    plan = make_plan(["algorithm=svt", "algorithm.gamma=1e-4,1e-3", "federation.rounds=2"])
    assert len(plan.cells) == 2


CHOICES = """
hydra: {mode: MULTIRUN}
grids:
  - {dataset: wisconsin, model.hidden: '[8]', algorithm: "none,svt"}
  - {dataset: higgs, dataset.size: demo, dataset.max_rows: 500, algorithm: none}
"""


def test_a_typed_choice_picks_the_grids_that_have_it(here: Path) -> None:
    write_sweep(here, CHOICES)
    (only,) = make_plan(["+sweeps=own", "dataset=higgs"]).cells
    assert only.config.dataset.name == "higgs"
    assert {c.config.algorithm.name for c in make_plan(["+sweeps=own", "algorithm=svt"]).cells} == {
        "svt"
    }
    assert len(make_plan(["+sweeps=own", "dataset=wisconsin,higgs"]).cells) == 3


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["privacy.delta=0.05"], r"privacy\.delta"),
        (["dataset.n_sites=500"], "dataset"),
        (["dataset.partition=exponential", "dataset.n_sites=3,56"], "dataset"),
    ],
    ids=str,
)
def test_what_the_records_do_not_allow_is_refused_while_planning(
    here: Path, overrides: list[str], key: str
) -> None:
    with pytest.raises(ConfigError, match=key):
        make_plan(overrides)
