"""What tells rows of the same algorithm or schedule apart, in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedprivacy.pricing.twins import flatten
from fedprivacy.result import CellResult

SHARE = "dataset.train_share"
AUDITED = "audited"
_STATED = ("unit", "neighbouring", "view", "delta", "randomness")


def by_algorithm(cells: Sequence[CellResult]) -> dict[str, str]:
    """What tells cells of one dataset and algorithm apart, by ``cell_id``; not the schedule.

    Settings as ``key=value``, and ``audited`` where others are not.
    """
    return _variants(cells, lambda cell: (cell.dataset, cell.algorithm), _of_algorithm)


def by_schedule(cells: Sequence[CellResult]) -> dict[str, str]:
    """What tells cells of one dataset and schedule apart in their schedules, by ``cell_id``."""
    return _variants(cells, lambda cell: (cell.dataset, cell.schedule), _of_schedule)


def meant_privacy(cell: CellResult) -> dict[str, Any] | None:
    """The privacy settings of a cell as they came to be; None where it got no statement."""
    if not cell.privacy:
        return None
    if cell.algorithm != "none":
        return {key: cell.privacy.get(key) for key in _STATED}
    # Nothing is proved; an audit's bound is at a delta, for a view.
    keys = ("view", "delta") if cell.config.get("audit") else ()
    return {key: cell.privacy.get(key) for key in keys}


def _of_algorithm(key: str) -> bool:
    return not key.startswith(("schedule.", "federation.name", "seed"))


def _of_schedule(key: str) -> bool:
    return key.startswith("schedule.")


def _variants(
    cells: Sequence[CellResult], alike: Callable[[CellResult], Any], keep: Callable[[str], bool]
) -> dict[str, str]:
    families: dict[Any, list[CellResult]] = defaultdict(list)
    for cell in cells:
        families[alike(cell)].append(cell)
    texts: dict[str, str] = {}
    for family in families.values():
        written = [{k: _plain(v) for k, v in flatten(c.config) if keep(k)} for c in family]
        meant = [_meant(cell, own) for cell, own in zip(family, written, strict=True)]
        # A delta that was typed and the same one derived do not differ, nor do two derived ones.
        names = [name for name in _differing(meant) if name in _differing(written)]
        mixed = keep(AUDITED) and len({bool(cell.config.get("audit")) for cell in family}) > 1
        for cell, config in zip(family, meant, strict=True):
            named = [n for n in names if n in config and (n, config[n]) != (SHARE, "1")]
            words = [_word(name, config[name]) for name in named]
            if mixed and cell.config.get("audit"):
                words.append(AUDITED)
            texts[cell.cell_id] = " ".join(words)
    return texts


def _meant(cell: CellResult, written: Mapping[str, str]) -> dict[str, str]:
    """Settings with those of privacy as the cell's statement has them; none where it has none."""
    kept = {key: value for key, value in written.items() if not key.startswith("privacy.")}
    stated = meant_privacy(cell) or {}
    keys = (key for key in stated if f"privacy.{key}" in written)
    return {**kept, **{f"privacy.{key}": _plain(stated[key]) for key in keys}}


def _differing(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Keys whose values tell alike cells apart."""

    def values(name: str) -> set[str | None]:
        # Without a protection or an audit these settings are not there; that is no difference.
        if name.startswith(("privacy.", "audit.")):
            return {config[name] for config in settings if name in config}
        return {config.get(name) for config in settings}

    names = sorted({name for config in settings for name in config})
    found = [name for name in names if len(values(name)) > 1]
    if "algorithm.target_epsilon" in found:
        # The noise follows from the target.
        found = [name for name in found if name != "algorithm.noise_multiplier"]
    return found


def _word(name: str, value: str) -> str:
    return f"{'audit' if name == 'audit.name' else name.rpartition('.')[2]}={value}"


def _plain(value: Any) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)
