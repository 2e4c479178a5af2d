"""Whether the IXI Tiny files on disk are complete and what they should be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from fedprivacy.data.files import mark_problems
from fedprivacy.data.ixi_files import NAME, SITES, Subject, find_subjects
from fedprivacy.data.ixi_generator import SIZES
from fedprivacy.data.ixi_phantom import DISK_SHAPE
from fedprivacy.data.ixi_volumes import read_pair
from fedprivacy.errors import DataError

MAX_PROBLEMS_SHOWN = 20


def verify(root: Path, source: str) -> list[str]:
    """Problems of the files below ``root`` (``dataset.root``); empty when they are sound.

    Checks that every image has its mask, the numbers per site (311, 181, 74 for the real set and
    the full synthetic one), the shape (83, 44, 55), finite intensities, and masks of 0 and 1.
    Synthetic: every size that is there.
    """
    if source == "real":
        folder = root / "real" / NAME
        return [*mark_problems(folder), *_verify_folder(folder, SIZES["full"])]
    base = root / "synthetic" / NAME
    present = [size for size in SIZES if (base / size).is_dir()]
    if not present:
        return [f"{base} holds none of {', '.join(SIZES)}: run `fedprivacy data generate {NAME}`"]
    return [p for size in present for p in _verify_folder(base / size, SIZES[size])]


def _verify_folder(folder: Path, counts: Mapping[str, int]) -> list[str]:
    try:
        subjects = find_subjects(folder)
    except DataError as error:
        return [str(error)]
    if not subjects:
        return [f"{folder} holds no IXI Tiny subject"]
    problems = []
    for site in SITES:
        found = sum(subject.site == site for subject in subjects)
        if found != counts[site]:
            problems.append(f"site {site} has {found} subjects, not {counts[site]}")
    damaged = [problem for subject in subjects for problem in _verify_subject(subject)]
    if len(damaged) > MAX_PROBLEMS_SHOWN:
        rest = len(damaged) - MAX_PROBLEMS_SHOWN
        damaged = [*damaged[:MAX_PROBLEMS_SHOWN], f"and {rest} more subjects with problems"]
    return problems + damaged


def _verify_subject(subject: Subject) -> Iterator[str]:
    if subject.image is None or subject.mask is None:
        yield f"{subject.name} lacks its {'image' if subject.image is None else 'mask'}"
        return
    try:
        image, mask = read_pair(subject)
    except DataError as error:
        yield str(error)
        return
    if image.shape != DISK_SHAPE:
        yield f"{subject.name} has shape {image.shape}, not {DISK_SHAPE}"
    if not mask.any():
        yield f"{subject.name} has an empty mask"
