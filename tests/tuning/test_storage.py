"""What is printed to watch a study opens it, and shows no password."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fedprivacy.config.schema import TuningConf
from fedprivacy.tuning import storage
from fedprivacy.tuning.storage import dashboard_command


@pytest.mark.parametrize(
    ("url", "command"),
    [
        (None, "optuna-dashboard 'my studies/a/study.log'"),
        ("sqlite:///a.db", "optuna-dashboard sqlite:///a.db"),
        (
            "postgresql+psycopg://me:secret@host/db",
            "PGPASSWORD=... optuna-dashboard postgresql+psycopg://me@host/db",
        ),
    ],
)
def test_the_dashboard_s_command(compose, url: str | None, command: str) -> None:
    conf: TuningConf = replace(compose().tuning, dir="my studies/a", storage=url)
    assert dashboard_command(conf) == command
    assert "secret" not in command
    assert shlex.split(command)


def test_the_lock_of_a_worker_that_was_killed_is_broken(
    compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies while it writes; where the folder is relative Optuna would wait for ever."""
    import optuna

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storage, "_PATIENCE_S", 3)
    conf = replace(compose().tuning, dir="outputs/tuning/small", storage=None)
    study = optuna.create_study(storage=storage.open_storage(conf), study_name="small")
    storage.open_storage(conf)._backend._lock.acquire()  # and it dies
    started = time.monotonic()
    study.set_user_attr("after", "the lock")
    assert 2 < time.monotonic() - started < 20
    again = optuna.load_study(storage=storage.open_storage(conf), study_name="small")
    assert again.user_attrs == {"after": "the lock"}
