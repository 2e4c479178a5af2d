"""One finished cell as one flat run, written once however often it is recorded."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fedprivacy.result import LEDGER_FILE, RESULT_FILE, CellResult
from fedprivacy.tracking.content import DIGEST_TAG, digest, metrics, params, run_name, tags

ARTIFACTS = (".hydra/config.yaml", LEDGER_FILE, RESULT_FILE)
SUMMARY_KIND = "sweep"
"""Tag ``kind`` of the run that holds a sweep's report; runs of cells have no such tag."""
_MAX_PARAMS = 100
_MAX_ENTITIES = 900
_PAGE = 500


@dataclass(frozen=True)
class KnownRun:
    """A run that the store holds.

    Attributes:
        run_id: MLflow's name for it.
        cell_id: the cell it is about.
        digest: of the result it was written from.
        complete: whether it was written to its end.
    """

    run_id: str
    cell_id: str
    digest: str
    complete: bool


def search_sweep(
    client: Any, experiment_id: str, sweep_id: str, cell_id: str | None = None
) -> list[Any]:
    """MLflow's runs of a sweep, or of one of its cells, newest first, without deleted ones."""
    wanted = f"tags.`sweep.id` = {quoted(sweep_id)}"
    if cell_id is not None:
        wanted += f" and tags.`cell.id` = {quoted(cell_id)}"
    found: list[Any] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment_id], filter_string=wanted, max_results=_PAGE, page_token=token
        )
        found += page
        token = page.token
        if not token:
            return found


def known_runs(
    client: Any,
    experiment_id: str,
    sweep_id: str,
    cell_id: str | None = None,
    extra: Mapping[str, str] | None = None,
) -> list[KnownRun]:
    """What the store holds about the cells of a sweep, or about one of them.

    Args:
        client: an ``MlflowClient``.
        experiment_id: where runs of the sweep are.
        sweep_id: the sweep.
        cell_id: of one cell alone.
        extra: further tags that a run must have: trials of a study may be the same cell.
    """
    runs = search_sweep(client, experiment_id, sweep_id, cell_id)
    return [
        _known(run)
        for run in runs
        if run.data.tags.get("kind") != SUMMARY_KIND
        and all(run.data.tags.get(key) == value for key, value in (extra or {}).items())
    ]


def put(
    client: Any,
    experiment_id: str,
    sweep_id: str,
    result: CellResult,
    folder: Path,
    known: Sequence[KnownRun],
    extra: Mapping[str, str] | None = None,
) -> str:
    """Make sure that exactly one complete run tells of the result; returns its id.

    Args:
        client: an ``MlflowClient``.
        experiment_id: where runs of the sweep are.
        sweep_id: the sweep that the cell belongs to.
        result: the cell.
        folder: the cell's folder, for the artifacts.
        known: what the store already holds about this cell: a run of this very result is kept,
            others (of a failure that was run again, or of a writer that died) are deleted.
        extra: further tags of the run.
    """
    own = digest(result)
    run_id = next((run.run_id for run in known if run.complete and run.digest == own), None)
    if run_id is None:
        run_id = _write(client, experiment_id, sweep_id, result, folder, extra or {})
    for run in known:
        if run.run_id != run_id:
            client.delete_run(run.run_id)
    return run_id


def _write(
    client: Any,
    experiment_id: str,
    sweep_id: str,
    result: CellResult,
    folder: Path,
    extra: Mapping[str, str],
) -> str:
    end = _finished_at(folder)
    start = end - int(1000 * result.timing_s.get("total", 0.0))
    run = client.create_run(
        experiment_id,
        start_time=start,
        tags={**tags(result, sweep_id), **extra},
        run_name=run_name(result),
    )
    run_id: str = run.info.run_id
    _write_values(client, run_id, result, end)
    for name in ARTIFACTS:
        if (folder / name).is_file():
            client.log_artifact(run_id, str(folder / name))
    status = "FAILED" if result.status == "failed" else "FINISHED"
    client.set_terminated(run_id, status=status, end_time=end)
    return run_id


def _write_values(client: Any, run_id: str, result: CellResult, at: int) -> None:
    """Parameters and metrics in as few transactions as MLflow's limits allow: mostly one."""
    from mlflow.entities import Metric, Param

    pending_params = iter([Param(key, value) for key, value in params(result).items()])
    pending_metrics = iter([Metric(key, value, at, step) for key, step, value in metrics(result)])
    while batch := (
        list(islice(pending_params, _MAX_PARAMS)),
        list(islice(pending_metrics, _MAX_ENTITIES)),
    ):
        if not any(batch):
            return
        client.log_batch(run_id, params=batch[0], metrics=batch[1])


def _finished_at(folder: Path) -> int:
    """When the cell ended, in milliseconds since 1970: the age of its result file."""
    path = folder / RESULT_FILE
    return int(1000 * (path.stat().st_mtime if path.exists() else time.time()))


def _known(run: Any) -> KnownRun:
    held = run.data.tags
    return KnownRun(
        run_id=run.info.run_id,
        cell_id=held.get("cell.id", ""),
        digest=held.get(DIGEST_TAG, ""),
        complete=run.info.status in ("FINISHED", "FAILED"),
    )


def quoted(text: str) -> str:
    """A string of MLflow's search language, which knows two quotation marks and no escape."""
    mark = "'" if '"' in text else '"'
    return f"{mark}{text}{mark}"
