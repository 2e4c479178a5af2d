"""What a cell leaves behind: ``result.json``, strict JSON, written last and atomically."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from fedprivacy.errors import DataError

SCHEMA = 1
RESULT_FILE = "result.json"
LEDGER_FILE = "ledger.jsonl"

Status = Literal["ok", "collapsed", "failed", "pruned"]
Verdict = Literal["proven", "partial", "falsified", "unprotected"]
FINISHED: frozenset[str] = frozenset({"ok", "collapsed", "pruned"})


@dataclass(frozen=True)
class ScoreBlock:
    """The cell's score on held-out records.

    Attributes:
        name: accuracy, auc, dice or kappa.
        value: None when training became non-finite or the score is undefined.
        chance: score of the trivial predictor on the same records.
        standard_error: of ``value``; None where it cannot be had.
        per_site: score on each site's held-out records (federation=local: of each site's own
            model on the held-out records of all sites).
        per_class: of classifications, share of each class's held-out records that is recognised;
            empty for other tasks.
        class_sizes: held-out records of each class of ``per_class``.
    """

    name: str
    value: float | None
    chance: float
    standard_error: float | None
    per_site: Mapping[str, float | None] = field(default_factory=dict)
    per_class: Mapping[str, float | None] = field(default_factory=dict)
    class_sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RoundBlock:
    """One round.

    Attributes:
        round: 1, 2, ...
        protected: whether the schedule was on.
        strength: of the protection; None where it is off.
        steps: local optimiser steps per site (the largest over sites).
        score: global score after the round; None when undefined.
        score_per_site: the same by site.
        secondary: further metrics, for example accuracy beside auc.
        loss: mean local training loss, a diagnostic; None when not reported.
        update_norm: L2 norm of the averaged update as the server sees it.
        snr: norm of the averaged update without its expected noise, over the expected norm of
            the noise in it; None without noise, without diagnostics, and where the optimiser
            gives the noise's norm no closed form (adam).
        epsilon: proven epsilon of everything released up to this round; None when infinite.
        epsilon_protected: the same over protected rounds alone; None before the first, and where
            even they prove nothing.
    """

    round: int
    protected: bool
    strength: float | None
    steps: int
    score: float | None
    score_per_site: Mapping[str, float | None]
    secondary: Mapping[str, float | None]
    loss: float | None
    update_norm: float | None
    snr: float | None
    epsilon: float | None
    epsilon_protected: float | None = None


@dataclass(frozen=True)
class CellResult:
    """One finished, collapsed or failed cell; field for field what ``result.json`` holds."""

    schema: int
    cell_id: str
    algorithm: str
    schedule: str
    dataset: str
    federation: str
    model: str
    seed: int
    synthetic: bool
    engine: str
    device: str
    versions: Mapping[str, str]
    status: Status
    reason: str
    round: int | None
    error: Mapping[str, str] | None
    score: ScoreBlock | None
    rounds: tuple[RoundBlock, ...]
    privacy: Mapping[str, Any] | None
    audit: Mapping[str, Any] | None
    verdict: Verdict | None
    timing_s: Mapping[str, float]
    sites: Mapping[str, Mapping[str, int]]
    config: Mapping[str, Any]
    overrides: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the same command skips this cell: a collapse is a result, a failure is not."""
        return self.status in FINISHED

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, in the order of the fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CellResult:
        """Inverse of ``to_json``; unknown keys are dropped so that old readers survive."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {key: value for key, value in data.items() if key in known}
        if values.get("score") is not None:
            values["score"] = ScoreBlock(**values["score"])
        values["rounds"] = tuple(RoundBlock(**block) for block in values["rounds"])
        values["overrides"] = tuple(values.get("overrides", ()))
        return cls(**values)


def write_json(path: Path, value: object) -> None:
    """Write strict JSON (no NaN, no Infinity) to a temporary file, then rename.

    Raises:
        ValueError: the value holds a number that JSON has no word for.
    """
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_result(folder: Path, result: CellResult) -> Path:
    """Write ``result.json`` into the cell's folder; the mark that the cell is done."""
    path = folder / RESULT_FILE
    write_json(path, result.to_json())
    return path


def read_result(folder: Path) -> CellResult | None:
    """The cell's result, or None if there is none yet.

    Raises:
        DataError: the file is there but is not a result.
    """
    path = folder / RESULT_FILE
    try:
        return CellResult.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a result of this program ({error}); delete it") from error


def read_results(*folders: Path) -> list[CellResult]:
    """Results of all cells below the given sweep folders, ordered by folder then cell."""
    found: dict[str, CellResult] = {}
    for folder in folders:
        for path in sorted(folder.glob(f"*/{RESULT_FILE}")):
            result = read_result(path.parent)
            if result is not None:
                found.setdefault(result.cell_id, result)
    return list(found.values())


def cell_folders(folders: Sequence[Path]) -> dict[str, Path]:
    """Where each cell below the sweep folders is, by ``cell_id``; a folder may have any name."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob(f"*/{RESULT_FILE}")):
            if (result := read_result(path.parent)) is not None:
                found.setdefault(result.cell_id, path.parent)
    return found


def finite(value: float | None) -> float | None:
    """``value`` if it is a finite number, else None: JSON has no word for the others."""
    return value if value is not None and math.isfinite(value) else None
