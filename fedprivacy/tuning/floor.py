"""Below which score a setting has collapsed: measured by the twin that has no protection."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedprivacy.cell import run_cell
from fedprivacy.config.composer import Composer
from fedprivacy.config.identity import cell_id
from fedprivacy.config.loading import to_cell_config
from fedprivacy.config.schema import CellConfig
from fedprivacy.errors import ConfigError
from fedprivacy.result import CellResult, read_result

Recorder = Callable[[CellResult, Path, dict[str, str]], None]

FOLDER = "twin"


@dataclass(frozen=True)
class Floor:
    """The collapse floor of a study.

    Attributes:
        value: score below which a setting has collapsed; None: chance and one standard error.
        twin: mean score of the twin over its seeds, if it was run.
        chance: score of the trivial predictor, where the twin told it.
        source: where the floor comes from, in words.
    """

    value: float | None
    twin: float | None = None
    chance: float | None = None
    source: str = "chance plus one standard error: there is no twin"

    def margin(self, result: CellResult, score: float) -> float:
        """How far a score is below the floor; at most 0 where it did not collapse."""
        if self.value is not None:
            return self.value - score
        assert result.score is not None
        return result.score.chance + (result.score.standard_error or 0.0) - score

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


def find_floor(config: CellConfig, composer: Composer, record: Recorder) -> Floor:
    """The floor that the configuration asks for; runs the twin where it is needed.

    Raises:
        ConfigError: the twin itself is no better than chance, or could not be run.
    """
    tuning = config.tuning
    if tuning.floor is not None:
        return Floor(tuning.floor, source=f"tuning.floor={tuning.floor:g}")
    if not tuning.twin:
        return Floor(None)
    results = [_twin(config, composer, offset, record) for offset in range(tuning.seeds)]
    scores = [r.score.value for r in results if r.score is not None and r.score.value is not None]
    if len(scores) < len(results) or any(r.status != "ok" for r in results):
        why = next(r.reason for r in results if r.status != "ok")
        raise ConfigError(
            "tuning.floor",
            None,
            f"null only where training without protection works at all; the twin did not ({why})",
            "mend federation.lr and the model first, or give tuning.floor=0.6 yourself",
        )
    twin, chance = statistics.fmean(scores), _chance(results)
    fraction = config.collapse.fraction
    return Floor(
        chance + fraction * (twin - chance),
        twin,
        chance,
        f"chance {chance:.4f} + {fraction:g} of what the twin, {twin:.4f}, learns above it",
    )


def _twin(config: CellConfig, composer: Composer, offset: int, record: Recorder) -> CellResult:
    """The twin of one seed: the settings as typed, without protection."""
    folder = Path(config.tuning.dir) / FOLDER / f"seed_{config.seed + offset}"
    composed = composer.compose({"algorithm": "none", "seed": config.seed + offset})
    twin = to_cell_config(composed.node)
    known = read_result(folder)
    if known is not None and known.finished and known.cell_id == cell_id(twin):
        return known
    result = run_cell(twin, folder, overrides=composed.overrides)
    record(result, folder, {"tuning.study": config.tuning.name, "tuning.role": "twin"})
    return result


def _chance(results: list[CellResult]) -> float:
    return statistics.fmean(r.score.chance for r in results if r.score is not None)
