"""What stands where in the price list: the rows' claims, by kind, never two kinds together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedprivacy.accounting.units import UNITS, VIEWS, View
from fedprivacy.report.bounds import measured
from fedprivacy.report.rows import Row
from fedprivacy.report.words import patient_text

Kind = tuple[str, str, View, float]
"""Unit, neighbouring relation, view, delta."""


@dataclass(frozen=True)
class Point:
    """One row in one panel.

    Attributes:
        row: the cells.
        epsilon: proved upper bound; ``math.inf`` where nothing is proved.
        lower: measured lower bound for what the panel is about; None where no audit was.
        ceiling: the most that its audit could have shown; None where that is not known.
    """

    row: Row
    epsilon: float
    lower: float | None
    ceiling: float | None = None


def panels(rows: Sequence[Row]) -> dict[Kind, list[Point]]:
    """Points of one dataset by kind of claim.

    Kinds are those of the rows' headlines, of the strongest view in which a row's unit has a bound,
    and of one patient where that bound is another. Rows whose claim of that kind is infinite stand
    in the panel too; none is dropped.
    """
    shown = {kind for row in rows if row.protected for kind in _kinds(row.privacy or {})}
    found: dict[Kind, list[Point]] = {}
    for row in rows:
        if not row.protected or row.privacy is None or row.score is None:
            continue
        claims = _claims(row.privacy)
        for kind in shown:
            epsilon = _claimed(claims, kind)
            if epsilon is not None:
                shown_by = measured(row, *kind)
                lower = None if shown_by is None else shown_by.lower
                ceiling = None if shown_by is None else shown_by.ceiling
                found.setdefault(kind, []).append(Point(row, epsilon, lower, ceiling))
    return dict(sorted(found.items(), key=lambda item: _order(item[0])))


def _kinds(privacy: Any) -> list[Kind]:
    """The headline's kind, the strongest view in which its unit has a bound, and the patient's."""
    claims = _claims(privacy)
    own = [kind for kind in claims if kind[0] == privacy.get("unit")]
    headline = [kind for kind in own if kind[2] == privacy.get("view")]
    finite = [kind for kind in own if math.isfinite(claims[kind])]
    patient = [kind for kind in claims if kind[0] == "patient" and patient_text(privacy)]
    bounded = [kind for kind in patient if math.isfinite(claims[kind])]
    return headline + sorted(finite, key=_order)[:1] + bounded


def _claims(privacy: Any) -> dict[Kind, float]:
    claims: dict[Any, float] = {}
    both = (privacy.get("per_unit") or {}, privacy.get("per_view") or {})
    for item in (item for claims_of in both for item in claims_of.values()):
        relation = item.get("neighbouring") or privacy.get("neighbouring")
        kind = (item["unit"], relation, item["view"], privacy["delta"])
        infinite = item.get("infinite", True) or item.get("epsilon") is None
        claims[kind] = math.inf if infinite else float(item["epsilon"])
    about = tuple(privacy.get(key) for key in ("unit", "neighbouring", "view", "delta"))
    if None not in about and about not in claims:
        infinite = privacy.get("infinite", True) or privacy.get("epsilon") is None
        claims[about] = math.inf if infinite else float(privacy["epsilon"])
    return claims


def _claimed(claims: Mapping[Kind, float], kind: Kind) -> float | None:
    """What is claimed of that very kind; infinite where nothing is proved of that unit and view.

    An infinite epsilon holds under every relation and delta: there is no proof. A finite one under
    another relation says nothing here, and None is returned.
    """
    if kind in claims:
        return claims[kind]
    alike = [value for (u, _, v, _), value in claims.items() if (u, v) == (kind[0], kind[2])]
    return math.inf if alike and all(map(math.isinf, alike)) else None


def _order(kind: Kind) -> tuple[int, int, str, float]:
    return UNITS.index(kind[0]), VIEWS.index(kind[2]), kind[1], kind[3]
