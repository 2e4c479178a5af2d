"""The accounting package is a library of its own."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from pathlib import Path

import fedprivacy.accounting


def test_imports_nothing_of_the_training_side():
    code = (
        "import sys, fedprivacy.accounting;"
        "heavy = {'torch', 'flwr', 'hydra', 'omegaconf', 'mlflow', 'opacus', 'sklearn'};"
        "ours = {n for n in sys.modules if n.startswith('fedprivacy.')"
        " and not n.startswith(('fedprivacy.accounting', 'fedprivacy.errors'))};"
        "print(sorted(heavy & set(sys.modules)), sorted(ours))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment()
    )
    assert found.stdout.strip() == "[] []"


def _environment() -> dict[str, str]:
    root = str(Path(fedprivacy.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": root}


def test_the_example_of_the_documentation_is_true():
    results = doctest.testmod(fedprivacy.accounting)
    assert results.attempted >= 5
    assert results.failed == 0


def test_everything_announced_exists():
    for name in fedprivacy.accounting.__all__:
        assert hasattr(fedprivacy.accounting, name)
