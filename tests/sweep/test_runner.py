"""Cells side by side in workers are the cells one after another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedprivacy.sweep.plan import make_plan
from fedprivacy.sweep.runner import run_plan

CELLS = (
    "algorithm=none,dpsgd",
    "seed=0,1",
    "dataset=wisconsin",
    "federation.rounds=2",
    "privacy=seeded",
    "tracking.enabled=false",
)


def left_by(workers: int, folder: Path) -> dict[str, tuple[dict[str, Any], bytes]]:
    """Result, but for what names the run and its times, and ledger of each cell."""
    plan = make_plan([*CELLS, f"sweep.workers={workers}", f"hydra.sweep.dir={folder}"])
    found = {}
    for result in run_plan(plan, lambda *_: None).results:
        content = {k: v for k, v in result.to_json().items() if k not in ("timing_s", "overrides")}
        content["config"] = {k: v for k, v in content["config"].items() if k != "sweep"}
        ledger = folder / result.cell_id / "ledger.jsonl"
        found[result.cell_id] = (content, ledger.read_bytes())
    return found


@pytest.mark.slow
def test_two_workers_leave_what_one_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = (left_by(workers, tmp_path / str(workers)) for workers in (1, 2))
    assert len(one) == 4
    assert one == two
    assert {content["status"] for content, _ in one.values()} == {"ok"}
