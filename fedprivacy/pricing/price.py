"""The price of a protection: score lost against the twin, and what it bought."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedprivacy.pricing.data_loss import DataLoss, equivalent_data_loss
from fedprivacy.pricing.intervals import Interval, paired_mean
from fedprivacy.pricing.twins import collapsed_against, federation_differences, find_twin
from fedprivacy.result import CellResult

NO_PROOF = "no proof bought"
NO_TWIN = "no twin was run: the same cell with algorithm=none"
NO_LOCAL = "no local baseline was run: algorithm=none federation=local"


@dataclass(frozen=True)
class Harm:
    """Who pays most: the site or the class whose score fell most.

    Attributes:
        name: of the site or the class.
        lost: its score lost, paired by seed.
    """

    name: str
    lost: Interval

    def to_json(self) -> dict[str, Any]:
        """Strict JSON."""
        return {"name": self.name, "lost": self.lost.to_json()}


@dataclass(frozen=True)
class Price:
    """What cells that differ in their seed only cost, and what they bought.

    Attributes:
        cells: ordered by seed.
        score_lost: of the twin's score, paired by seed; None without a twin.
        bought: 1 - max_advantage: fall of the proven cap on any attacker's advantage; 0 where
            nothing is proved.
        exchange_rate: score lost over what was bought; None where no proof was bought.
        exchange_text: the same in words.
        data_loss: the share of the records that one could discard instead.
        federation_gain_left: score minus that of the best site's own model without protection;
            negative: better not to federate like this. None without that baseline.
        worst_site: the site that lost most; None where sites have no scores.
        worst_class: the class that lost most; None for other tasks.
        collapsed: cells that kept at most ``fraction`` of what the twin gained over chance, and
            those that ended as collapsed, by ``cell_id``.
        twin_differs: keys of the federation in which a twin differs as well.
        reasons: why something could not be priced.
    """

    cells: tuple[CellResult, ...]
    score_lost: Interval | None
    bought: float
    exchange_rate: float | None
    exchange_text: str
    data_loss: DataLoss
    federation_gain_left: Interval | None
    worst_site: Harm | None
    worst_class: Harm | None
    collapsed: tuple[str, ...]
    twin_differs: tuple[str, ...]
    reasons: tuple[str, ...]

    @property
    def first(self) -> CellResult:
        """The cell of the smallest seed, for what all cells share."""
        return self.cells[0]


def price(cells: Sequence[CellResult], results: Sequence[CellResult], fraction: float) -> Price:
    """Price cells that differ in their seed only.

    Args:
        cells: with a protection.
        results: all results at hand, twins and baselines among them.
        fraction: ``collapse.fraction``.
    """
    ordered = tuple(sorted(cells, key=lambda cell: cell.seed))
    twins = {cell.cell_id: find_twin(cell, results) for cell in ordered}
    pairs = [(cell, twin) for cell in ordered if (twin := twins[cell.cell_id]) is not None]
    lost = paired_mean([d for pair in pairs if (d := _lost(*pair)) is not None])
    bought = min(_bought(cell) for cell in ordered)
    rate, text = _rate(lost, bought, ordered)
    gain = paired_mean([g for cell in ordered if (g := _gain_left(cell, results)) is not None])
    reasons = [NO_TWIN] * (not pairs) + [NO_LOCAL] * (gain is None)
    return Price(
        cells=ordered,
        score_lost=lost,
        bought=bought,
        exchange_rate=rate,
        exchange_text=text,
        data_loss=equivalent_data_loss(ordered, results),
        federation_gain_left=gain,
        worst_site=_worst(pairs, _by_site),
        worst_class=_worst(pairs, _by_class),
        collapsed=tuple(
            cell.cell_id
            for cell in ordered
            if cell.status == "collapsed" or collapsed_against(cell, twins[cell.cell_id], fraction)
        ),
        twin_differs=tuple(sorted({k for p in pairs for k in federation_differences(*p)})),
        reasons=tuple(reasons),
    )


def losses(results: Sequence[CellResult]) -> dict[str, float]:
    """Score lost by each protected cell against its own twin, by ``cell_id``."""
    found = {}
    for cell in results:
        twin = find_twin(cell, results)
        lost = None if twin is None else _lost(cell, twin)
        if lost is not None:
            found[cell.cell_id] = lost
    return found


def _value(cell: CellResult) -> float | None:
    return None if cell.score is None else cell.score.value


def _lost(cell: CellResult, twin: CellResult) -> float | None:
    own, reached = _value(cell), _value(twin)
    return None if own is None or reached is None else reached - own


def _bought(cell: CellResult) -> float:
    privacy = cell.privacy or {}
    if privacy.get("infinite", True):
        return 0.0
    cap = privacy.get("max_advantage")
    return 0.0 if cap is None else 1.0 - float(cap)


def _rate(
    lost: Interval | None, bought: float, cells: Sequence[CellResult]
) -> tuple[float | None, str]:
    if any((cell.privacy or {}).get("infinite", True) for cell in cells) or bought <= 0:
        return None, NO_PROOF
    if lost is None:
        return None, NO_TWIN
    rate = lost.value / bought
    return rate, f"{rate:.3f} of score for the whole of an attacker's advantage"


def _gain_left(cell: CellResult, results: Sequence[CellResult]) -> float | None:
    """Score above that of the best site alone; both on the held-out records of all sites."""
    own = _value(cell)
    for other in results:
        alike = (other.dataset, other.model, other.seed, other.synthetic)
        if (
            other.algorithm == "none"
            and other.federation == "local"
            and alike == (cell.dataset, cell.model, cell.seed, cell.synthetic)
            and _data(other) == _data(cell)
            and other.score is not None
        ):
            models = [value for value in other.score.per_site.values() if value is not None]
            if own is not None and models:
                return own - max(models)
    return None


def _data(cell: CellResult) -> Any:
    return cell.config.get("dataset"), cell.config.get("audit")


Parts = Callable[[CellResult], Mapping[str, float | None]]


def _by_site(cell: CellResult) -> Mapping[str, float | None]:
    return {} if cell.score is None else cell.score.per_site


def _by_class(cell: CellResult) -> Mapping[str, float | None]:
    return {} if cell.score is None else cell.score.per_class


def _worst(pairs: Sequence[tuple[CellResult, CellResult]], parts: Parts) -> Harm | None:
    lost: dict[str, list[float]] = {}
    for cell, twin in pairs:
        own, reached = parts(cell), parts(twin)
        for name in own.keys() & reached.keys():
            after, before = own[name], reached[name]
            if after is not None and before is not None:
                lost.setdefault(name, []).append(before - after)
    if not lost:
        return None
    name = max(sorted(lost), key=lambda key: sum(lost[key]) / len(lost[key]))
    found = paired_mean(lost[name])
    assert found is not None
    return Harm(name, found)
