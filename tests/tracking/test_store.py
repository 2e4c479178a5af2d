from __future__ import annotations

import logging
import math
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedprivacy.result import CellResult
from fedprivacy.tracking import connection, store
from fedprivacy.tracking.connection import TrackingError, sqlite_path
from fedprivacy.tracking.store import Recorder, prepare_store, record


def put(result: CellResult, root: Path, uri: str, experiment: str, factory: ModuleType) -> Any:
    factory.write_sweep(root, [result])
    folder = root / result.cell_id
    return record(result, folder, uri=uri, experiment=experiment, sweep_id="sweep")


def runs_of(mlflow: Any, experiment: str) -> list[Any]:
    found = mlflow.get_experiment_by_name(experiment)
    return list(mlflow.search_runs([found.experiment_id]))


def test_a_prepared_store_is_in_wal_mode_and_prepared_once(uri: str) -> None:
    assert prepare_store(uri, "first") == prepare_store(uri, "first")
    path = sqlite_path(uri)
    assert path is not None
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert not list(path.parent.glob("*.init"))


def test_a_cell_becomes_one_flat_run(
    uri: str, experiment: str, tmp_path: Path, factory: ModuleType, mlflow: Any
) -> None:
    result = factory.make_result()
    run_id = put(result, tmp_path, uri, experiment, factory)
    (run,) = runs_of(mlflow, experiment)
    assert run.info.run_id == run_id
    assert run.info.run_name == "dpsgd every_round higgs s0"
    assert run.info.status == "FINISHED"
    assert "mlflow.parentRunId" not in run.data.tags
    assert run.data.tags["privacy.epsilon"] == "8.18"
    assert run.data.params["algorithm.noise_multiplier"] == "2.0"
    assert run.data.metrics["score"] == result.score.value
    assert run.data.metrics["privacy/epsilon"] == 8.181
    assert [m.step for m in mlflow.get_metric_history(run_id, "score")] == list(range(1, 9))
    assert run.info.end_time - run.info.start_time == 2500
    names = {file.path for file in mlflow.list_artifacts(run_id)}
    assert names == {"config.yaml", "ledger.jsonl", "result.json"}


