"""What is printed to watch a study opens it, and shows no password."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from fedprivacy.config.schema import TuningConf
from fedprivacy.tuning.storage import dashboard_command


@pytest.mark.parametrize(
    ("storage", "command"),
    [
        (None, "optuna-dashboard 'my studies/a/study.log'"),
        ("sqlite:///a.db", "optuna-dashboard sqlite:///a.db"),
        (
            "postgresql+psycopg://me:secret@host/db",
            "PGPASSWORD=... optuna-dashboard postgresql+psycopg://me@host/db",
        ),
    ],
)
def test_the_dashboard_s_command(compose, storage: str | None, command: str) -> None:
    conf: TuningConf = replace(compose().tuning, dir="my studies/a", storage=storage)
    assert dashboard_command(conf) == command
    assert "secret" not in command
    assert shlex.split(command)
