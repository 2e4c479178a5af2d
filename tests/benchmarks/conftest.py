"""Benchmark scripts are not part of the package: tests import them by their place."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """``importlib.import_module`` with the scripts' folder where Python looks first."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(SCRIPTS)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(SCRIPTS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
