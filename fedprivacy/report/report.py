"""The report of finished cells: a table, a CSV file and pictures, made from results alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from fedprivacy.pricing.file import PRICE_FILE, write_prices
from fedprivacy.pricing.price import Price, losses, price
from fedprivacy.pricing.twins import COLLAPSE_FRACTION
from fedprivacy.report.bounds import bounds_csv
from fedprivacy.report.canvas import save, style
from fedprivacy.report.files import write_text
from fedprivacy.report.harm_table import harm_csv
from fedprivacy.report.price_csv import prices_csv
from fedprivacy.report.price_table import price_tables, price_text
from fedprivacy.report.rows import Row, main_rows, make_rows
from fedprivacy.report.table import cell_csv, cell_table
from fedprivacy.result import RESULT_FILE, CellResult, read_results

if TYPE_CHECKING:
    from fedprivacy.report.roc import Attack

REPORT_FOLDER = "report"


@dataclass(frozen=True)
class Material:
    """What every part of a report is made from.

    Attributes:
        results: all cells that have a result.
        rows: the same, seeds together.
        unfinished: cells that were started and have no result.
        collapse_fraction: what a collapse against the twin is.
        folders: of the sweeps.
    """

    results: tuple[CellResult, ...]
    rows: tuple[Row, ...]
    unfinished: int
    collapse_fraction: float
    folders: tuple[Path, ...] = ()

    @cached_property
    def prices(self) -> dict[str, Price]:
        """The price of each protected row, by the ``cell_id`` of its first cell."""
        return {
            row.first.cell_id: price(row.cells, self.results, self.collapse_fraction)
            for row in self.rows
            if row.protected
        }

    @cached_property
    def attacks(self) -> list[Attack]:
        """Membership attacks on the audited rows."""
        from fedprivacy.report.roc import attacks, load_audits

        return attacks(self.rows, load_audits(self.folders))


@dataclass(frozen=True)
class Report:
    """A written report.

    Attributes:
        folder: where it is.
        table: text of the table, to be printed.
        paths: files that were written, the table first.
        results: what it is about.
        prices: score lost against its twin, by ``cell_id``; only cells that have one.
    """

    folder: Path
    table: str
    paths: tuple[Path, ...]
    results: tuple[CellResult, ...]
    prices: Mapping[str, float] = field(default_factory=dict)


def write_report(
    folders: Sequence[Path],
    out: Path | None = None,
    collapse_fraction: float = COLLAPSE_FRACTION,
) -> Report:
    """Report on sweeps, finished or not; each file is replaced whole.

    Args:
        folders: sweep folders, each holding one folder per cell.
        out: where to write; None: the folder ``report`` in the first sweep folder.
        collapse_fraction: ``collapse.fraction`` of the sweep, which results do not hold since
            it changes none of them: a cell is collapsed against its twin if score <= chance +
            fraction * (twin - chance).

    Raises:
        DataError: a file is there but is not a result.
    """
    results = tuple(read_results(*folders))
    rows = tuple(make_rows(results, collapse_fraction))
    unfinished = count_unfinished(folders)
    material = Material(results, rows, unfinished, collapse_fraction, tuple(folders))
    folder = out if out is not None else folders[0] / REPORT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    paths = [path for write in PARTS for path in write(material, folder)]
    paths += _html(material, folder, paths)
    return Report(folder, table_text(material), tuple(paths), results, losses(results))


def count_unfinished(folders: Sequence[Path]) -> int:
    """Cells that were started, which Hydra's own folder shows, and have left no result."""
    started = {path.parent for folder in folders for path in folder.glob("*/.hydra")}
    return sum(not (cell / RESULT_FILE).exists() for cell in started)


def table_text(material: Material) -> str:
    """The table, with a line on what is still missing."""
    text = cell_table(material.results, material.collapse_fraction)
    if material.unfinished:
        text += f"\n\n{material.unfinished} cells have no result yet"
    return text


def _table(material: Material, folder: Path) -> list[Path]:
    return [write_text(folder / "table.txt", table_text(material) + "\n")]


def _csv(material: Material, folder: Path) -> list[Path]:
    text = cell_csv(material.results, material.collapse_fraction)
    return [write_text(folder / "results.csv", text)]


