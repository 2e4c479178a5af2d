"""What one application of a sparse-vector filter costs: selecting coordinates, then releasing them.

Unit site, relation replace_one. The filter keeps c coordinates whose noisy magnitude passes a noisy
threshold, and releases them with Laplace noise. The epsilon in such a filter's configuration is
not its price: at NVIDIA FLARE's defaults and 100,000 parameters the two differ by a factor 10,000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dp_accounting import dp_event as dp

from fedprivacy.accounting.pure import (
    epsilon_from_renyi,
    laplace_renyi,
    pure_event,
    pure_renyi,
)
from fedprivacy.accounting.renyi import ORDERS
from fedprivacy.errors import AccountingError


@dataclass(frozen=True)
class SparseVectorPrice:
    """The price of one application under replace_one of a site.

    Attributes:
        selection: pure epsilon of choosing the coordinates (with or without replacement; proof in
            `mechanisms.svt_flare28`).
        per_coordinate: pure epsilon of each released value; ``math.inf`` if what is released was
            not clipped before the noise.
        coordinates: how many are released.
    """

    selection: float
    per_coordinate: float
    coordinates: int

    def __post_init__(self) -> None:
        if not (self.selection >= 0 and self.per_coordinate >= 0 and self.coordinates >= 1):
            raise AccountingError(f"not a price: {self!r}")

    @property
    def pure(self) -> float:
        """Pure epsilon: selection plus every released coordinate (basic composition)."""
        return self.selection + self.coordinates * self.per_coordinate

    @property
    def rho(self) -> float:
        """zCDP: (selection^2 + c per_coordinate^2) / 2 (Bun & Steinke 2016, proposition 1.4)."""
        return (self.selection**2 + self.coordinates * self.per_coordinate**2) / 2

    def renyi(self, order: float) -> float:
        """Renyi divergence at an order above 1."""
        return pure_renyi(order, self.selection) + self.coordinates * laplace_renyi(
            order, self.per_coordinate
        )

    @property
    def dp_event(self) -> dp.DpEvent:
        """For the ledger, with ``neighbouring="replace_one"``: priced tighter than by ``renyi``."""
        if math.isinf(self.per_coordinate) or math.isinf(self.selection):
            return dp.NonPrivateDpEvent()
        if self.per_coordinate == 0:
            return pure_event(self.selection)
        # A replacement moves a value by twice its bound: scale 2 / epsilon in units of the bound.
        release = dp.LaplaceDpEvent(2.0 / self.per_coordinate)
        return dp.ComposedDpEvent(
            (pure_event(self.selection), dp.SelfComposedDpEvent(release, self.coordinates))
        )


def selection_epsilon(
    clip: float, threshold_scale: float, query_scale: float, coordinates: int
) -> float:
    """Pure epsilon of selecting c coordinates by |clipped value| + noise >= noisy threshold.

    clip / threshold_scale + 2 c clip / query_scale (Lyu, Su & Li 2017, theorem 4, for queries of
    sensitivity ``clip`` that are not monotonic).

    Args:
        clip: magnitudes are clipped to [0, clip], which is their sensitivity.
        threshold_scale: Laplace scale of the threshold, drawn once.
        query_scale: Laplace scale of each query's noise.
        coordinates: c, how many are accepted.
    """
    if not (clip > 0 and threshold_scale > 0 and query_scale > 0 and coordinates >= 1):
        raise AccountingError(
            f"clip={clip!r}, threshold_scale={threshold_scale!r}, query_scale={query_scale!r}, "
            f"coordinates={coordinates!r}: all must be positive"
        )
    return clip / threshold_scale + 2 * coordinates * clip / query_scale


def epsilon_of_rounds(prices: Sequence[SparseVectorPrice], delta: float) -> float:
    """Epsilon of several applications by Renyi sums, or their pure sum where that is smaller."""
    if not 0 < delta < 1:
        raise AccountingError(f"delta={delta!r}: allowed is between 0 and 1")
    if not prices:
        return 0.0
    pure = math.fsum(price.pure for price in prices)
    if math.isinf(pure):
        return math.inf
    summed = (
        epsilon_from_renyi(order, math.fsum(price.renyi(order) for price in prices), delta)
        for order in ORDERS
    )
    return min(pure, *summed)
