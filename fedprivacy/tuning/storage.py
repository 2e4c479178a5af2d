"""Where a study is kept: a journal file beside its trials, or a database for several machines."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedprivacy.config.schema import TuningConf
from fedprivacy.errors import ConfigError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

JOURNAL = "study.log"
_LOCK = "study.lock"
_ATTEMPTS = 8
_PATIENCE_S = 30
"""How long a lock may stand before it is that of a worker that died."""

log = logging.getLogger(__name__)


def open_storage(conf: TuningConf) -> BaseStorage:
    """The Optuna storage of a study; makes it where it is missing.

    A journal file holds for the workers of one machine, or of several that share a file system; a
    database for any. Several workers may open it at the same time.

    Raises:
        ConfigError: the storage cannot be used; says why.
    """
    import optuna
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    # What a user must know of a trial, our own progress line says.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if conf.storage is None:
        folder = Path(conf.dir)
        folder.mkdir(parents=True, exist_ok=True)
        # In whole: a lock is a link to the file, and Optuna breaks that of a worker that was killed
        # only where the link, which it follows from the lock's own folder, leads to the file.
        path = str((folder / JOURNAL).resolve())
        lock = JournalFileSymlinkLock(path, _PATIENCE_S)
        return JournalStorage(JournalFileBackend(path, lock_obj=lock))
    if "://" not in conf.storage:
        raise ConfigError(
            "tuning.storage",
            conf.storage,
            "null (a journal file in tuning.dir) or a database URL",
            "tuning.storage=postgresql+psycopg://user:password@host/database",
        )
    for attempt in range(_ATTEMPTS):
        try:
            return RDBStorage(conf.storage, engine_kwargs={"pool_pre_ping": True})
        except Exception as error:
            # Workers that start together make the tables together: all but one must try again.
            if attempt == _ATTEMPTS - 1 or isinstance(error, ModuleNotFoundError):
                raise ConfigError(
                    "tuning.storage",
                    shown(conf.storage),
                    f"a database that Optuna can use ({_first_line(error)})",
                    "check that it runs and that its driver is installed: "
                    "pip install 'fedprivacy[postgresql]'",
                ) from error
            time.sleep(0.25 * (attempt + 1))
    raise AssertionError


@contextmanager
def study_lock(conf: TuningConf) -> Iterator[None]:
    """Keeps the other workers of this file system waiting; the system drops it if we die."""
    import fcntl

    folder = Path(conf.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = open(folder / _LOCK, "a+b")  # noqa: SIM115
    except OSError as error:
        allowed = f"a folder that can be made and written ({error.strerror})"
        raise ConfigError("tuning.dir", conf.dir, allowed, "tuning.dir=outputs/tuning/x") from error
    with opened as handle:
        fcntl.flock(handle.fileno(), fcntl.LOCK_EX)
        yield


def dashboard_command(conf: TuningConf) -> str:
    """What to type to watch the study in the browser.

    A database's password is not shown; PostgreSQL takes it from the environment.
    """
    if conf.storage is None:
        return shlex.join(["optuna-dashboard", str(Path(conf.dir) / JOURNAL)])
    from sqlalchemy.engine import URL, make_url

    url = make_url(conf.storage)
    bare = URL.create(
        url.drivername, url.username, None, url.host, url.port, url.database, url.query
    )
    command = shlex.join(["optuna-dashboard", str(bare)])
    return f"PGPASSWORD=... {command}" if url.password else command


def shown(url: str) -> str:
    """A storage without its password."""
    if "://" not in url:
        return url
    from sqlalchemy.engine import make_url

    return make_url(url).render_as_string(hide_password=True)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
