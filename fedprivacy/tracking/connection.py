"""A store and the way to it: MLflow imported late and kept quiet, dead stores refused fast."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import sqlite3
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fedprivacy.errors import FedPrivacyError

BUSY_SECONDS = 5.0
LOCK_SECONDS = 180.0
_LOGGERS = ("mlflow", "alembic", "sqlalchemy", "sqlalchemy.engine", "huey")
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


class TrackingError(FedPrivacyError):
    """The store cannot be used now. No cell is lost: each can be uploaded later."""


def absolute_uri(uri: str) -> str:
    """The URI with a relative SQLite file made absolute, so that it means the same everywhere."""
    path = sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path}"


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite URI, absolute; None for other stores."""
    for prefix in ("sqlite:///", "sqlite+pysqlite:///"):
        if uri.startswith(prefix):
            return Path(uri.removeprefix(prefix).partition("?")[0]).absolute()
    return None


def shown(uri: str) -> str:
    """The URI for eyes and logs: without the password."""
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}").geturl()


def client(uri: str) -> Any:
    """An ``MlflowClient`` for the URI. Call it, and use it, inside ``quiet``."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep MLflow and what it uses silent and without telemetry; put everything back after.

    Importing MLflow installs log handlers and reads its telemetry switch; both are undone or
    overruled here. A telemetry switch that the user has set is left alone.
    """
    added = {k: v for k, v in _ENVIRONMENT.items() if k not in os.environ}
    before = [_state(logging.getLogger(name)) for name in _LOGGERS]
    try:
        os.environ.update(added)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in _LOGGERS:
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
            import mlflow  # noqa: F401 - the first import sets levels of its own

            for name in _LOGGERS:
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
            yield
    finally:
        for key in added:
            os.environ.pop(key, None)
        for name, state in zip(_LOGGERS, before, strict=True):
            _restore(logging.getLogger(name), state)


def _state(logger: logging.Logger) -> tuple[int, list[logging.Handler], bool, bool]:
    return logger.level, list(logger.handlers), logger.propagate, logger.disabled


def _restore(logger: logging.Logger, state: tuple[int, list[logging.Handler], bool, bool]) -> None:
    level, logger.handlers[:], logger.propagate, logger.disabled = state
    logger.setLevel(level)


def check(uri: str) -> None:
    """Refuse a store that cannot take a write now, within seconds.

    MLflow itself would wait 20 s for every statement on a locked SQLite file and retry a dead
    server for minutes.

    Raises:
        TrackingError: locked, damaged, not writable, or nobody listens there.
    """
    path = sqlite_path(uri)
    if path is not None:
        if path.exists():
            _check_sqlite(path)
    else:
        _check_host(uri)


def _check_sqlite(path: Path) -> None:
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("ROLLBACK")
    except sqlite3.Error as error:
        locked = "locked" in str(error)
        way_out = (
            "close the program that holds it"
            if locked
            else "move it away (a new one is made), or set tracking.uri"
        )
        raise TrackingError(f"the store {path} cannot be written: {error}; {way_out}") from error


def _check_host(uri: str) -> None:
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if parts.hostname is None or scheme not in _PORTS:
        return
    if scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname):
        return
    address = (parts.hostname, parts.port or _PORTS[scheme])
    try:
        socket.create_connection(address, timeout=BUSY_SECONDS).close()
    except OSError as error:
        raise TrackingError(
            f"nobody answers at {address[0]}:{address[1]} ({error}); start the store, or set "
            "tracking.uri"
        ) from error


@contextmanager
def store_lock(uri: str) -> Iterator[None]:
    """Hold the lock under which a store is initialised; the system drops it if we die.

    Raises:
        TrackingError: another process has held it for three minutes, or it cannot be made.
    """
    path = sqlite_path(uri)
    if path is None:
        path = Path(tempfile.gettempdir()) / f"fedprivacy-{sha256(uri.encode()).hexdigest()[:16]}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path.with_name(f"{path.name}.lock"), "a+b")  # noqa: SIM115 - closed below
    except OSError as error:
        raise TrackingError(f"the store {path} cannot be made: {error}") from error
    with handle:
        _wait_for(handle.fileno(), path)
        yield


def _wait_for(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise TrackingError(
                    f"another process has been initialising the store {path} for "
                    f"{LOCK_SECONDS:.0f} s; end it"
                ) from error
            time.sleep(0.05)
