"""What Flower changes in a process stays with Flower."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.supercore import telemetry
from flwr.supercore.task_identity import TaskIdentity

from fedprivacy.config.schema import CellConfig
from fedprivacy.errors import ClientFailure
from fedprivacy.federation import client_app
from fedprivacy.federation.engines.local_grid import task_identity
from fedprivacy.federation.flower import process_state_kept, quiet_flower
from fedprivacy.federation.run import run_federation

Tiny = Callable[..., CellConfig]
TELEMETRY = """
import sys
import fedprivacy.federation
assert "flwr" not in sys.modules, "flwr was imported before the switch was set"
from flwr.supercore import telemetry
print(telemetry.FLWR_TELEMETRY_ENABLED)
"""


def surroundings() -> tuple[Any, ...]:
    loggers = [logging.getLogger(name) for name in (None, "flwr", "flwr-telemetry")]
    return (
        dict(os.environ),
        list(sys.path),
        [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        [(log.level, log.propagate, list(log.handlers)) for log in loggers],
        [getattr(TaskIdentity, name) for name in ("_task_id", "_run_id", "_node_id")],
    )


def test_a_run_leaves_the_process_as_it_was(tiny: Tiny) -> None:
    run_federation(tiny())  # imports change the environment, too
    before = surroundings()
    run_federation(tiny())
    assert surroundings() == before


def test_so_does_a_run_that_fails(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    run_federation(tiny())
    monkeypatch.setattr(client_app, "open_runtime", lambda cell: 1 / 0)
    before = surroundings()
    with pytest.raises(ClientFailure, match="ZeroDivisionError"):
        run_federation(tiny())
    assert surroundings() == before


def test_a_run_sends_no_telemetry(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(telemetry, "create_event", lambda *event: sent.append(event))
    monkeypatch.setattr(urllib.request, "urlopen", lambda *call, **_: sent.append(call))
    run_federation(tiny())
    assert sent == []


@pytest.mark.slow
def test_telemetry_is_off_before_flower_is_imported() -> None:
    environment = {**os.environ, "FLWR_TELEMETRY_ENABLED": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", TELEMETRY],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert ran.stdout.strip() == "0"


def test_flower_says_nothing_during_a_run(
    tiny: Tiny, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    run_federation(tiny())
    assert [record for record in caplog.records if record.name.startswith("flwr")] == []
    assert capfd.readouterr() == ("", "")


def test_a_warning_of_flower_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """By whoever listens to everything, and not by Flower's own handler as well."""
    said: list[str] = []
    own = logging.Handler()
    own.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("flwr")
    logger.addHandler(own)
    try:
        with quiet_flower():
            logger.info("Starting strategy")
            logger.warning("odd")
        assert said == []
        logger.warning("after")
        assert said == ["after"]
    finally:
        logger.removeHandler(own)
    assert "odd" in [record.getMessage() for record in caplog.records]
    assert "Starting strategy" not in caplog.text


def test_process_state_is_put_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEPT", "before")
    monkeypatch.setenv("REMOVED", "before")

    def disturb() -> None:
        with process_state_kept():
            os.environ["KEPT"] = "after"
            os.environ["ADDED"] = "x"
            del os.environ["REMOVED"]
            sys.path.insert(0, str(tmp_path))
            logging.getLogger().addHandler(logging.NullHandler())
            logging.getLogger("flwr").setLevel(logging.CRITICAL)
            raise RuntimeError("disturbed")

    before = surroundings()
    with pytest.raises(RuntimeError, match="disturbed"):
        disturb()
    assert surroundings() == before


def test_an_identity_inside_another_gives_it_back() -> None:
    with task_identity(5):
        with task_identity(6):
            assert TaskIdentity.run_id == 6
        assert TaskIdentity.run_id == 5
    with pytest.raises(RuntimeError, match="not set"):
        _ = TaskIdentity.run_id
