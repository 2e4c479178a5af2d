"""How many records a run protects, and how well: the share with a finite epsilon, and quantiles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

QUANTILES: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)


def coverage(epsilons: Mapping[str, float], records: Mapping[str, int]) -> dict[str, Any]:
    """Share of the records whose epsilon is finite, and quantiles of epsilon over records.

    All records of a site share its epsilon, an upper bound; ``None`` in the quantiles is infinite.

    Args:
        epsilons: upper bound for one record of each site; a site that is missing is unprotected.
        records: number of training records of each site.
    """
    total = sum(records.values())
    ordered = sorted((epsilons.get(site, math.inf), count) for site, count in records.items())
    covered = sum(count for epsilon, count in ordered if math.isfinite(epsilon))
    quantiles: dict[str, float | None] = {}
    for share in QUANTILES:
        reached = 0
        for epsilon, count in ordered:
            reached += count
            if reached >= share * total - 1e-9:
                quantiles[f"{share:g}"] = epsilon if math.isfinite(epsilon) else None
                break
    return {
        "coverage_records": covered / total if total else 0.0,
        "epsilon_record_quantiles": quantiles,
    }
