from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedprivacy.tracking.links import sweep_links
from fedprivacy.tracking.summary import record_summary
from fedprivacy.tracking.sync import sync


@pytest.fixture
def report(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "overview.png", tmp_path / "table.txt"]
    paths[0].write_bytes(b"\x89PNG")
    paths[1].write_text("a table")
    return paths


def runs_of(mlflow: Any, experiment: str) -> list[Any]:
    found = mlflow.get_experiment_by_name(experiment)
    return list(mlflow.search_runs([found.experiment_id]))


def test_a_report_becomes_the_artifacts_of_one_flat_run(
    uri: str, experiment: str, report: list[Path], mlflow: Any, tmp_path: Path
) -> None:
    run_id = record_summary(report, uri=uri, experiment=experiment, sweep_id="demo")
    (run,) = runs_of(mlflow, experiment)
    assert run.info.run_id == run_id
    assert run.info.status == "FINISHED"
    assert (run.data.tags["kind"], run.data.tags["sweep.id"]) == ("sweep", "demo")
    assert "mlflow.parentRunId" not in run.data.tags
    assert run.data.metrics == {}
    names = {file.path for file in mlflow.list_artifacts(run_id, "report")}
    assert names == {"report/overview.png", "report/table.txt"}
    (tmp_path / "back").mkdir()
    back = mlflow.download_artifacts(run_id, "report/overview.png", str(tmp_path / "back"))
    assert Path(back).read_bytes() == report[0].read_bytes()


def test_the_same_report_is_kept_and_another_replaces_it(
    uri: str, experiment: str, report: list[Path], mlflow: Any
) -> None:
    def put(sweep_id: str = "demo") -> str | None:
        return record_summary(report, uri=uri, experiment=experiment, sweep_id=sweep_id)

    first, other = put(), put("other")
    assert put() == first
    report[1].write_text("another table")
    second = put()
    assert second != first
    assert {run.info.run_id for run in runs_of(mlflow, experiment)} == {second, other}


def test_a_summary_is_no_cell(
    uri: str, experiment: str, report: list[Path], tmp_path: Path, factory: ModuleType
) -> None:
    sweep = factory.write_sweep(tmp_path / experiment, [factory.make_result()])
    cells = sync(sweep, uri=uri).run_ids
    run_id = record_summary(report, uri=uri, experiment=experiment, sweep_id=experiment)
    assert run_id is not None
    links = sweep_links(uri, experiment, experiment)
    assert run_id not in links
    assert all(cell in links for cell in cells.values())
    again = sync(sweep, uri=uri)
    assert (again.uploaded, again.run_ids) == ((), cells)


def test_a_half_written_summary_is_replaced(
    uri: str, experiment: str, report: list[Path], mlflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", lambda *_: 1 / 0)
        assert record_summary(report, uri=uri, experiment=experiment, sweep_id="demo") is None
    run_id = record_summary(report, uri=uri, experiment=experiment, sweep_id="demo")
    assert [(r.info.run_id, r.info.status) for r in runs_of(mlflow, experiment)] == [
        (run_id, "FINISHED")
    ]


def test_a_broken_store_and_a_missing_file_cost_one_warning_each(
    uri: str, report: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "mlflow.db"
    broken.write_text("not a database" * 99)
    assert record_summary(report, uri=f"sqlite:///{broken}", experiment="x", sweep_id="x") is None
    report[0].unlink()
    assert record_summary(report, uri=uri, experiment="first", sweep_id="x") is None
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 2
