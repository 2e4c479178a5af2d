"""The benchmark of stacked sites: it compares runs that agree, and says where it measured."""

from __future__ import annotations

import importlib.util
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
    words = ["--repeats", "1", "--rounds", "2", "--bf16", "--sites", "1", "6"]
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), *words, "--json", str(file)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    [written] = file.parent.iterdir()
    found = json.loads(written.read_text())
    assert found["device"] in ("cpu", "cuda")
    assert written.name == ("stacked.json" if found["device"] == "cpu" else "stacked_gpu.json")
    assert found["machine"]["processor"]
    assert found["missed"] == []
    assert ("no CUDA device here" in ran.stdout) == (found["device"] == "cpu")
    assert [(row["algorithm"], row["sites"]) for row in found["rows"]] == [
        ("none", 1), ("none", 6), ("dpsgd", 1), ("dpsgd", 6)
    ]  # fmt: skip
    for row in found["rows"]:
        assert row["agree"]
        names = {"one by one", "stacked", "stacked bf16"}
        if (found["device"], row["algorithm"]) == ("cuda", "dpsgd"):
            names.add("one by one, unrecorded")
        assert set(row["median_s"]) == names
        assert min(row["median_s"].values()) > 0


def test_a_gpu_that_gains_too_little_misses_its_target() -> None:
    spec = importlib.util.spec_from_file_location("stacked_sites", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    row = {"algorithm": "dpsgd", "agree": True, "times_faster": {"stacked than one by one": 6.7}}
    assert module.faults({**row, "sites": 50}, True) == [
        "dpsgd K=50: 6.7 times faster than one by one, at least 8.0 asked for"
    ]
    assert module.faults({**row, "sites": 10}, True) == []
    assert module.faults({**row, "sites": 50}, False) == []
    assert "disagree" in module.faults({**row, "sites": 10, "agree": False}, False)[0]
