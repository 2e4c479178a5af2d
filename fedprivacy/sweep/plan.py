"""Which cells a sweep has: every product of every grid, composed and validated beforehand."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fedprivacy.accounting.delta import resolve_delta
from fedprivacy.config.composer import Composed, Composer, group_names
from fedprivacy.config.composition import compose_cell, hydra_ready, parse
from fedprivacy.config.identity import cell_id
from fedprivacy.config.loading import to_cell_config
from fedprivacy.config.schema import CellConfig
from fedprivacy.config.validation import validate
from fedprivacy.data.cache import site_sizes
from fedprivacy.errors import ConfigError, DataError
from fedprivacy.federation.arrangement import largest_participant

Axes = dict[str, list[str]]


@dataclass(frozen=True)
class PlannedCell:
    """A cell that is to be run.

    Attributes:
        cell_id: its identity, which is also the name of its folder.
        folder: where it leaves its result.
        config: validated configuration.
        overrides: what to type after ``fedprivacy run`` to get this cell.
        composed: the configuration as Hydra composes it, for ``.hydra/``.
    """

    cell_id: str
    folder: Path
    config: CellConfig
    overrides: tuple[str, ...]
    composed: Composed


@dataclass(frozen=True)
class Plan:
    """A sweep before its first cell.

    Attributes:
        name: of the sweep, also of its MLflow experiment.
        folder: where the cells' folders are.
        cells: in the order of the grids, each once.
        settings: configuration of the sweep itself (workers, tracking).
    """

    name: str
    folder: Path
    cells: tuple[PlannedCell, ...]
    settings: CellConfig


def make_plan(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> Plan:
    """Compose and validate every cell of a sweep.

    Args:
        overrides: as typed; values separated by commas are axes.
        config_dirs: the user's own configuration folders.

    Raises:
        ConfigError: a cell cannot be run as it says; none is then run.
        DataError: a cell's real files are missing; none is then run.
    """
    with hydra_ready(config_dirs):
        fixed, typed_axes = split_axes(overrides)
        base = compose_cell(first_point(overrides), config_dirs)
        folder = Path(str(base.hydra.sweep.dir))
        cells: dict[str, PlannedCell] = {}
        composer = Composer(tuple(fixed), tuple(config_dirs), group_names(base))
        for words in combinations(base, fixed, typed_axes):
            cell = plan_cell(composer, words, folder)
            cells.setdefault(cell.cell_id, cell)
        settings = next(iter(cells.values())).config
        return Plan(settings.sweep.name, folder, tuple(cells.values()), settings)


def plan_cell(composer: Composer, words: Sequence[str], folder: Path) -> PlannedCell:
    """One cell, composed and validated.

    Args:
        composer: of what all cells share.
        words: overrides of this cell beside those.
        folder: of the sweep.

    Raises:
        ConfigError: the cell cannot be run as it says.
        DataError: its real files are missing.
    """
    composed = composer.compose_words(words)
    try:
        config = to_cell_config(composed.node)
        identity = checked(config)
    except (ConfigError, DataError) as error:
        error.add_note(f"in the cell: fedprivacy run {' '.join(composed.overrides)}")
        raise
    return PlannedCell(identity, folder / identity, config, composed.overrides, composed)


def checked(config: CellConfig) -> str:
    """The cell's identity, once everything that can be known before training was checked.

    Raises:
        ConfigError: a value out of range, a partition or a delta that the records do not allow.
        DataError: real files are missing.
    """
    validate(config)
    identity = cell_id(config)
    resolve_delta(config.privacy.delta, largest_participant(config, site_sizes(config.dataset)))
    return identity


def first_point(overrides: Sequence[str]) -> list[str]:
    """The overrides with the first value of each axis: settings are read from that cell."""
    fixed, axes = split_axes(overrides)
    return [*fixed, *(f"{key}={values[0]}" for key, values in axes.items())]


def split_axes(overrides: Sequence[str]) -> tuple[list[str], Axes]:
    """Separate what is fixed from what is swept (``a=1,2`` and the like)."""
    fixed: list[str] = []
    axes: Axes = {}
    for override in parse(overrides):
        if override.is_sweep_override():
            axes[override.get_key_element()] = list(override.sweep_string_iterator())
        else:
            fixed.append(str(override.input_line))
    return fixed, axes


def combinations(
    base: DictConfig, fixed: Sequence[str], typed_axes: Mapping[str, list[str]]
) -> Iterable[list[str]]:
    """What each cell adds to the fixed overrides: what was typed wins over the sweep file's axes.

    A choice of a group that some grid of the file has picks that grid, with the settings that go
    with the choice; one that no grid has replaces the grids' own.
    """
    typed = {_bare(key): values for key, values in typed_axes.items()}
    typed |= {_bare(key): [value] for key, _, value in (o.partition("=") for o in fixed)}
    params = OmegaConf.to_container(base.hydra.sweeper.params or OmegaConf.create({}))
    shared = _axes("hydra.sweeper.params", params)
    grids = [
        _axes(f"grids[{index}]", grid)
        for index, grid in enumerate(OmegaConf.to_container(base.grids))  # type: ignore[arg-type]
    ]
    groups = group_names(base)
    for grid in grids or [{}]:
        axes = {**shared, **grid, **typed_axes}
        for key in [key for key in axes if _bare(key) in typed]:
            axes[key] = typed[_bare(key)]
            if key in groups:
                axes[key] = _picked(key, typed[key], grid, grids)
        for values in itertools.product(*axes.values()):
            swept = [f"{key}={value}" for key, value in zip(axes, values, strict=True)]
            yield swept


def _picked(
    group: str, typed: Sequence[str], grid: Mapping[str, list[str]], grids: Sequence[Axes]
) -> list[str]:
    """Which of the typed choices of a group this grid runs."""
    if group not in grid:
        return list(typed)
    elsewhere = {choice for other in grids for choice in other.get(group, [])}
    return [choice for choice in typed if choice in grid[group] or choice not in elsewhere]


def _axes(where: str, grid: Any) -> Axes:
    if not isinstance(grid, Mapping):
        raise ConfigError(
            where, grid, "a mapping from key to values", "write key: value1,value2 in the grid"
        )
    axes: Axes = {}
    for key, value in grid.items():
        text = ",".join(str(item) for item in value) if isinstance(value, list) else str(value)
        (override,) = parse([f"{key}={text}"])
        if override.is_sweep_override():
            axes[str(key)] = list(override.sweep_string_iterator())
        else:
            axes[str(key)] = [text]
    return axes


def _bare(key: str) -> str:
    return key.lstrip("+~")
