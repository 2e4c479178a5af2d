"""The cells that a price needs: the twin without protection of each cell, where no grid has it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

from fedprivacy.config.composer import Composer
from fedprivacy.config.schema import CellConfig
from fedprivacy.config.serialization import to_plain
from fedprivacy.errors import ConfigError, DataError
from fedprivacy.pricing.twins import MUST_AGREE, flatten
from fedprivacy.sweep.plan import Plan, PlannedCell, plan_cell

_OWN_GROUPS = ("algorithm", "schedule")
_TWIN = ("algorithm=none", "schedule=every_round")


def with_twins(plan: Plan, config_dirs: Sequence[str] = ()) -> Plan:
    """The plan, with a cell of ``algorithm=none`` for each cell that has no twin in it.

    Nothing is added with ``sweep.twins=false``, nor where a twin cannot be composed, as when a file
    sets keys of its algorithm: the report then says which run is missing.

    Args:
        plan: what the grids have.
        config_dirs: the user's own configuration folders.
    """
    if not plan.settings.sweep.twins:
        return plan
    there = {_paired(cell.config) for cell in plan.cells if cell.config.algorithm.name == "none"}
    alone: dict[Hashable, PlannedCell] = {}
    for cell in plan.cells:
        if _paired(cell.config) not in there:
            alone.setdefault(_paired(cell.config), cell)
    made = [twin for cell in alone.values() if (twin := _twin(cell, plan, config_dirs))]
    return replace(plan, cells=(*plan.cells, *made))


def _paired(config: CellConfig) -> Hashable:
    """What a cell and its twin have in common; ``pricing.twins.find_twin`` asks for the same."""
    shared = ((k, str(v)) for k, v in flatten(to_plain(config)) if k.startswith(MUST_AGREE))
    return config.federation.name, config.seed, frozenset(shared)


def _twin(cell: PlannedCell, plan: Plan, config_dirs: Sequence[str]) -> PlannedCell | None:
    words = (*_without_protection(cell.overrides), *_TWIN)
    try:
        twin = plan_cell(Composer(words, tuple(config_dirs)), (), plan.folder)
    except (ConfigError, DataError):
        return None
    return twin if _paired(twin.config) == _paired(cell.config) else None


def _without_protection(words: Iterable[str]) -> list[str]:
    """Overrides without those of the algorithm and its schedule."""
    bare = ((word, word.lstrip("+~").partition("=")[0].partition("@")[0]) for word in words)
    return [word for word, key in bare if key.partition(".")[0] not in _OWN_GROUPS]
