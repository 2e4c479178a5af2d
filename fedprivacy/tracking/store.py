"""Recording cells in MLflow. ``result.json`` is the truth; the store is a copy that may fail."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fedprivacy.result import CellResult
from fedprivacy.tracking.connection import (
    TrackingError,
    absolute_uri,
    check,
    client,
    quiet,
    shown,
    sqlite_path,
    store_lock,
)
from fedprivacy.tracking.runs import known_runs, put

log = logging.getLogger(__name__)

PAUSE_SECONDS = 60.0
_experiments: dict[tuple[str, str], str] = {}


def prepare_store(uri: str, experiment: str) -> str:
    """Make the store and the experiment if they are missing; returns the experiment's id.

    Call it once before workers start: MLflow's own migrations break when several processes run
    them at once. A new SQLite store is made under another name and renamed when it is whole, so
    that a crash leaves none rather than a damaged one; it is switched to write-ahead logging.

    Args:
        uri: MLflow tracking URI.
        experiment: name of the experiment; one that was deleted is restored.

    Raises:
        TrackingError: the store cannot be used; says why and what to do.
    """
    with open_store(uri, experiment) as (_, experiment_id):
        return experiment_id


@contextmanager
def open_store(uri: str, experiment: str) -> Iterator[tuple[Any, str]]:
    """The store's client and the experiment's id, with all other writers of this machine waiting.

    Raises:
        TrackingError: the store cannot be used, also when the block itself finds out.
    """
    uri = absolute_uri(uri)
    try:
        with store_lock(uri):
            check(uri)  # before MLflow, which takes seconds to import, is needed
            with quiet():
                _create_sqlite(uri)
                store = client(uri)
                yield store, _experiment_id(store, uri, experiment)
    except TrackingError:
        _experiments.pop((uri, experiment), None)
        raise
    except Exception as error:
        _experiments.pop((uri, experiment), None)
        raise TrackingError(
            f"MLflow refuses the store {shown(uri)}: {_first_line(error)}"
        ) from error


def record(
    result: CellResult,
    folder: Path,
    *,
    uri: str,
    experiment: str,
    sweep_id: str,
    extra: Mapping[str, str] | None = None,
) -> str | None:
    """Write one finished cell as one flat run; returns the run's id.

    Recording the same result again changes nothing; the result of a cell that was run again
    replaces the run of the old one.

    Args:
        result: the cell.
        folder: its folder, for the artifacts.
        uri: MLflow tracking URI.
        experiment: name of the experiment.
        sweep_id: the sweep that the cell belongs to.
        extra: further tags of the run; runs that lack them are another's.

    Returns:
        None, after one warning, when the store cannot be used: no cell is lost, since
        ``fedprivacy.tracking.sync.sync`` uploads it later from its folder.
    """
    try:
        with open_store(uri, experiment) as (store, experiment_id):
            known = known_runs(store, experiment_id, sweep_id, result.cell_id, extra)
            return put(store, experiment_id, sweep_id, result, folder, known, extra)
    except TrackingError as error:
        log.warning(
            "cell %s is not in MLflow yet: %s. Its result is safe in %s; "
            "upload it with: fedprivacy report %s --track %s",
            result.cell_id,
            error,
            folder,
            folder.parent,
            shown(uri),
        )
        return None


class Recorder:
    """Records the cells of one sweep, and stays out of the way while the store is down.

    Args:
        uri: MLflow tracking URI.
        experiment: name of the experiment.
        sweep_id: the sweep's id.
        enabled: False makes every call do nothing.

    Attributes:
        run_ids: run of each recorded cell, by cell.
        missed: folders of the cells that the store did not take.
    """

    def __init__(self, uri: str, experiment: str, sweep_id: str, enabled: bool = True) -> None:
        self.uri, self.experiment, self.sweep_id = uri, experiment, sweep_id
        self.enabled = enabled
        self.run_ids: dict[str, str] = {}
        self.missed: list[Path] = []
        self._closed_until = 0.0

    def __call__(
        self, result: CellResult, folder: Path, extra: Mapping[str, str] | None = None
    ) -> None:
        """Record a finished cell; after a failure the store is left alone for a minute."""
        if not self.enabled:
            return
        run_id = None
        if time.monotonic() >= self._closed_until:
            run_id = record(
                result,
                folder,
                uri=self.uri,
                experiment=self.experiment,
                sweep_id=self.sweep_id,
                extra=extra,
            )
            if run_id is None:
                self._closed_until = time.monotonic() + PAUSE_SECONDS
        if run_id is None:
            self.missed.append(folder)
        else:
            self.run_ids[result.cell_id] = run_id


def _create_sqlite(uri: str) -> None:
    """Make a missing SQLite store; the caller holds the lock."""
    path = sqlite_path(uri)
    if path is None or (path.exists() and path.stat().st_size > 0):
        return
    scratch = path.with_name(f"{path.name}.init")
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed: we hold the lock
    scratch.mkdir()
    try:
        fresh = scratch / path.name
        client(f"sqlite:///{fresh}").search_experiments(max_results=1)
        with closing(sqlite3.connect(fresh)) as db:
            # Stays with the file. Readers no longer wait for writers; fails on network disks.
            db.execute("PRAGMA journal_mode=wal")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        os.replace(fresh, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _experiment_id(store: Any, uri: str, name: str) -> str:
    if (uri, name) not in _experiments:
        _experiments[uri, name] = _find_or_create(store, uri, name)
    return _experiments[uri, name]


def _find_or_create(store: Any, uri: str, name: str) -> str:
    found = store.get_experiment_by_name(name)
    if found is None:
        try:
            created: str = store.create_experiment(name, artifact_location=_artifacts(uri, name))
            return created
        except Exception:
            found = store.get_experiment_by_name(name)  # another machine was faster
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        store.restore_experiment(found.experiment_id)
    experiment_id: str = found.experiment_id
    return experiment_id


def _artifacts(uri: str, experiment: str) -> str | None:
    """Beside an SQLite store, whatever the current directory; other stores know their own."""
    path = sqlite_path(uri)
    if path is None:
        return None
    return (path.parent / "mlartifacts" / quote(experiment, safe="")).as_uri()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
