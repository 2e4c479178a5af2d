"""Shared by the tests of tracking: made-up results, and one real store for the whole session."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedprivacy.tracking import connection
from fedprivacy.tracking.store import prepare_store

FACTORY = Path(__file__).parents[1] / "report" / "factory.py"


def load_factory() -> ModuleType:
    """The factory of the report tests; test folders are no packages, so it is loaded by path."""
    if "result_factory" not in sys.modules:
        spec = importlib.util.spec_from_file_location("result_factory", FACTORY)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["result_factory"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["result_factory"]


@pytest.fixture(scope="session")
def factory() -> ModuleType:
    return load_factory()


@pytest.fixture(scope="session")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real SQLite store; each test uses an experiment of its own name."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    prepare_store(uri, "first")
    return uri


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@pytest.fixture
def mlflow(uri: str) -> Iterator[Any]:
    """An ``MlflowClient`` of the session's store."""
    with connection.quiet():
        yield connection.client(uri)
