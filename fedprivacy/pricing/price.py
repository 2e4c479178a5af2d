"""The price of a protection: score lost against the twin, and what it bought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedprivacy.pricing.data_loss import DataLoss, equivalent_data_loss
from fedprivacy.pricing.harm import (
    Harm,
    Pairs,
    by_class,
    by_site,
    class_sizes,
    harms,
    paired,
    site_sizes,
)
from fedprivacy.pricing.intervals import Interval, paired_mean
from fedprivacy.pricing.twins import (
    collapsed_against,
    federation_differences,
    find_local,
    find_twin,
    worth,
)
from fedprivacy.result import CellResult

NO_PROOF = "no proof bought"
ALL_LEFT = "the proof leaves an attacker all of the advantage: no rate"
_LEAST_BOUGHT = 1e-9  # what accounting resolves of an advantage
NO_TWIN = "no twin was run: the same cell with algorithm=none"
NO_SCORE = "no seed has a score beside its twin's"
RECALL = "recall"
NO_LOCAL = "no local baseline was run: algorithm=none federation=local"


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
        sites: what each site lost, the worst first; empty where sites have no scores.
        classes: what each class lost, the worst first; empty for other tasks.
        collapsed: cells that kept at most ``fraction`` of what the twin gained over chance, and
            those that ended as collapsed, by ``cell_id``.
        twin_differs: keys of the federation in which a twin differs as well.
        local_differs: the same of the baseline of ``federation_gain_left``.
        reasons: why something could not be priced, or of which seeds alone.
    """

    cells: tuple[CellResult, ...]
    score_lost: Interval | None
    bought: float
    exchange_rate: float | None
    exchange_text: str
    data_loss: DataLoss
    federation_gain_left: Interval | None
    sites: tuple[Harm, ...]
    classes: tuple[Harm, ...]
    collapsed: tuple[str, ...]
    twin_differs: tuple[str, ...]
    local_differs: tuple[str, ...]
    reasons: tuple[str, ...]

    @property
    def first(self) -> CellResult:
        """The cell of the smallest seed, for what all cells share."""
        return self.cells[0]

    @property
    def worst_site(self) -> Harm | None:
        """The site that lost most."""
        return next(iter(self.sites), None)

    @property
    def worst_class(self) -> Harm | None:
        """The class that lost most."""
        return next(iter(self.classes), None)


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
    rate, text = _rate(lost, bought, ordered, len(pairs))
    alone = [(cell, local) for cell in ordered if (local := find_local(cell, results)) is not None]
    gain = paired_mean([g for pair in alone if (g := gain_left(*pair)) is not None])
    reasons = [NO_TWIN] * (not pairs) + [NO_LOCAL] * (not alone)
    reasons += [NO_SCORE] * (bool(pairs) and lost is None)
    reasons += _without_parts(pairs)
    return Price(
        cells=ordered,
        score_lost=lost,
        bought=bought,
        exchange_rate=rate,
        exchange_text=text,
        data_loss=equivalent_data_loss(ordered, results),
        federation_gain_left=gain,
        sites=harms(pairs, by_site, _metric(ordered), site_sizes),
        classes=harms(pairs, by_class, RECALL, class_sizes),
        collapsed=tuple(
            cell.cell_id
            for cell in ordered
            if cell.status == "collapsed" or collapsed_against(cell, twins[cell.cell_id], fraction)
        ),
        twin_differs=_differing(pairs),
        local_differs=_differing(alone),
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


def _lost(cell: CellResult, twin: CellResult) -> float | None:
    own, reached = worth(cell), worth(twin)
    return None if own is None or reached is None else reached - own


def _bought(cell: CellResult) -> float:
    privacy = cell.privacy or {}
    if privacy.get("infinite", True):
        return 0.0
    cap = privacy.get("max_advantage")
    return 0.0 if cap is None else 1.0 - float(cap)


def _rate(
    lost: Interval | None, bought: float, cells: Sequence[CellResult], paired: int
) -> tuple[float | None, str]:
    if any((cell.privacy or {}).get("infinite", True) for cell in cells):
        return None, NO_PROOF
    if bought < _LEAST_BOUGHT:
        return None, ALL_LEFT
    if lost is None:
        return None, NO_TWIN if paired == 0 else NO_SCORE
    rate = exchange_rate(lost.value, bought)
    number = f"{rate:.3f}" if abs(rate) < 1000 else f"{rate:.3g}"
    return rate, f"{number} of score for the whole of an attacker's advantage"


def exchange_rate(lost: float, bought: float) -> float:
    """Score lost for the whole of an attacker's advantage.

    Args:
        lost: of the non-private score.
        bought: above 0: one less the largest advantage (``caps.max_advantage``) that the proof
            leaves any attacker.
    """
    return lost / bought


def gain_left(cell: CellResult, local: CellResult) -> float | None:
    """Score above that of the best site alone; both on the held-out records of all sites."""
    own, found = worth(cell), local.score.per_site if local.score else {}
    models = [value for value in found.values() if value is not None]
    return own - max(models) if own is not None and models else None


def _differing(pairs: Pairs) -> tuple[str, ...]:
    return tuple(sorted({key for pair in pairs for key in federation_differences(*pair)}))


def _metric(cells: Sequence[CellResult]) -> str:
    return next((cell.score.name for cell in cells if cell.score), "score")


def _without_parts(pairs: Pairs) -> list[str]:
    """Where what sites or classes lost is of fewer seeds than the score lost."""
    counted = [pair for pair in pairs if _lost(*pair) is not None]
    reasons = []
    for parts, what in ((by_site, "sites"), (by_class, "classes")):
        seen = sum(paired(parts, *pair) for pair in counted)
        if 0 < seen < len(counted):
            reasons.append(
                f"what {what} lost is of {seen} of {len(counted)} seeds: training of the others "
                "ended non-finite and has scores of none; the score lost counts them at chance"
            )
    return reasons
