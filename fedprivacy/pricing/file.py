"""``price.json``: the price of every protection of a sweep, beside its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedprivacy.pricing.price import Price
from fedprivacy.result import CellResult, write_json

PRICE_FILE = "price.json"
SCHEMA = 1
_PRIVACY = (
    "unit",
    "neighbouring",
    "view",
    "delta",
    "randomness",
    "infinite",
    "epsilon",
    "reason",
    "epsilon_protected",
    "epsilon_protected_infinite",
    "protected_rounds",
    "rounds",
    "max_advantage",
    "what_if",
)
_CLAIM = ("epsilon", "infinite", "neighbouring", "view")
_MEASURED = (
    "epsilon_lower",
    "ceiling",
    "confidence",
    "method",
    "direction",
    "unit",
    "neighbouring",
    "view",
    "delta",
)


def to_json(prices: Sequence[Price], fraction: float) -> dict[str, Any]:
    """All prices as strict JSON.

    Args:
        prices: of rows of cells that differ in their seed only.
        fraction: ``collapse.fraction`` that collapses were told by.
    """
    return {
        "schema": SCHEMA,
        "collapse_fraction": fraction,
        "rows": [_row(one) for one in prices],
    }


def write_prices(path: Path, prices: Sequence[Price], fraction: float) -> Path:
    """Write ``price.json`` whole; returns its path."""
    write_json(path, to_json(prices, fraction))
    return path


def _row(one: Price) -> dict[str, Any]:
    cell = one.first
    lost, gain = one.score_lost, one.federation_gain_left
    return {
        "cells": [item.cell_id for item in one.cells],
        "seeds": [item.seed for item in one.cells],
        "algorithm": cell.algorithm,
        "schedule": cell.schedule,
        "dataset": cell.dataset,
        "synthetic": cell.synthetic,
        "federation": cell.federation,
        "model": cell.model,
        "score": cell.score.name if cell.score else None,
        "privacy": weakest(one.cells),
        "measured": measured(one.cells),
        "score_lost": None if lost is None else lost.to_json(),
        "bought": one.bought,
        "exchange_rate": {"value": one.exchange_rate, "text": one.exchange_text},
        "equivalent_data_loss": one.data_loss.to_json(),
        "federation_gain_left": None if gain is None else gain.to_json(),
        "worst_site": None if one.worst_site is None else one.worst_site.to_json(),
        "worst_class": None if one.worst_class is None else one.worst_class.to_json(),
        "sites": [harm.to_json() for harm in one.sites],
        "classes": [harm.to_json() for harm in one.classes],
        "collapsed": list(one.collapsed),
        "twin_differs": list(one.twin_differs),
        "local_differs": list(one.local_differs),
        "reasons": list(one.reasons),
    }


def weakest(cells: Sequence[CellResult]) -> dict[str, Any] | None:
    """The weakest privacy statement among cells; None where no cell has one."""
    stated = [cell.privacy for cell in cells if cell.privacy]
    if not stated:
        return None
    worst = max(stated, key=lambda p: (bool(p.get("infinite", True)), p.get("epsilon") or 0.0))
    patient = (worst.get("per_unit") or {}).get("patient")
    return {
        **{key: worst.get(key) for key in _PRIVACY},
        "patient": patient and {key: patient.get(key) for key in _CLAIM},
    }


def measured(cells: Sequence[CellResult]) -> Mapping[str, Any] | None:
    """The largest measured lower bound among cells, with its ceiling; None without an audit.

    Its confidence is that of all cells' bounds together (union bound): the largest of many that
    each may fail in 5 % of audits fails more often than that.
    """
    audits = [cell.audit for cell in cells if cell.audit]
    if not audits:
        return None
    best = max(audits, key=lambda audit: float(audit["epsilon_lower"]))
    together = joint_confidence([audit.get("confidence") for audit in audits])
    said = {key: best.get(key) for key in _MEASURED}
    return {**said, "confidence": together, "audited_cells": len(audits)}


def joint_confidence(each: Sequence[float | None]) -> float | None:
    """With which confidence several bounds hold together; None where one is not known."""
    known = [one for one in each if one is not None]
    if len(known) < len(each):
        return None
    return max(0.0, round(1 - sum(1 - one for one in known), 12))
