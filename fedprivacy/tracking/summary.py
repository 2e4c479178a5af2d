"""The report of a sweep as one flat run of its own, beside the runs of the cells."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedprivacy.tracking.connection import TrackingError, shown
from fedprivacy.tracking.runs import SUMMARY_KIND, search_sweep
from fedprivacy.tracking.store import open_store

log = logging.getLogger(__name__)

FOLDER = "report"
DIGEST_TAG = "report.digest"


def record_summary(
    report_paths: Sequence[Path], *, uri: str, experiment: str, sweep_id: str
) -> str | None:
    """Put a sweep's table, CSV file and figures into one run as artifacts; returns its id.

    The run has the tags ``kind=sweep`` and ``sweep.id`` and neither a dataset nor a metric, so
    searches for cells do not find it. The same report again changes nothing; another one takes
    the place of the old.

    Args:
        report_paths: files of the report, as ``write_report`` returns them; no two of one name.
        uri: MLflow tracking URI.
        experiment: name of the experiment.
        sweep_id: the sweep that the report is about.

    Returns:
        None, after one warning, when the store or a file cannot be used: the report is safe in
        its folder.
    """
    try:
        own = _digest(report_paths)
        with open_store(uri, experiment) as (store, experiment_id):
            return _put(store, experiment_id, sweep_id, report_paths, own)
    except (TrackingError, OSError) as error:
        log.warning(
            "the report of %s is not in MLflow %s: %s. Its files are safe: %s",
            sweep_id,
            shown(uri),
            error,
            ", ".join(str(path) for path in report_paths),
        )
        return None


def _put(store: Any, experiment_id: str, sweep_id: str, paths: Sequence[Path], digest: str) -> str:
    """Keep the run of this very report or write one, and delete all others of the sweep."""
    known = [
        run
        for run in search_sweep(store, experiment_id, sweep_id)
        if run.data.tags.get("kind") == SUMMARY_KIND
    ]
    same = (
        run.info.run_id
        for run in known
        if run.info.status == "FINISHED" and run.data.tags.get(DIGEST_TAG) == digest
    )
    run_id = next(same, None) or _write(store, experiment_id, sweep_id, paths, digest)
    for run in known:
        if run.info.run_id != run_id:
            store.delete_run(run.info.run_id)
    return run_id


def _write(
    store: Any, experiment_id: str, sweep_id: str, paths: Sequence[Path], digest: str
) -> str:
    tags = {"kind": SUMMARY_KIND, "sweep.id": sweep_id, DIGEST_TAG: digest}
    run = store.create_run(experiment_id, tags=tags, run_name=f"report of {sweep_id}")
    run_id: str = run.info.run_id
    for path in paths:
        store.log_artifact(run_id, str(path), FOLDER)
    store.set_terminated(run_id, status="FINISHED")
    return run_id


def _digest(paths: Sequence[Path]) -> str:
    """Sixteen hex digits of all files' names and contents, in whatever order they come."""
    lines = (f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths)
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]
