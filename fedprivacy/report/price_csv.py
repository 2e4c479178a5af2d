"""The price list for programs: one line for each protection, each number with what it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedprivacy.pricing.file import measured, weakest
from fedprivacy.pricing.harm import Harm
from fedprivacy.pricing.intervals import Interval
from fedprivacy.pricing.price import Price
from fedprivacy.report.csv_file import csv_epsilon, csv_number, csv_text
from fedprivacy.report.price_table import clinician, verdict_text
from fedprivacy.report.rows import Row
from fedprivacy.report.words import subjects


def prices_csv(rows: Sequence[Row], prices: Mapping[str, Price]) -> str:
    """Unknown numbers are empty fields, infinite ones the word; empty where nothing protects.

    The proven epsilon is an upper bound, the measured one a lower bound that has its ceiling and
    its own unit, relation, view and delta beside it.
    """
    return csv_text(_record(row, prices[row.first.cell_id]) for row in rows if row.protected)


def _record(row: Row, price: Price) -> dict[str, Any]:
    cell = row.first
    return {
        "algorithm": row.algorithm,
        "schedule": row.schedule,
        "dataset": cell.dataset,
        "synthetic": str(cell.synthetic).lower(),
        "federation": cell.federation,
        "model": cell.model,
        "cells": len(row.cells),
        "metric": row.metric,
        **_interval("score_lost", price.score_lost),
        **_proved(price),
        **_measured(price),
        "bought": repr(price.bought),
        "exchange_rate": csv_number(price.exchange_rate) or price.exchange_text,
        **_interval("equivalent_data_loss", price.data_loss.share),
        "equivalent_data_loss_at_least": str(price.data_loss.beyond).lower(),
        **_interval("federation_gain_left", price.federation_gain_left),
        **_harm("worst_site", price.worst_site),
        **_harm("worst_class", price.worst_class),
        "collapsed": len(price.collapsed),
        "twin_differs": " ".join(price.twin_differs),
        "local_differs": " ".join(price.local_differs),
        "clinician": clinician(row.privacy, subjects(*row.dataset)),
        "verdict": verdict_text(row),
    }


def _proved(price: Price) -> dict[str, Any]:
    privacy = weakest(price.cells) or {}
    return {
        "epsilon": csv_epsilon(bool(privacy), privacy.get("infinite"), privacy.get("epsilon")),
        "direction": "upper bound proved" if privacy else "",
        **{key: privacy.get(key) or "" for key in ("unit", "neighbouring", "view")},
        "delta": csv_number(privacy.get("delta")),
        "randomness": privacy.get("randomness") or "",
        "epsilon_protected": csv_epsilon(
            bool(privacy.get("protected_rounds")),
            privacy.get("epsilon_protected_infinite"),
            privacy.get("epsilon_protected"),
        ),
        **_patient(privacy.get("patient") or {}),
        "protected_rounds": privacy.get("protected_rounds", ""),
        "rounds": privacy.get("rounds", ""),
    }


def _patient(claim: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "patient_epsilon": csv_epsilon(bool(claim), claim.get("infinite"), claim.get("epsilon")),
        "patient_neighbouring": claim.get("neighbouring") or "",
        "patient_view": claim.get("view") or "",
    }


def _measured(price: Price) -> dict[str, Any]:
    found = measured(price.cells) or {}
    numbers = ("epsilon_lower", "ceiling", "confidence", "delta")
    words = ("direction", "method", "unit", "neighbouring", "view")
    return {
        **{f"measured_{key}": csv_number(found.get(key)) for key in numbers},
        **{f"measured_{key}": found.get(key) or "" for key in words},
        "audited_cells": found.get("audited_cells", 0),
    }


def _interval(name: str, found: Interval | None) -> dict[str, Any]:
    return {
        name: csv_number(found.value if found else None),
        f"{name}_low": csv_number(found.low if found else None),
        f"{name}_high": csv_number(found.high if found else None),
        f"{name}_seeds": found.n if found else "",
    }


def _harm(name: str, harm: Harm | None) -> dict[str, Any]:
    return {
        name: harm.name if harm else "",
        f"{name}_measure": harm.measure if harm else "",
        **_interval(f"{name}_lost", harm.lost if harm else None),
    }
