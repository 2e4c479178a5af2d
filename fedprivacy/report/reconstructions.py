"""Reconstructed images under their originals, all rows of a dataset."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedprivacy.report.audit_figure import record_epsilon
from fedprivacy.report.canvas import new_figure
from fedprivacy.report.palette import INK
from fedprivacy.report.rows import Row
from fedprivacy.report.words import about_epsilon, dataset_title, epsilon_label, varying
from fedprivacy.result import cell_folders

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECONSTRUCTIONS_FILE = "reconstructions.npz"
_MOST_LINES, _SHOWN, _WRAP = 11, 4, 38
_CHARACTER, _TILE, _HEAD, _TITLE_CHARACTER = 0.068, 0.95, 0.62, 0.076
_SMALL_CHARACTER, _SMALL_LINE = 0.058, 0.14

Pair = tuple[NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class _Line:
    """Images side by side.

    Attributes:
        label: beside them.
        images: ``(n, channels, ...)``.
        grey: the values that are black and white, those of the originals.
    """

    label: str
    images: NDArray[Any]
    grey: tuple[float, float]


def load_reconstructions(folders: Sequence[Path]) -> dict[str, Pair]:
    """Originals and reconstructions of every cell that has some, by ``cell_id``."""
    found: dict[str, Pair] = {}
    for cell_id, folder in cell_folders(folders).items():
        if (path := folder / RECONSTRUCTIONS_FILE).exists():
            with np.load(path) as file:
                found[cell_id] = (file["originals"], file["reconstructions"])
    return found


def reconstruction_figures(rows: Sequence[Row], pairs: Mapping[str, Pair]) -> list[Figure]:
    """One dataset's images: originals, and below them a line of reconstructions for each row.

    Rows whose victims are others, as those of another setting, have their own originals above
    them. What is too long for one picture goes on in the next. None where there are no images:
    rows of tables are told by numbers.

    Args:
        rows: of one dataset.
        pairs: by ``cell_id``; of a row, the first seed that has one is shown.
    """
    found = [(row, pair) for row in rows if (pair := _pair(row, pairs)) is not None]
    protected = [row.privacy for row, _ in found if row.protected and row.privacy]
    about, keys = about_epsilon(protected), varying(protected)
    groups = _by_originals(sorted(found, key=lambda item: _rank(item[0])), keys)
    pages = _pages(groups)
    return [
        _figure(page, dataset_title(*rows[0].dataset), (number, len(pages)), about)
        for number, page in enumerate(pages, start=1)
    ]


def _pair(row: Row, pairs: Mapping[str, Pair]) -> Pair | None:
    each = (pairs[cell.cell_id] for cell in row.cells if cell.cell_id in pairs)
    return next((pair for pair in each if pair[0].ndim > 2), None)


def _by_originals(found: Sequence[tuple[Row, Pair]], keys: Sequence[str]) -> list[list[_Line]]:
    """The originals, then the rows that were reconstructed from them."""
    groups: list[list[_Line]] = []
    for row, (originals, images) in found:
        own = next((one for one in groups if np.array_equal(one[0].images, originals)), None)
        grey = float(originals.min()), float(originals.max())
        if own is None:
            groups.append(own := [_Line("originals", originals, grey)])
        own.append(_Line(_label(row, keys), images, grey))
    return groups


def _pages(groups: Sequence[Sequence[_Line]]) -> list[list[_Line]]:
    """Lines of each picture; originals stand again above rows that go on in the next."""
    pages: list[list[_Line]] = [[]]
    for originals, *rows in groups:
        if len(pages[-1]) + 2 > _MOST_LINES:
            pages.append([])
        pages[-1].append(originals)
        for line in rows:
            if len(pages[-1]) == _MOST_LINES:
                pages.append([originals])
            pages[-1].append(line)
    return pages if groups else []


def _figure(lines: Sequence[_Line], dataset: str, page: tuple[int, int], about: str) -> Figure:
    columns = min(_SHOWN, max(len(line.images) for line in lines))
    title = [f"{dataset}: reconstructed from", "one update of one record, after the protection"]
    if page[1] > 1:
        title[1] += f" ({page[0]} of {page[1]})"
    longest = max(len(part) for line in lines for part in line.label.split("\n"))
    left = 0.25 + _CHARACTER * longest
    wide = max(len(part) for part in title)
    width = max(left + _TILE * columns + 0.08, 0.2 + _TITLE_CHARACTER * wide)
    notes = textwrap.wrap(about, int((width - 0.2) / _SMALL_CHARACTER))
    foot = 0.08 + _SMALL_LINE * len(notes)
    height = _HEAD + (_TILE + 0.03) * len(lines) + foot
    figure = new_figure(width, height)
    grid = figure.add_gridspec(
        len(lines), columns, left=left / width, right=(left + _TILE * columns) / width,
        top=1 - _HEAD / height, bottom=foot / height, hspace=0.06, wspace=0.06,
    )  # fmt: skip
    for place, line in enumerate(lines):
        for column, image in enumerate(line.images[:columns]):
            axes = figure.add_subplot(grid[place, column])
            axes.imshow(_slice(image), cmap="gray", vmin=line.grey[0], vmax=line.grey[1])
            axes.set_axis_off()
            if column == 0:
                axes.text(
                    -0.12, 0.5, line.label, transform=axes.transAxes, ha="right", va="center",
                    fontsize=8, color=INK,
                )  # fmt: skip
    text: dict[str, Any] = {"color": INK}
    figure.text(0.1 / width, 1 - 0.1 / height, "\n".join(title), va="top", fontsize=9, **text)
    figure.text(0.1 / width, 0.06 / height, "\n".join(notes), fontsize=7, **text)
    return figure


def _slice(image: NDArray[Any]) -> NDArray[Any]:
    """A picture of one record: its first channel, and the middle slice of a volume."""
    first = image[0]
    return np.asarray(first if first.ndim == 2 else first[len(first) // 2])


def _label(row: Row, keys: Sequence[str]) -> str:
    """Its name and, with what must stand beside it, its epsilon."""
    proved = textwrap.wrap(epsilon_label(row.privacy, keys), _WRAP) if row.protected else []
    return "\n".join([*textwrap.wrap(row.name, _WRAP), *proved])


def _rank(row: Row) -> float:
    return record_epsilon(row) if row.protected else -1.0
