"""Where the IXI Tiny files are: subjects, their image and mask, in either published layout.

- Mendeley / FLamby: ``.../IXI_sample/<subject>/T1/*.nii.gz`` and ``.../<subject>/label/*.nii.gz``
- TorchIO: ``.../image/<subject>_image.nii.gz`` and ``.../label/<subject>_label.nii.gz``
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedprivacy.errors import DataError

NAME = "ixi_tiny"
# The order is FLamby's: centre 0, 1, 2 of its metadata file.
SITES = ("Guys", "HH", "IOP")
SUBJECT = re.compile(r"IXI(\d{3})-(Guys|HH|IOP)-(\d+)")
ROLES = {"T1": "image", "image": "image", "label": "mask"}
SPLIT_COLUMNS = ("Patient ID", "Manufacturer", "Split")


@dataclass(frozen=True, order=True)
class Subject:
    """One subject and where its files are.

    Attributes:
        name: for example ``IXI002-Guys-0828``.
        patient: ``IXI002``: what every split groups by.
        site: Guys, HH or IOP.
        image: the T1 volume, or None where it is missing.
        mask: the brain mask, or None where it is missing.
    """

    name: str
    patient: str
    site: str
    image: Path | None
    mask: Path | None


def find_subjects(folder: Path) -> list[Subject]:
    """All subjects anywhere below ``folder``, sorted by name, incomplete ones included.

    Raises:
        DataError: a subject has two images or two masks (for example both layouts at once).
    """
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*.nii.gz")):
        role = ROLES.get(path.parent.name)
        # Dot files: an archive packed on a Mac carries a "._" companion of every file.
        if role is None or path.name.startswith("."):
            continue
        match = SUBJECT.search(path.name) or SUBJECT.fullmatch(path.parent.parent.name)
        if match is None:
            continue
        files = found.setdefault(match.group(0), {})
        if role in files:
            raise DataError(
                f"{match.group(0)} has two {role} files: {files[role]} and {path}; keep one of "
                f"the two below {folder}"
            )
        files[role] = path
    return [
        Subject(name, name.split("-")[0], name.split("-")[1], files.get("image"), files.get("mask"))
        for name, files in sorted(found.items())
    ]


def complete_subjects(folder: Path) -> list[Subject]:
    """Subjects below ``folder``, each with its image and its mask.

    Raises:
        DataError: there are none, or some lack a file.
    """
    subjects = find_subjects(folder)
    if not subjects:
        raise DataError(
            f"no IXI Tiny subject in {folder}: looked for <subject>/T1/*.nii.gz with "
            "<subject>/label/*.nii.gz, and for image/<subject>_image.nii.gz with "
            "label/<subject>_label.nii.gz, where <subject> is like IXI002-Guys-0828"
        )
    lacking = [subject.name for subject in subjects if not (subject.image and subject.mask)]
    if lacking:
        raise DataError(
            f"{len(lacking)} of {len(subjects)} subjects in {folder} lack their image or their "
            f"mask ({some(lacking)}): run `fedprivacy data verify ixi_tiny` and extract the "
            "archive again"
        )
    return subjects


def read_split_file(path: Path, subjects: Sequence[Subject]) -> NDArray[np.bool_]:
    """Held-out flags from FLamby's ``metadata_tiny.csv``.

    Args:
        path: a CSV with the columns Patient ID (2 for IXI002), Manufacturer (0 Guys, 1 HH, 2 IOP)
            and Split (train or test).
        subjects: the subjects on disk.

    Returns:
        ``(len(subjects),)`` True where held out.

    Raises:
        DataError: the file cannot be read, or it and the disk do not hold the same subjects.
    """
    rows = _split_rows(path)
    by_id = {int(subject.patient[3:]): subject for subject in subjects}
    unlisted = [subject.name for number, subject in by_id.items() if number not in rows]
    absent = [f"IXI{number:03d}" for number in rows if number not in by_id]
    moved = [
        subject.name
        for number, subject in by_id.items()
        if number in rows and rows[number][0] != subject.site
    ]
    for problem, names in (
        ("are on disk but not in the split file", unlisted),
        ("are in the split file but not on disk", absent),
        ("belong to another site in the split file", moved),
    ):
        if names:
            raise DataError(
                f"dataset.split_file={path}: {len(names)} subjects {problem} ({some(names)}). "
                "FLamby's split needs exactly its 566 subjects; use dataset.split_file=null for "
                "our own seeded split"
            )
    return np.array([rows[int(subject.patient[3:])][1] for subject in subjects], dtype=np.bool_)


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first few names, for a message."""
    rest = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def _split_rows(path: Path) -> dict[int, tuple[str, bool]]:
    """Patient number to (site, held out)."""
    fix = "expected FLamby's flamby/datasets/fed_ixi/metadata/metadata_tiny.csv"
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            if not set(SPLIT_COLUMNS) <= set(reader.fieldnames or ()):
                raise DataError(
                    f"dataset.split_file={path} has columns {reader.fieldnames}, not "
                    f"{list(SPLIT_COLUMNS)}: {fix}"
                )
            lines = [tuple(row[column] for column in SPLIT_COLUMNS) for row in reader]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"dataset.split_file={path} cannot be read ({error}): {fix}") from error
    rows: dict[int, tuple[str, bool]] = {}
    for line, (patient, centre, split) in enumerate(lines, start=2):
        known = centre in ("0", "1", "2") and split in ("train", "test")
        if not (known and str(patient).isdecimal()) or int(patient) in rows:
            raise DataError(
                f"dataset.split_file={path} line {line}: patient {patient!r}, centre {centre!r}, "
                f"split {split!r} is a repeated or unknown value: {fix}"
            )
        rows[int(patient)] = (SITES[int(centre)], split == "test")
    return rows
