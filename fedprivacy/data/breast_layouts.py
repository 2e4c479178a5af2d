"""The two on-disk layouts of breast-density images, read into one table.

``datalist``: the ACR-NVIDIA-NCI challenge (MICCAI 2022): ``dataset_site-<i>.json`` with the lists
``train``, ``test1``, ``test2`` of ``{"patient_id", "image", "label": 0..3}``, images as float32
``(side, side, 3)`` npy in ``preprocessed/`` (found at any depth). The blinded lists that the
challenge gave to its participants (``dataset_blinded_*site-<i>.json``: ``train`` and an unlabelled
``test``) are read where the open ones are missing.

``rsna``: the RSNA 2022 screening mammography table ``train.csv`` with one
``<patient_id>_<image_id>.png`` an image, beside it or in ``images/`` (found at any depth).
"""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprivacy.errors import ConfigError, DataError

LAYOUTS = ("datalist", "rsna")
N_CLASSES = 4
GRADES = "ABCD"
RSNA_INDEX = "train.csv"
_RSNA_NEEDED = ("patient_id", "image_id", "density", "machine_id")
_DATALIST = re.compile(r"dataset_(?:(blinded(?:_phase2)?)_)?site-(\d+)\.json")


@dataclass(frozen=True)
class Item:
    """One labelled image: its file, grade 0..3, patient, owner's site and owner's side.

    ``held_out`` is None where the owner does not say.
    """

    path: Path
    label: int
    patient: str
    group: str
    held_out: bool | None


@dataclass(frozen=True)
class ImageTable:
    """The labelled images of one folder in a fixed order.

    Attributes:
        layout: datalist or rsna.
        paths: file of each image.
        labels: ``(n,)`` int64 grades 0..3 for A..D.
        patients: ``(n,)`` patient of each image.
        groups: ``(n,)`` federation key of each image: ``site-<i>`` or ``machine-<id>``.
        held_out: ``(n,)`` the owner's split, or None where there is none.
    """

    layout: str
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    patients: NDArray[np.str_]
    groups: NDArray[np.str_]
    held_out: NDArray[np.bool_] | None


def read_table(folder: Path, layout: str) -> ImageTable:
    """Read the index of ``folder``.

    Raises:
        ConfigError: unknown layout.
        DataError: no index, an index that is not in the owner's format, or no labelled image.
    """
    if layout == "datalist":
        items = list(_datalist_items(folder))
    elif layout == "rsna":
        items = list(_rsna_items(folder))
    else:
        raise ConfigError("dataset.layout", layout, " or ".join(LAYOUTS), "dataset.layout=datalist")
    if not items:
        raise DataError(f"no image with a density label in {folder} (layout {layout})")
    items.sort(key=lambda item: (*natural_key(item.group), item.patient, item.path.name))
    # The owner's test lists are used when at least one of them has its labels.
    split = any(item.held_out for item in items)
    return ImageTable(
        layout=layout,
        paths=tuple(item.path for item in items),
        labels=np.array([item.label for item in items], dtype=np.int64),
        patients=np.array([item.patient for item in items], dtype=np.str_),
        groups=np.array([item.group for item in items], dtype=np.str_),
        held_out=np.array([bool(item.held_out) for item in items]) if split else None,
    )


def index_files(folder: Path, layout: str) -> list[Path]:
    """The index of ``folder``: its datalists in the order of their sites, or its table.

    Raises:
        DataError: there is none.
    """
    if layout == "rsna":
        if (folder / RSNA_INDEX).is_file():
            return [folder / RSNA_INDEX]
        raise DataError(f"no {RSNA_INDEX} in {folder}")
    for place in _folders(folder):
        found: dict[str, dict[int, Path]] = defaultdict(dict)
        for path in place.glob("dataset_*.json"):
            if match := _DATALIST.fullmatch(path.name):
                found[match[1] or ""][int(match[2])] = path
        for kind in ("", "blinded", "blinded_phase2"):
            if found[kind]:
                return [path for _, path in sorted(found[kind].items())]
    raise DataError(f"no dataset_site-<i>.json in {folder} or two folders below it")


