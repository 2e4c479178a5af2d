"""Uploading what the store misses: results are files first, so nothing is ever lost."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedprivacy.result import RESULT_FILE, CellResult, read_result
from fedprivacy.tracking.connection import TrackingError
from fedprivacy.tracking.runs import KnownRun, known_runs, put
from fedprivacy.tracking.store import open_store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SyncReport:
    """What an upload did.

    Attributes:
        uploaded: cells that the store did not have.
        present: cells that it had.
        missing: cells that it still does not have, because it failed.
        run_ids: run of each cell that the store has.
    """

    uploaded: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    run_ids: Mapping[str, str] = field(default_factory=dict)


def sync(
    folders: Sequence[Path] | Path,
    *,
    uri: str,
    experiment: str | None = None,
    sweep_id: str | None = None,
) -> SyncReport:
    """Upload every result below the sweep folders that the store does not hold.

    Args:
        folders: sweep folders, each holding one folder per cell.
        uri: MLflow tracking URI.
        experiment: name of the experiment; None: the name of each sweep folder.
        sweep_id: the sweep's id; None: the name of each sweep folder.

    Returns:
        what was done; after one warning, also when the store cannot be used.

    Raises:
        DataError: a file is there but is not a result.
    """
    uploaded: list[str] = []
    present: list[str] = []
    missing: list[str] = []
    run_ids: dict[str, str] = {}
    for folder in [folders] if isinstance(folders, Path) else folders:
        name = folder.resolve().name
        cells = _cells(folder)
        try:
            with open_store(uri, experiment or name) as (store, experiment_id):
                known = _by_cell(known_runs(store, experiment_id, sweep_id or name))
                for path, result in cells:
                    held = known[result.cell_id]
                    run_id = put(store, experiment_id, sweep_id or name, result, path, held)
                    had = any(run.run_id == run_id for run in held)
                    (present if had else uploaded).append(result.cell_id)
                    run_ids[result.cell_id] = run_id
        except TrackingError as error:
            left = [result.cell_id for _, result in cells if result.cell_id not in run_ids]
            missing += left
            log.warning("%d cells of %s are not in MLflow: %s", len(left), folder, error)
    return SyncReport(tuple(uploaded), tuple(present), tuple(missing), run_ids)


def _cells(folder: Path) -> list[tuple[Path, CellResult]]:
    found = [(p.parent, read_result(p.parent)) for p in sorted(folder.glob(f"*/{RESULT_FILE}"))]
    return [(path, result) for path, result in found if result is not None]


def _by_cell(runs: Sequence[KnownRun]) -> dict[str, list[KnownRun]]:
    known: dict[str, list[KnownRun]] = defaultdict(list)
    for run in runs:
        known[run.cell_id].append(run)
    return known
