"""Shared by the tests of reports: made-up results."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def factory() -> ModuleType:
    """The factory beside this file; test folders are no packages, so it is loaded by path."""
    if "result_factory" not in sys.modules:
        path = Path(__file__).with_name("factory.py")
        spec = importlib.util.spec_from_file_location("result_factory", path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["result_factory"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["result_factory"]
