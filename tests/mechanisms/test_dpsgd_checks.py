"""The mechanism passes every named check; ``test_mutants.py`` shows that the checks can fail."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from fedprivacy.mechanisms.dpsgd import DpSgd


def load_checks():
    """The module beside this file; test folders are no packages, so it is loaded by path."""
    if "dpsgd_checks" not in sys.modules:
        path = Path(__file__).with_name("dpsgd_checks.py")
        spec = importlib.util.spec_from_file_location("dpsgd_checks", path)
        sys.modules["dpsgd_checks"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["dpsgd_checks"]


CHECKS = load_checks().CHECKS


@pytest.mark.parametrize("name", CHECKS)
def test_the_mechanism_passes(make_task, name: str) -> None:
    CHECKS[name](make_task, DpSgd)
