"""The settings that no other beats: more score at no larger epsilon."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def pareto(points: Sequence[tuple[float, float, Item]]) -> list[Item]:
    """Items of which no other has at least their score at no larger epsilon, and one of it better.

    Only for numbers of one unit, neighbouring relation, view and delta. Infinite epsilons compete
    among themselves and are on the front only if they score more than every finite one.

    Args:
        points: (epsilon, ``math.inf`` where nothing is proved; score; item).
    """
    front: list[Item] = []
    best = -math.inf
    for epsilon, score, item in sorted(points, key=lambda point: (point[0], -point[1])):
        if math.isnan(epsilon) or math.isnan(score):
            continue
        if score > best:
            front.append(item)
            best = score
    return front
