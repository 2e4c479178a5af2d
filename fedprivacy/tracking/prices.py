"""Prices on the runs of their cells: known only once the twin is, so written afterwards."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from fedprivacy.tracking.connection import TrackingError, shown
from fedprivacy.tracking.runs import SUMMARY_KIND, search_sweep
from fedprivacy.tracking.store import open_store

log = logging.getLogger(__name__)

SCORE_LOST = "price/score_lost"


def record_prices(prices: Mapping[str, float], *, uri: str, experiment: str, sweep_id: str) -> int:
    """Write ``price/score_lost`` to the run of each cell that has a twin; returns how many.

    A run that holds the same price already is left alone.

    Args:
        prices: score lost by ``cell_id``.
        uri: MLflow tracking URI.
        experiment: name of the experiment.
        sweep_id: the sweep that the cells belong to.

    Returns:
        0, after one warning, when the store cannot be used: ``price.json`` has them all.
    """
    if not prices:
        return 0
    try:
        with open_store(uri, experiment) as (store, experiment_id):
            return sum(
                _put(store, run, prices)
                for run in search_sweep(store, experiment_id, sweep_id)
                if run.data.tags.get("kind") != SUMMARY_KIND
            )
    except (TrackingError, OSError) as error:
        log.warning("prices of %s are not in MLflow %s: %s", sweep_id, shown(uri), error)
        return 0


def _put(store: Any, run: Any, prices: Mapping[str, float]) -> bool:
    value = prices.get(run.data.tags.get("cell.id", ""))
    if value is None or run.data.metrics.get(SCORE_LOST) == value:
        return False
    store.log_metric(run.info.run_id, SCORE_LOST, value, int(1000 * time.time()), 0)
    return True
