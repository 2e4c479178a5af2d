from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedprivacy.tracking import connection
from fedprivacy.tracking.store import record
from fedprivacy.tracking.sync import sync


def test_only_what_is_missing_is_uploaded(
    uri: str, experiment: str, tmp_path: Path, factory: ModuleType, mlflow: Any
) -> None:
    results = [factory.make_result(seed=seed) for seed in range(3)]
    sweep = factory.write_sweep(tmp_path / experiment, results)
    first = results[0].cell_id
    held = record(results[0], sweep / first, uri=uri, experiment=experiment, sweep_id=experiment)
    report = sync(sweep, uri=uri)
    assert report.present == (first,)
    assert set(report.uploaded) == {result.cell_id for result in results[1:]}
    assert report.run_ids[first] == held
    assert sync([sweep], uri=uri).uploaded == ()
    found = mlflow.get_experiment_by_name(experiment)
    assert len(mlflow.search_runs([found.experiment_id])) == 3


def test_a_store_that_fails_is_reported_once(
    experiment: str, tmp_path: Path, factory: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    results = [factory.make_result(seed=seed) for seed in range(3)]
    sweep = factory.write_sweep(tmp_path / experiment, results)
    broken = tmp_path / "mlflow.db"
    broken.write_text("not a database" * 99)
    report = sync(sweep, uri=f"sqlite:///{broken}")
    assert set(report.missing) == {result.cell_id for result in results}
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


def test_experiment_and_sweep_may_be_named(
    uri: str, experiment: str, tmp_path: Path, factory: ModuleType
) -> None:
    sweep = factory.write_sweep(tmp_path / "folder", [factory.make_result()])
    (run_id,) = sync(sweep, uri=uri, experiment=experiment, sweep_id="mine").run_ids.values()
    with connection.quiet():
        run = connection.client(uri).get_run(run_id)
    assert run.data.tags["sweep.id"] == "mine"
