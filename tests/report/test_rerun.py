"""The printed commands: each can be pasted, and really runs its cell again, alone."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from fedprivacy.cli import main
from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.identity import cell_id
from fedprivacy.config.loading import to_cell_config
from fedprivacy.report.rerun import command
from fedprivacy.result import read_result, write_result
from fedprivacy.sweep.plan import PlannedCell, make_plan

SWEEP = """# @package _global_
hydra: {mode: MULTIRUN}
sweep: {name: own}
tracking: {enabled: false}
privacy: {randomness: seeded}
federation: {rounds: 1}
grids:
  - {algorithm: none, federation: "fedavg,local"}
  - {algorithm: none, dataset.train_share: "0.3"}
"""


def test_commands_can_be_pasted(factory: ModuleType) -> None:
    typed = ("algorithm=dpsgd", "algorithm.mechanisms=[{name: svt}]", "hydra.sweep.dir=elsewhere")
    words = command(replace(factory.make_result(), overrides=typed, cell_id="abc"))
    assert words.startswith("fedprivacy run algorithm=dpsgd 'algorithm.mechanisms=[{name: svt}]' ")
    assert words.endswith("'hydra.run.dir=outputs/again/${now:%Y-%m-%d_%H-%M-%S}/abc'")
    assert "elsewhere" not in words


@pytest.fixture
def finished(
    factory: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[PlannedCell]:
    """The cells of a sweep on real records, each with a result in the sweep's folder."""
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "own.yaml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    cells = list(make_plan(["+sweeps=own", "dataset=wisconsin"]).cells)
    for cell in cells:
        made = factory.make_result("none", dataset="wisconsin")
        write_result(cell.folder, replace(made, cell_id=cell.cell_id, overrides=cell.overrides))
    return cells


def test_each_command_composes_its_cell(finished: list[PlannedCell]) -> None:
    assert len(finished) == 3
    for cell in finished:
        result = read_result(cell.folder)
        assert result is not None
        program, run, *typed = shlex.split(command(result))
        assert (program, run) == ("fedprivacy", "run")
        with hydra_ready():
            composed = compose_cell(typed)
        assert cell_id(to_cell_config(composed)) == cell.cell_id
        assert "MULTIRUN" not in str(composed.hydra.mode)
        assert Path(composed.hydra.run.dir).parts[:2] == ("outputs", "again")


def test_a_finished_cell_is_run_again_into_a_folder_of_its_own(
    finished: list[PlannedCell], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cell = finished[-1]
    before = read_result(cell.folder)
    assert before is not None
    assert main(shlex.split(command(before))[1:]) == 0
    assert "not run again" not in "".join(capfd.readouterr())
    (folder,) = (tmp_path / "outputs" / "again").glob("*/*")
    again = read_result(folder)
    assert again is not None
    assert (folder.name, again.cell_id) == (cell.cell_id, cell.cell_id)
    assert len(again.rounds) == 1
    assert again.config["dataset"]["train_share"] == 0.3
    assert read_result(cell.folder) == before
    assert sorted(path.parent.name for path in (tmp_path / "outputs" / "own").glob("*/*.json")) == (
        sorted(one.cell_id for one in finished)
    )