def test_artifacts_lie_beside_the_store_wherever_we_are(
    uri: str,
    experiment: str,
    tmp_path: Path,
    factory: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    run_id = put(factory.make_result(), tmp_path / "sweep", uri, experiment, factory)
    path = sqlite_path(uri)
    assert path is not None
    assert (path.parent / "mlartifacts" / experiment / run_id / "artifacts").is_dir()
    assert not (tmp_path / "mlruns").exists()


def test_nothing_infinite_or_undefined_is_stored(
    uri: str, experiment: str, tmp_path: Path, factory: ModuleType, mlflow: Any
) -> None:
    for result in (
        factory.make_result("svt"),
        factory.diverged_result(algorithm="gaussian"),
        factory.failed_result(),
    ):
        assert put(result, tmp_path, uri, experiment, factory)
    runs = runs_of(mlflow, experiment)
    assert len(runs) == 3
    for run in runs:
        assert "privacy/epsilon" not in run.data.metrics
        for key in run.data.metrics:
            for point in mlflow.get_metric_history(run.info.run_id, key):
                assert math.isfinite(point.value)
                assert abs(point.value) < 1e300
    path = sqlite_path(uri)
    assert path is not None
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM metrics WHERE is_nan").fetchone() == (0,)


def test_recording_twice_changes_nothing(
    uri: str, experiment: str, tmp_path: Path, factory: ModuleType, mlflow: Any
) -> None:
    first = put(factory.make_result(), tmp_path, uri, experiment, factory)
    assert put(factory.make_result(), tmp_path, uri, experiment, factory) == first
    assert len(runs_of(mlflow, experiment)) == 1


def test_the_same_cell_of_another_sweep_is_another_run(
    uri: str, experiment: str, tmp_path: Path, factory: ModuleType, mlflow: Any
) -> None:
    result = factory.make_result()
    for sweep in ("one", "two"):
        assert record(result, tmp_path, uri=uri, experiment=experiment, sweep_id=sweep)
    assert len(runs_of(mlflow, experiment)) == 2


def test_a_failure_that_was_run_again_is_replaced(
    uri: str, experiment: str, tmp_path: Path, factory: ModuleType, mlflow: Any
) -> None:
    failed = put(factory.failed_result(), tmp_path, uri, experiment, factory)
    assert [run.info.status for run in runs_of(mlflow, experiment)] == ["FAILED"]
    better = put(factory.make_result(), tmp_path, uri, experiment, factory)
    (run,) = runs_of(mlflow, experiment)
    assert run.info.run_id == better != failed
    assert run.data.tags["status"] == "ok"


def test_a_half_written_run_is_replaced(
    uri: str,
    experiment: str,
    tmp_path: Path,
    factory: ModuleType,
    mlflow: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import MlflowClient

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", lambda *_: 1 / 0)
        assert put(factory.make_result(), tmp_path, uri, experiment, factory) is None
    assert [run.info.status for run in runs_of(mlflow, experiment)] == ["RUNNING"]
    assert put(factory.make_result(), tmp_path, uri, experiment, factory)
    assert [run.info.status for run in runs_of(mlflow, experiment)] == ["FINISHED"]


def test_many_sites_and_rounds_fit_through_mlflows_limits(
    uri: str, experiment: str, tmp_path: Path, factory: ModuleType, mlflow: Any
) -> None:
    result = factory.make_result()
    sites = {f"site{index}": 0.5 for index in range(150)}
    config = {f"key{index}": index for index in range(230)}
    large = replace(
        result,
        rounds=tuple(replace(block, score_per_site=sites) for block in result.rounds),
        config=config,
    )
    run_id = put(large, tmp_path, uri, experiment, factory)
    run = mlflow.get_run(run_id)
    assert run.data.params == {key: str(value) for key, value in config.items()}
    assert sum(key.startswith("score/site/") for key in run.data.metrics) == 150


def test_a_deleted_experiment_comes_back(
    uri: str, experiment: str, tmp_path: Path, factory: ModuleType, mlflow: Any
) -> None:
    experiment_id = prepare_store(uri, experiment)
    mlflow.delete_experiment(experiment_id)
    store._experiments.clear()
    assert prepare_store(uri, experiment) == experiment_id
    assert put(factory.make_result(), tmp_path, uri, experiment, factory)


def test_a_locked_store_costs_one_warning_and_no_cell(
    uri: str,
    experiment: str,
    tmp_path: Path,
    factory: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(connection, "BUSY_SECONDS", 0.1)
    path = sqlite_path(uri)
    assert path is not None
    recorder = Recorder(uri, experiment, "sweep")
    results = [factory.make_result(seed=seed) for seed in range(3)]
    factory.write_sweep(tmp_path, results)
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        for result in results:
            recorder(result, tmp_path / result.cell_id)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert f"fedprivacy report {tmp_path} --track {uri}" in warning
    assert recorder.missed == [tmp_path / result.cell_id for result in results]
    assert recorder.run_ids == {}


def test_a_recorder_uses_a_store_that_is_back(
    uri: str, experiment: str, tmp_path: Path, factory: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(uri, experiment, "sweep")
    with monkeypatch.context() as patch:
        patch.setattr(store, "PAUSE_SECONDS", 0.0)
        patch.setattr(store, "record", lambda *_, **__: None)
        recorder(factory.make_result(), tmp_path)
    recorder(factory.make_result(seed=1), tmp_path)
    assert recorder.missed == [tmp_path]
    assert list(recorder.run_ids) == [factory.make_result(seed=1).cell_id]


def test_a_disabled_recorder_does_nothing(tmp_path: Path, factory: ModuleType) -> None:
    recorder = Recorder(f"sqlite:///{tmp_path / 'none.db'}", "x", "x", enabled=False)
    recorder(factory.make_result(), tmp_path)
    assert not list(tmp_path.iterdir())
    assert recorder.missed == []


@pytest.mark.parametrize("content", [b"not a database" * 99, b""], ids=["damaged", "empty"])
def test_a_damaged_store_is_refused_and_an_empty_file_is_not(
    content: bytes,
    tmp_path: Path,
    factory: ModuleType,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(content)
    if not content:
        created: list[str] = []
        monkeypatch.setattr(store, "client", lambda uri: created.append(uri) or _Fake(uri))
        assert prepare_store(f"sqlite:///{path}", "x") == "7"
        assert created[0].endswith("mlflow.db.init/mlflow.db")
        return
    assert (
        record(
            factory.make_result(), tmp_path, uri=f"sqlite:///{path}", experiment="x", sweep_id="x"
        )
        is None
    )
    assert "move it away" in caplog.text
    assert path.read_bytes() == content
    with pytest.raises(TrackingError, match="cannot be written"):
        prepare_store(f"sqlite:///{path}", "x")


class _Fake:
    """Stands for MLflow where only our own handling of files is tested."""

    def __init__(self, uri: str) -> None:
        self._path = sqlite_path(uri)

    def search_experiments(self, max_results: int) -> list[Any]:
        assert self._path is not None
        with closing(sqlite3.connect(self._path)) as db:
            db.execute("CREATE TABLE t (x)")
        return []

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str, artifact_location: str) -> str:
        return "7"


WORKER = """
import importlib.util, sys
from pathlib import Path
from fedprivacy.tracking.store import record
spec = importlib.util.spec_from_file_location("result_factory", sys.argv[1])
sys.modules["result_factory"] = factory = importlib.util.module_from_spec(spec)
spec.loader.exec_module(factory)
for seed in range(int(sys.argv[3]), int(sys.argv[4])):
    assert record(factory.make_result(seed=seed), Path("nowhere"), uri=sys.argv[2],
                  experiment="both", sweep_id="sweep")
"""


@pytest.mark.slow
def test_two_processes_may_start_a_store_and_record_the_same_cells_at_once(
    tmp_path: Path, factory: ModuleType
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(factory.__file__), uri, str(first), str(last)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first, last in ((0, 6), (4, 10))
    ]
    for worker in workers:
        assert (worker.communicate(timeout=200)[1], worker.returncode) == ("", 0)
    with connection.quiet():
        assert len(runs_of(connection.client(uri), "both")) == 10