def natural_key(group: str) -> tuple[int, str]:
    """Sorts site-2 before site-10."""
    return len(group), group


def leaks(table: ImageTable) -> Iterator[str]:
    """Patients that the owner's index puts at two sites or on two sides, in words."""
    places: dict[str, set[str]] = defaultdict(set)
    held_out = table.held_out if table.held_out is not None else np.zeros(len(table.paths), bool)
    for patient, group, test in zip(table.patients, table.groups, held_out, strict=True):
        places[str(patient)].add(f"{group} {'test' if test else 'train'}")
    for patient, where in sorted(places.items()):
        if len(where) > 1:
            yield f"patient {patient} is in {len(where)} places: {', '.join(sorted(where))}"


def _datalist_items(folder: Path) -> Iterator[Item]:
    files = _Files(folder, ".npy")
    for index in index_files(folder, "datalist"):
        match = _DATALIST.fullmatch(index.name)
        assert match is not None  # index_files returns nothing else
        content = _read_json(index)
        if not isinstance(content, dict) or "train" not in content:
            raise DataError(f"{index} is not a datalist: an object with a list 'train' is needed")
        for key, entries in content.items():
            if not isinstance(entries, list):
                raise DataError(f"{index}: {key!r} is not a list")
            if key != "train" and not all("label" in entry for entry in entries):
                continue  # blinded: a list without its labels cannot be scored
            for entry in entries:
                yield Item(
                    path=files[str(_field(entry, "image", index))],
                    label=_label(_field(entry, "label", index), index),
                    patient=str(_field(entry, "patient_id", index)),
                    group=f"site-{match[2]}",
                    held_out=key != "train",
                )


def _rsna_items(folder: Path) -> Iterator[Item]:
    (index,) = index_files(folder, "rsna")
    files = _Files(folder, ".png")
    with open(index, encoding="utf-8", newline="") as handle:
        reader = csv.DictReader(handle)
        missing = set(_RSNA_NEEDED) - set(reader.fieldnames or ())
        if missing:
            raise DataError(f"{index} has no column {', '.join(sorted(missing))}")
        for row in reader:
            density = (row["density"] or "").strip()
            if density.lower() in ("", "nan"):
                continue  # nearly half of the rows, and all of site_id 2
            if len(density) != 1 or density not in GRADES:
                raise DataError(f"{index} line {reader.line_num}: density {density!r} is not A-D")
            yield Item(
                path=files[f"{row['patient_id']}_{row['image_id']}.png"],
                label=GRADES.index(density),
                patient=row["patient_id"],
                group=f"machine-{row['machine_id']}",
                held_out=None,
            )


def _folders(folder: Path) -> Iterator[Path]:
    """``folder`` and the folders one and two below it: archives bring levels of their own."""
    yield folder
    for pattern in ("*/", "*/*/"):
        yield from sorted(path for path in folder.glob(pattern) if path.name != "__MACOSX")


class _Files:
    """Where each image below a folder is; a file that is not there gets a path all the same."""

    def __init__(self, folder: Path, ending: str) -> None:
        self.folder = folder
        self.found: dict[str, Path] = {}
        for path in sorted(folder.rglob(f"*{ending}")):
            self.found.setdefault(path.name, path)

    def __getitem__(self, name: str) -> Path:
        base = Path(name).name  # a path in an index must not lead out of the folder
        return self.found.get(base, self.folder / base)


def _field(entry: Any, key: str, index: Path) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise DataError(f"{index}: an entry has no {key!r}: {entry!r}")
    return entry[key]


def _label(value: object, index: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < N_CLASSES:
        raise DataError(f"{index}: label {value!r} is not one of 0, 1, 2, 3 (density A-D)")
    return value


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
