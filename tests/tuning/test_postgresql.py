"""Workers of several machines meet in a database: a real server, real processes."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow


def load(name: str) -> ModuleType:
    """A module beside this file; test folders are no packages, so it is loaded by path."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"tuning_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    postgres = load("postgres")
    found = postgres.binaries()
    if found is None:
        assert not os.environ.get("CI"), "CI installs PostgreSQL before the tests: see .ci/run"
        pytest.skip("no PostgreSQL server on this machine; Debian: apt-get install postgresql")
    with postgres.server(found) as started:
        yield started


def test_workers_share_a_database_and_outlive_one_that_is_killed(
    small: Callable[..., Path], url: str
) -> None:
    """Four processes make its tables; one of three workers dies in a trial."""
    small()
    processes = load("test_tune_command")
    storage = [f"tuning.storage={url}"]
    words = [*storage, "tuning.name=first", "tuning.n_trials=2", "tuning.confirm=0"]
    together = [
        processes.start(*words, f"tuning.dir=outputs/worker{number}", "tuning.floor=0.5")
        for number in range(2)
    ]
    said = [worker.communicate(timeout=240)[0] for worker in together]
    assert [worker.returncode for worker in together] == [0, 0], said
    processes.share_and_kill(storage)


def test_a_password_is_not_shown(url: str) -> None:
    from fedprivacy.config.schema import TuningConf
    from fedprivacy.errors import ConfigError
    from fedprivacy.tuning.storage import dashboard_command, open_storage

    secret = "postgresql+psycopg://me:hidden@127.0.0.1:1/none"
    conf = TuningConf(dir="x", storage=secret)
    assert "hidden" not in dashboard_command(conf)
    with pytest.raises(ConfigError) as refused:
        open_storage(conf)
    assert "hidden" not in str(refused.value)
