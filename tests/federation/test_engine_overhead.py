"""The benchmark of the engines: it compares like with like, and says so in its file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "engine_overhead.py"


@pytest.mark.slow
@pytest.mark.skipif(not SCRIPT.exists(), reason="needs the checkout: benchmarks are not installed")
def test_the_engine_trains_to_the_weights_of_the_bare_loop(tmp_path: Path) -> None:
    file = tmp_path / "results" / "engine.json"
    words = [str(SCRIPT), "--repeats", "1", "--no-ray", "--json", str(file)]
    ran = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=tmp_path)
    assert file.exists(), ran.stderr
    found = json.loads(file.read_text())
    assert found["name"] == "engine_overhead"
    assert "synthetic" in found["data"]
    assert set(found["ratios"]) == {"inprocess"}
    assert found["weights"]["bare"] == found["weights"]["inprocess"]
    assert len(found["weights"]["bare"]) == 1
    # A loose bound, for one repeat on whatever machine: the benchmark itself asks for 1.10.
    assert 0.5 < found["ratios_cpu"]["inprocess"] < 1.5
    assert "skipped Flower's Ray engine" in ran.stdout
