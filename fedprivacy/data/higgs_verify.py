"""Whether the HIGGS files on disk are complete and what they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedprivacy.data.files import mark_problems
from fedprivacy.data.higgs_generator import SIGNAL_SHARE, SIZES, TAG_UNITS
from fedprivacy.data.higgs_table import CSV_NAME, Rows, read_rows
from fedprivacy.errors import DataError

NAME = "higgs"
REAL_ROWS, REAL_SIGNAL = 11_000_000, 5_829_123
# Start of the real file's first row, as its owners print it.
REAL_FIRST = (1.0, 0.8692932128906250, -0.6350818276405334, 0.2256902605295181, 0.3274700641632080)
TAG_COLUMNS = [9, 13, 17, 21]
POSITIVE_COLUMNS = [1, 4, 6, 10, 14, 18, *range(22, 29)]
TAG_TOLERANCE = 1e-4


def verify(root: Path, source: str) -> list[str]:
    """Problems of the files below ``root`` (``dataset.root``); empty when they are sound.

    Reads every row: 29 finite numbers, labels 0 and 1, b-tags that are 0, 1 or 2 units,
    positive momenta and masses, the number of rows and of signal rows, and for the real file its
    first row. Synthetic: every size that is there. Writes nothing.
    """
    if source == "real":
        csv = root / "real" / NAME / CSV_NAME
        marked = mark_problems(csv.parent, deep=False)
        return [*marked, *_verify_csv(csv, REAL_ROWS, real=True)]
    base = root / "synthetic" / NAME
    present = [size for size in SIZES if (base / size).is_dir()]
    if not present:
        return [f"{base} holds none of {', '.join(SIZES)}: run `fedprivacy data generate {NAME}`"]
    return [p for size in present for p in _verify_csv(base / size / CSV_NAME, SIZES[size])]


def _verify_csv(csv: Path, n_rows: int, real: bool = False) -> list[str]:
    if not csv.is_file():
        command = "download" if real else "generate"
        return [f"{csv} is missing: run `fedprivacy data {command} {NAME}`"]
    found, n_signal, problems = 0, 0, dict[str, None]()
    try:
        for block in read_rows(csv):
            if real and not found and not np.allclose(block[0, :5], REAL_FIRST, rtol=1e-6):
                problems[f"the first row begins {block[0, :5].tolist()}, not {REAL_FIRST}"] = None
            problems.update(dict.fromkeys(_verify_block(block)))
            found, n_signal = found + len(block), n_signal + int(block[:, 0].sum())
    except DataError as error:
        return [*(f"{csv}: {problem}" for problem in problems), str(error)]
    if found != n_rows:
        problems[f"{found:,} rows, not {n_rows:,}"] = None
    if real and found == n_rows and n_signal != REAL_SIGNAL:
        problems[f"{n_signal:,} signal rows, not {REAL_SIGNAL:,}"] = None
    # Five standard deviations of a binomial draw.
    if not real and abs(n_signal / found - SIGNAL_SHARE) > 2.5 / found**0.5:
        problems[f"{n_signal:,} of {found:,} rows are signal, not {SIGNAL_SHARE:.0%}"] = None
    return [f"{csv}: {problem}" for problem in problems]


def _verify_block(block: Rows) -> list[str]:
    """Problems of some rows, worded alike in every block so that each is told once."""
    problems = []
    for column, unit in zip(TAG_COLUMNS, TAG_UNITS, strict=True):
        tags = block[:, column] / unit
        near = np.rint(tags)
        if not np.isin(near, (0, 1, 2)).all() or np.abs(tags - near).max() > TAG_TOLERANCE:
            problems.append(f"column {column} (b-tag) takes values other than 0, 1, 2 x {unit}")
    for column in POSITIVE_COLUMNS:
        if (block[:, column] <= 0).any():
            problems.append(f"column {column} (a momentum or mass) is not positive in every row")
    return problems
