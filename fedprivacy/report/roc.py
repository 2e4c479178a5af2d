"""Membership inference on the audited cells, with the sweep's own seeds as shadow models."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedprivacy.audit.membership import Membership, membership, roc
from fedprivacy.audit.shadow import lira, rmia
from fedprivacy.report.canvas import new_figure
from fedprivacy.report.palette import FAINT, INK, look_of, shaded
from fedprivacy.report.rows import Row
from fedprivacy.report.words import dataset_title
from fedprivacy.result import cell_folders

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AUDIT_FILE = "audit.npz"
UPDATES = "updates"
_LOWEST = 1e-3
_MARKERS = ("^", "v", "<", ">", "P", "X", "*", "h", "D")
_PANEL, _TALL, _CHARACTER = 2.3, 1.95, 0.062
_MOST_ALIKE = 3
_WIDTH, _THICK, _THIN = 1.3, 2.0, 0.7
_GUESSING: dict[str, Any] = {"color": FAINT, "lw": 0.7, "ls": (0, (1, 2))}
_DASHES: dict[str, Any] = {
    "every_round": "-",
    "first_round": (0, (4, 1.5)),
    "every_nth": (0, (4, 1.2, 1, 1.2)),
    "last_round": (0, (1, 1)),
}

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Attack:
    """One attack on one row, over all its seeds.

    Attributes:
        name: of the attack.
        row: the cells.
        scores: pooled over seeds, each standardised by itself.
        included: the coins.
        found: success in numbers.
    """

    name: str
    row: Row
    scores: NDArray[np.float64]
    included: NDArray[np.bool_]
    found: Membership


def load_audits(folders: Sequence[Path]) -> dict[str, Arrays]:
    """The saved scores of every audited cell below the sweep folders, by ``cell_id``."""
    found: dict[str, Arrays] = {}
    for cell_id, folder in cell_folders(folders).items():
        if (path := folder / AUDIT_FILE).exists():
            with np.load(path) as file:
                found[cell_id] = {key: file[key] for key in file.files}
    return found


def attacks(rows: Sequence[Row], audits: Mapping[str, Arrays]) -> list[Attack]:
    """All attacks on all audited rows; those by shadow models where there are seeds enough."""
    found = []
    for row in rows:
        seeds = [audits[cell.cell_id] for cell in row.cells if cell.cell_id in audits]
        if seeds:
            beyond = (row.privacy or {}).get("view", "server_updates") != "server_updates"
            for name, scores in _scores(seeds).items():
                full = f"{name} (beyond the view)" if name == UPDATES and beyond else name
                found.append(_attack(row, full, seeds, scores))
    return found


def _scores(seeds: Sequence[Arrays]) -> dict[str, list[NDArray[np.float64]]]:
    """Scores of each seed by attack."""
    scores = {
        UPDATES: [seed["server"] for seed in seeds],
        "loss threshold": [-seed["loss"] for seed in seeds],
    }
    same = all(_who(seed) == _who(seeds[0]) for seed in seeds)
    if same and len(seeds) >= 3:
        logits = np.stack([seed["logit"] for seed in seeds])
        coins = np.stack([seed["included"] for seed in seeds]).astype(bool)
        targets = range(len(seeds))
        scores["LiRA"] = [lira(logits, coins, target) for target in targets]
        scores["RMIA"] = [rmia(logits, coins, target) for target in targets]
    return scores


def _who(seed: Arrays) -> list[tuple[str, int]]:
    return list(zip(seed["site"].tolist(), seed["candidate"].tolist(), strict=True))


def _attack(
    row: Row, name: str, seeds: Sequence[Arrays], scores: Sequence[NDArray[np.float64]]
) -> Attack:
    pooled = np.concatenate([_standardised(one) for one in scores])
    included = np.concatenate([seed["included"] for seed in seeds]).astype(bool)
    whose = [f"{site}/{number}" for seed in seeds for site, number in _who(seed)]
    several = len(seeds) > 1
    found = membership(name, pooled, included, candidates=whose if several else None)
    return Attack(name, row, pooled, included, found)


def _standardised(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    spread = float(scores.std())
    return np.asarray((scores - scores.mean()) / spread if spread > 0 else np.zeros_like(scores))


def roc_figure(found: Sequence[Attack]) -> Figure | None:
    """ROC curves of one dataset on log axes, one panel for each attack; None without any.

    A line has its algorithm's colour and its schedule's dashes; settings of both alike differ in
    the marker, its shade and the width of the line; of many such settings the first, the middle and
    the last are drawn, as more cannot be followed. The legend stands below.
    """
    every, found = len({attack.row.name for attack in found}), drawn(found)
    names = list(dict.fromkeys(attack.name for attack in found))
    if not names:
        return None
    width = max(_PANEL * len(names) + 0.75, 6.4)
    looks = _looks(found)
    widest = max(len(label) for label in looks)
    columns = max(1, min(len(looks), int((width - 0.2) / (0.62 + _CHARACTER * widest))))
    foot = 0.62 + 0.19 * math.ceil(len(looks) / columns)
    height = 0.68 + _TALL + foot
    figure = new_figure(width, height)
    grid = figure.add_gridspec(
        1, len(names), left=0.6 / width, right=1 - 0.12 / width, top=1 - 0.68 / height,
        bottom=foot / height, wspace=0.16,
    )  # fmt: skip
    for index, name in enumerate(names):
        axes = figure.add_subplot(grid[0, index])
        for attack in (one for one in found if one.name == name):
            _curve(axes, attack, looks[attack.row.name])
        line = np.logspace(np.log10(_LOWEST), 0, 20)
        axes.plot(line, line, **_GUESSING)
        axes.set(xscale="log", yscale="log", xlim=(_LOWEST, 1), ylim=(_LOWEST, 1.15))
        axes.set_title(name, loc="left", color=INK)
        axes.set_xlabel("false-positive rate")
        if index:
            axes.set_yticklabels([])
        else:
            axes.set_ylabel("true-positive rate")
    title = f"{dataset_title(*found[0].row.dataset)}: who was in training? All seeds together"
    if left_out := every - len({attack.row.name for attack in found}):
        title += f"; {left_out} more in the table"
    figure.suptitle(title, x=0.6 / width, y=1 - 0.1 / height, ha="left", va="top", fontsize=9.5)
    _legend(figure, looks, columns)
    return figure


def drawn(found: Sequence[Attack]) -> list[Attack]:
    """Of settings that share algorithm and schedule no more than three: first, middle and last."""
    alike: dict[tuple[str, str, str], dict[str, None]] = {}
    for attack in found:
        first = attack.row.first
        key = (first.algorithm, first.schedule, first.federation)
        alike.setdefault(key, {})[attack.row.name] = None
    kept = set()
    for names in map(list, alike.values()):
        some = names if len(names) <= _MOST_ALIKE else [names[0], names[len(names) // 2], names[-1]]
        kept.update(some)
    return [attack for attack in found if attack.row.name in kept]


def _curve(axes: Any, attack: Attack, style: Mapping[str, Any]) -> None:
    fpr, tpr = roc(attack.scores, attack.included)
    axes.step(
        np.maximum(fpr, _LOWEST / 10), np.maximum(tpr, _LOWEST / 10), where="post",
        markevery=0.16, **style,
    )  # fmt: skip


def _looks(found: Sequence[Attack]) -> dict[str, dict[str, Any]]:
    """How each row is drawn, by its label; then what is no row."""
    rows = {attack.row.name: attack.row for attack in found}
    alike: dict[tuple[str, str], list[str]] = {}
    for label, row in rows.items():
        alike.setdefault((row.first.algorithm, row.first.schedule), []).append(label)
    looks: dict[str, dict[str, Any]] = {}
    used: set[str] = set()
    taken = {look_of(row.first.algorithm, row.first.federation).marker for row in rows.values()}
    free = itertools.cycle([marker for marker in _MARKERS if marker not in taken] or _MARKERS)
    for label, row in rows.items():
        same = alike[row.first.algorithm, row.first.schedule]
        own = look_of(row.first.algorithm, row.first.federation).marker
        marker = next(free) if own in used else own
        used.add(own)
        looks[label] = _style(row, same.index(label), len(same), marker)
    return {**looks, "guessing": _GUESSING}


def _style(row: Row, place: int, of: int, marker: str) -> dict[str, Any]:
    """Look of a row; marker, dashes and width tell it from the others of its algorithm."""
    look = look_of(row.first.algorithm, row.first.federation)
    dash = _DASHES.get(row.first.schedule, "-") if row.protected else look.dash
    shade = shaded(look.colour, place, of)
    width = _WIDTH if of == 1 else _THICK - (_THICK - _THIN) * place / (of - 1)
    return {
        "color": look.colour, "ls": dash, "lw": width, "marker": marker, "ms": 4.6,
        "mec": shade, "mfc": shade if row.proved else "white",
    }  # fmt: skip


def _legend(figure: Figure, looks: Mapping[str, dict[str, Any]], columns: int) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=label, **style) for label, style in looks.items()]
    figure.legend(
        handles=handles, loc="lower left", frameon=False, ncol=columns, columnspacing=1.2,
        bbox_to_anchor=(0.0, 0.0), handlelength=3.2,
    )  # fmt: skip


def attack_lines(found: Sequence[Attack]) -> list[dict[str, str]]:
    """The success of every attack as text, with its intervals."""
    lines = []
    for attack in found:
        one = attack.found
        rates = {
            f"TPR at {100 * rate:g} % FPR": f"{one.tpr[rate]:.3f} "
            f"[{one.interval[rate][0]:.3f}, {one.interval[rate][1]:.3f}]"
            f"{' (no false alarm)' if rate in one.unresolved else ''}"
            for rate in one.tpr
        }
        area = "undefined" if one.auc is None else f"{one.auc:.3f}"
        lines.append(
            {
                "dataset": attack.row.first.dataset,
                "federation": attack.row.first.federation,
                "algorithm": attack.row.algorithm,
                "schedule": attack.row.schedule if attack.row.protected else "-",
                "attack": attack.name,
                "AUC": area,
                **rates,
                "canaries in / out": f"{one.members} / {one.others}",
            }
        )
    return lines
