"""The table of HIGGS on disk: the owner's ``HIGGS.csv.gz`` and the float32 copy read for training.

The owner's format: no header, 29 columns (label, 28 features), each number written ``%.18e``. A row
takes 116 bytes as float32 against some 730 as text, and a memory map of it opens at once.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fedprivacy.data.files import STAMP_NAME, digest_tree, generated_once
from fedprivacy.errors import DataError

CSV_NAME, ROWS_NAME, ABOUT_NAME = "HIGGS.csv.gz", "rows.npy", "rows.json"
N_COLUMNS = 29
CHUNK_ROWS = 20_000
HEADER_BYTES = 128
CONVERSION_VERSION = 1

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Table:
    """The float32 copy, or its first rows.

    Attributes:
        path: a ``.npy`` file ``(at least n_rows, 29)`` float32, label first.
        n_rows: rows to use, from the first.
        complete: whether these are all rows of the csv.
        sha256: hex digest of these rows.
    """

    path: Path
    n_rows: int
    complete: bool
    sha256: str

    def rows(self) -> Rows:
        """The rows ``(n_rows, 29)`` as a read-only memory map."""
        mapped: Rows = np.load(self.path, mmap_mode="r")
        return mapped[: self.n_rows]


def write_rows(path: Path, blocks: Iterable[Rows]) -> None:
    """Write blocks ``(n, 29)`` of float32 to ``path`` in the owner's format.

    Equal blocks give equal bytes: the gzip header carries neither time nor file name.
    """
    line = ",".join(["%.18e"] * N_COLUMNS) + "\n"
    with (
        open(path, "wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=1, mtime=0) as packed,
    ):
        for block in blocks:
            for part in np.array_split(block, range(1000, len(block), 1000)):
                packed.write((line * len(part) % tuple(part.ravel().tolist())).encode("ascii"))


def read_rows(path: Path) -> Iterator[Rows]:
    """Stream the csv in blocks ``(at most 20000, 29)`` of float32, with a progress bar.

    Raises:
        DataError: the file is damaged, cut short or empty, a row has not 29 numbers, a number is
            not finite, or a label is neither 0 nor 1. The message names the rows.
    """
    done = 0
    try:
        with (
            open(path, "rb") as raw,
            io.TextIOWrapper(gzip.GzipFile(fileobj=raw), encoding="ascii") as text,
            tqdm(
                total=path.stat().st_size,
                desc=f"reading {path.name}",
                unit="B",
                unit_scale=True,
                delay=2,
                disable=None,
            ) as bar,
        ):
            while lines := list(islice(text, CHUNK_ROWS)):
                block = _parse(path, lines, done)
                done += len(block)
                bar.update(raw.tell() - bar.n)
                yield block
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is damaged or cut short, somewhere after row {done}: {error}. Delete it, then "
            "run `fedprivacy data download higgs` (or `generate higgs` for synthetic records)"
        ) from error
    if not done:
        raise DataError(f"{path} has no rows")


def converted(csv: Path, max_rows: int | None) -> Table:
    """The float32 copy of ``csv``, made on first use and made anew when the csv has changed.

    It lies beside the csv, in ``float32`` (1.28 GB for the owner's 11 million rows) or, where only
    the first rows were asked for and the whole is not there, in ``float32_first_<max_rows>``. An
    interrupted conversion leaves nothing and starts again.

    Args:
        csv: a file in the owner's format.
        max_rows: use at most this many rows, from the first; None means all.

    Raises:
        DataError: as ``read_rows``, or the copy cannot be written.
    """
    stamp = {
        "converted_from": CSV_NAME,
        "version": CONVERSION_VERSION,
        "csv_digest": digest_tree(csv.parent, csv.name),
        "max_rows": max_rows,
    }
    whole = csv.parent / "float32"
    if max_rows is not None and _has_stamp(whole, {**stamp, "max_rows": None}):
        return _first_rows(_open(whole), max_rows)
    folder = whole if max_rows is None else csv.parent / f"float32_first_{max_rows}"
    try:
        generated_once(folder, stamp, partial(_convert, csv=csv, max_rows=max_rows))
    except OSError as error:
        raise DataError(
            f"cannot write the float32 copy of {csv} to {folder}: {error}. It takes 116 bytes a "
            "row (1.28 GB for the whole file) beside the csv: make room or make the folder "
            "writable, or link the csv into another dataset.root"
        ) from error
    return _open(folder)


def _parse(path: Path, lines: list[str], done: int) -> Rows:
    """Numbers of a few lines, checked."""
    where = f"{path}, rows {done + 1} to {done + len(lines)}"
    try:
        block = np.loadtxt(lines, delimiter=",", dtype=np.float32, comments=None, ndmin=2)
    except ValueError as error:
        raise DataError(f"{where}: not a table of numbers: {error}") from error
    if block.shape != (len(lines), N_COLUMNS):
        raise DataError(
            f"{where}: expected {len(lines)} rows of {N_COLUMNS} numbers, found {block.shape}"
        )
    if not np.isfinite(block).all():
        raise DataError(f"{where}: a number is not finite")
    if not np.isin(block[:, 0], (0.0, 1.0)).all():
        raise DataError(f"{where}: column 0 is the label, and one is neither 0 nor 1")
    return block


def _convert(folder: Path, csv: Path, max_rows: int | None) -> None:
    """Write ``rows.npy`` and what is known about it; the row count comes out at the end."""
    digest, n_rows, complete = hashlib.sha256(), 0, True
    with open(folder / ROWS_NAME, "wb") as handle:
        handle.write(_npy_header(0))
        for block in read_rows(csv):
            if max_rows is not None and n_rows + len(block) > max_rows:
                block, complete = block[: max_rows - n_rows], False
            digest.update(block.data)
            handle.write(block.data)
            n_rows += len(block)
            if not complete:
                break
        handle.seek(0)
        handle.write(_npy_header(n_rows))
        handle.flush()
        os.fsync(handle.fileno())
    about = {"n_rows": n_rows, "complete": complete, "sha256": digest.hexdigest()}
    (folder / ABOUT_NAME).write_text(json.dumps(about) + "\n", encoding="utf-8")


def _npy_header(n_rows: int) -> bytes:
    """Header of a .npy file, format 1.0, of the same length for any number of rows."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({n_rows}, {N_COLUMNS}), }}"
    body = text.ljust(HEADER_BYTES - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body.encode("ascii")


def _open(folder: Path) -> Table:
    about = json.loads((folder / ABOUT_NAME).read_text(encoding="utf-8"))
    return Table(folder / ROWS_NAME, about["n_rows"], about["complete"], about["sha256"])


def _first_rows(table: Table, max_rows: int) -> Table:
    """The same copy cut to its first rows, with their own digest."""
    if max_rows >= table.n_rows:
        return table
    digest, rows = hashlib.sha256(), table.rows()[:max_rows]
    for start in range(0, max_rows, CHUNK_ROWS):
        digest.update(np.ascontiguousarray(rows[start : start + CHUNK_ROWS]).data)
    return replace(table, n_rows=max_rows, complete=False, sha256=digest.hexdigest())


def _has_stamp(folder: Path, stamp: dict[str, Any]) -> bool:
    try:
        found = json.loads((folder / STAMP_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(found == stamp)
