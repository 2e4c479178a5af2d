"""The non-private twin of a cell: the same cell with ``algorithm=none``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fedprivacy.result import CellResult

COLLAPSE_FRACTION = 0.2
"""Default of ``collapse.fraction``."""

MUST_AGREE = ("dataset.", "model.", "audit.")
_MAY_DIFFER = ("algorithm.", "schedule.", "privacy.", "seed")


def find_twin(cell: CellResult, results: Iterable[CellResult]) -> CellResult | None:
    """The same cell without protection; None for one that has none, and where it was not run.

    Dataset, model, federation, audit and seed agree. Where several do, the one whose training is
    most alike is taken.
    """
    return None if cell.algorithm == "none" else _closest(cell, results, cell.federation)


def find_local(cell: CellResult, results: Iterable[CellResult]) -> CellResult | None:
    """Each site alone without protection, otherwise as the cell; None where it was not run."""
    return find_baseline(cell, results, "local")


def find_baseline(
    cell: CellResult, results: Iterable[CellResult], federation: str
) -> CellResult | None:
    """The same cell without protection in another federation; None where it was not run.

    Chosen as ``find_twin`` chooses, among those that have a score.
    """
    return _closest(cell, (one for one in results if one.score is not None), federation)


def _closest(cell: CellResult, results: Iterable[CellResult], federation: str) -> CellResult | None:
    """The unprotected cell of this federation that differs least in how it trained."""
    fitting = [
        other
        for other in results
        if other.algorithm == "none"
        and (other.dataset, other.federation, other.model, other.seed, other.synthetic)
        == (cell.dataset, federation, cell.model, cell.seed, cell.synthetic)
        and not any(key.startswith(MUST_AGREE) for key in _config_differences(cell, other))
    ]
    return min(fitting, key=lambda o: len(federation_differences(cell, o)), default=None)


def worth(cell: CellResult) -> float | None:
    """The cell's score; of training that ended non-finite what chance is worth; None if unknown."""
    if cell.score is None:
        return None
    ended = cell.score.value is None and cell.status == "collapsed"
    return cell.score.chance if ended else cell.score.value


def collapsed_against(
    cell: CellResult, twin: CellResult | None, fraction: float = COLLAPSE_FRACTION
) -> bool | None:
    """Whether a cell lost nearly all that its twin learned.

    That is: score <= chance + fraction * (twin - chance). None where there is nothing to
    compare: no twin, no score, or a twin that is itself not above chance.
    """
    if twin is None or cell.score is None or twin.score is None:
        return None
    score, reached, chance = cell.score.value, twin.score.value, cell.score.chance
    if score is None or reached is None or chance is None or reached <= chance:
        return None
    return score <= chance + fraction * (reached - chance)


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a nested configuration."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _config_differences(one: CellResult, other: CellResult) -> set[str]:
    mine, theirs = dict(flatten(one.config)), dict(flatten(other.config))
    keys = {key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)}
    return {key for key in keys if not key.startswith(_MAY_DIFFER)}


def federation_differences(one: CellResult, other: CellResult) -> list[str]:
    """Settings of the federation, besides which it is, that differ between two cells."""
    keys = (key for key in _config_differences(one, other) if key.startswith("federation."))
    return sorted(key for key in keys if key != "federation.name")