def _curves(material: Material, folder: Path) -> list[Path]:
    from fedprivacy.report.curves import curves_figure

    written = []
    for name, rows in by_dataset(material.rows):
        with style():
            written += save(curves_figure(main_rows(rows)), folder / f"curves_{name}")
    return written


def _overview(material: Material, folder: Path) -> list[Path]:
    from fedprivacy.report.overview import overview_figure

    if not material.rows:
        return []
    with style():
        figure = overview_figure(main_rows(material.rows), material.collapse_fraction)
        return save(figure, folder / "overview")


def _prices(material: Material, folder: Path) -> list[Path]:
    from fedprivacy.report.price_list import price_list_figure

    written = [
        write_prices(
            folder / PRICE_FILE, list(material.prices.values()), material.collapse_fraction
        ),
        write_text(folder / "prices.txt", price_text(price_tables(material.rows, material.prices))),
    ]
    for file, text in (
        ("prices.csv", prices_csv(material.rows, material.prices)),
        ("harm.csv", harm_csv(material.rows, material.prices)),
    ):
        if text:
            written.append(write_text(folder / file, text))
    for name, rows in by_dataset(material.rows):
        with style():
            figure = price_list_figure(rows, material.collapse_fraction)
            if figure is not None:
                written += save(figure, folder / f"prices_{name}")
    return written


def _audits(material: Material, folder: Path) -> list[Path]:
    from fedprivacy.report.audit_figure import audit_figure
    from fedprivacy.report.budgets import budget_figure
    from fedprivacy.report.reconstructions import load_reconstructions, reconstruction_figures
    from fedprivacy.report.roc import roc_figure

    written, pairs = [], load_reconstructions(material.folders)
    if text := bounds_csv(material.rows):
        written.append(write_text(folder / "bounds.csv", text))
    for name, rows in by_dataset(material.rows):
        drawn_rows = {id(row) for row in main_rows(rows)}
        own = [one for one in material.attacks if id(one.row) in drawn_rows]
        with style():
            for kind, drawn in (
                ("audit", audit_figure(rows)),
                ("roc", roc_figure(own)),
                ("budgets", budget_figure(rows)),
            ):
                if drawn is not None:
                    written += save(drawn, folder / f"{kind}_{name}")
            for number, page in enumerate(reconstruction_figures(rows, pairs), start=1):
                more = "" if number == 1 else f"_{number}"
                written += save(page, folder / f"reconstruction_{name}{more}")
    return written


_CAPTIONS = {
    "overview": "Score of every cell beside its non-private twin and chance",
    "prices": "Score against proven epsilon; infinite has a place of its own",
    "curves": "Held-out score by round, of all sites and of each",
    "audit": "Measured lower bounds against what is advertised and proved",
    "roc": "Membership inference with and without protection, on log axes",
    "reconstruction": "Originals and what was reconstructed from one update after the protection",
    "budgets": "Reconstruction success against proven epsilon, large budgets included",
}
_SECTIONS = {"audit": "audits", "budgets": "reconstruction"}


def _html(material: Material, folder: Path, written: Sequence[Path]) -> list[Path]:
    from fedprivacy.report.html import HTML_FILE, html_page

    pictures: dict[str, list[tuple[Path, str]]] = {}
    for path in written:
        kind, _, name = path.stem.partition("_")
        if path.suffix == ".png" and kind in _CAPTIONS:
            caption = f"{_CAPTIONS[kind]}{f' ({name})' if name else ''}"
            pictures.setdefault(_SECTIONS.get(kind, kind), []).append(
                (path.with_suffix(""), caption)
            )
    text = html_page(
        material.results,
        material.rows,
        material.prices,
        material.attacks,
        material.folders,
        pictures,
        material.unfinished,
    )
    return [write_text(folder / HTML_FILE, text)]


def by_dataset(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows of each dataset, with a name for files; real records apart from synthetic ones."""
    present = {row.dataset for row in rows}
    groups = []
    for (dataset, synthetic), group in groupby(rows, key=lambda row: row.dataset):
        both = (dataset, not synthetic) in present
        groups.append((dataset + ("_real" if both and not synthetic else ""), list(group)))
    return groups


PARTS: tuple[Callable[[Material, Path], list[Path]], ...] = (
    _table,
    _csv,
    _curves,
    _overview,
    _prices,
    _audits,
)
"""Writers of a report, in order; each returns the files it wrote."""
