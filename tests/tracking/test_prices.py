from __future__ import annotations

from pathlib import Path

import pytest
from report.factory import make_result, write_sweep

from fedprivacy.tracking.prices import SCORE_LOST, record_prices
from fedprivacy.tracking.runs import search_sweep
from fedprivacy.tracking.store import open_store
from fedprivacy.tracking.sync import sync


def held(uri: str) -> dict[str, float]:
    with open_store(uri, "demo") as (store, experiment):
        return {
            run.data.tags["cell.id"]: run.data.metrics[SCORE_LOST]
            for run in search_sweep(store, experiment, "demo")
            if SCORE_LOST in run.data.metrics
        }


def test_a_price_is_written_to_its_cells_run_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    cells = [make_result("dpsgd"), make_result("none")]
    sync(write_sweep(tmp_path / "demo", cells), uri=uri)
    prices = {cells[0].cell_id: 0.125, "elsewhere": 1.0}
    assert record_prices(prices, uri=uri, experiment="demo", sweep_id="demo") == 1
    assert held(uri) == {cells[0].cell_id: 0.125}
    assert record_prices(prices, uri=uri, experiment="demo", sweep_id="demo") == 0
    changed = {cells[0].cell_id: 0.25}
    assert record_prices(changed, uri=uri, experiment="demo", sweep_id="demo") == 1
    assert held(uri) == changed


def test_a_store_that_fails_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    where = f"sqlite:///{tmp_path}/file/mlflow.db"
    assert record_prices({"a": 1.0}, uri=where, experiment="x", sweep_id="x") == 0
    assert "not in MLflow" in caplog.text
    assert record_prices({}, uri=where, experiment="x", sweep_id="x") == 0
