from __future__ import annotations

import logging
import os
import socket
import sqlite3
import time
import warnings
from pathlib import Path

import pytest

from fedprivacy.tracking import connection
from fedprivacy.tracking.connection import (
    TrackingError,
    absolute_uri,
    check,
    quiet,
    shown,
    sqlite_path,
    store_lock,
)


def test_a_relative_sqlite_file_means_the_same_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = absolute_uri("sqlite:///sub/mlflow.db")
    monkeypatch.chdir("/")
    assert sqlite_path(uri) == tmp_path / "sub" / "mlflow.db"
    assert absolute_uri(uri) == uri


def test_other_stores_have_no_file() -> None:
    assert sqlite_path("http://server:5000") is None
    assert absolute_uri("postgresql://host/db") == "postgresql://host/db"


def test_passwords_are_not_shown() -> None:
    assert shown("postgresql://me:secret@host:5432/db") == "postgresql://me:***@host:5432/db"
    assert shown("sqlite:///mlflow.db") == "sqlite:///mlflow.db"


def test_quiet_puts_everything_back() -> None:
    logger = logging.getLogger("mlflow")
    handler = logging.NullHandler()
    logger.addHandler(handler)
    before = (logger.level, list(logger.handlers), logger.propagate, list(warnings.filters))
    environment = dict(os.environ)
    try:
        with quiet():
            assert not logging.getLogger("mlflow.store.db.utils").isEnabledFor(logging.ERROR)
            assert not logging.getLogger("alembic.runtime").isEnabledFor(logging.ERROR)
            assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
        after = (logger.level, list(logger.handlers), logger.propagate, list(warnings.filters))
        assert after == before
        assert dict(os.environ) == environment
    finally:
        logger.removeHandler(handler)


def test_quiet_leaves_a_telemetry_switch_of_the_user_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    with quiet():
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"


def test_a_locked_file_is_refused_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BUSY_SECONDS", 0.1)
    path = tmp_path / "mlflow.db"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("CREATE TABLE t (x)")
    check(f"sqlite:///{path}")
    holder.execute("BEGIN EXCLUSIVE")
    start = time.monotonic()
    with pytest.raises(TrackingError, match="close the program that holds it"):
        check(f"sqlite:///{path}")
    assert time.monotonic() - start < 2
    holder.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("no database " * 100)
    with pytest.raises(TrackingError, match="move it away"):
        check(f"sqlite:///{path}")


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg2"])
def test_a_server_that_does_not_answer_is_refused(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check(f"{scheme}://127.0.0.1:{port}")
    with pytest.raises(TrackingError, match=f"nobody answers at 127.0.0.1:{port}"):
        check(f"{scheme}://127.0.0.1:{port}")


def test_the_store_lock_excludes_others_and_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LOCK_SECONDS", 0.1)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with store_lock(uri), pytest.raises(TrackingError, match="another process"), store_lock(uri):
        pass
    with store_lock(uri):
        pass
