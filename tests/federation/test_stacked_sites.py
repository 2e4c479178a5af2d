"""The benchmark of stacked sites: it compares runs that agree, and says where it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "stacked_sites.py"


@pytest.mark.slow
@pytest.mark.skipif(not SCRIPT.exists(), reason="needs the checkout: benchmarks are not installed")
def test_both_engines_agree_and_the_device_is_named(tmp_path: Path) -> None:
    file = tmp_path / "results" / "stacked.json"
    words = ["--repeats", "1", "--rounds", "2", "--precision", "bf16", "--sites", "1", "6"]
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), *words, "--json", str(file)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(file.read_text())
    assert found["device"] in ("cpu", "cuda")
    assert ("no CUDA device here" in ran.stdout) == (found["device"] == "cpu")
    assert [(row["algorithm"], row["sites"]) for row in found["rows"]] == [
        ("none", 1), ("none", 6), ("dpsgd", 1), ("dpsgd", 6)
    ]  # fmt: skip
    for row in found["rows"]:
        assert row["agree"]
        assert set(row["median_s"]) == {"one by one", "stacked", "stacked bf16"}
        assert min(row["median_s"].values()) > 0
