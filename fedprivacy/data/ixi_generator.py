"""Synthetic IXI Tiny: writes brain phantoms in the Mendeley / FLamby tree."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fedprivacy.data.files import NOTICE_NAME
from fedprivacy.data.ixi_files import SITES
from fedprivacy.data.ixi_phantom import STYLES, disk_affine, phantom
from fedprivacy.errors import ConfigError

# Raise when the same (size, seed) would give other files.
GENERATOR_VERSION = 1
TREE = Path("7kd5wj7v7p-3") / "IXI_sample"
SIZES: Mapping[str, Mapping[str, int]] = {
    "demo": {"Guys": 24, "HH": 16, "IOP": 8},
    "full": {"Guys": 311, "HH": 181, "IOP": 74},
}
# Patient numbers of the real set run from 2 to 662, each used by one hospital only.
FIRST_PATIENT, LAST_PATIENT = 2, 662
PROGRESS_FROM = 100

README = """SYNTHETIC DATA. No file in this folder comes from a patient.

Brain phantoms written by fedprivacy in the format of IXI Tiny, for tests and demonstrations.
The shapes of the tissues derive from the MNI152 template:

Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological
Institute, McGill University. Permission to use, copy, modify, and distribute this software and its
documentation for any purpose and without fee is hereby granted, provided that the above copyright
notice appear in all copies. The authors and McGill University make no representations about the
suitability of this software for any purpose. It is provided "as is" without express or implied
warranty. The authors are not responsible for any data loss, equipment damage, property loss, or
injury to subjects or patients resulting from the use or misuse of this software package.
"""


def generate(folder: Path, size: str, seed: int) -> None:
    """Write the phantoms of one size below ``folder``.

    Args:
        folder: an empty folder.
        size: demo (48 subjects) or full (566, the real numbers per hospital).
        seed: the same seed gives the same bytes.

    Raises:
        ConfigError: unknown size.
    """
    if size not in SIZES:
        raise ConfigError("dataset.size", size, f"one of {', '.join(SIZES)}", "dataset.size=demo")
    generate_subjects(folder, SIZES[size], seed)


def generate_subjects(folder: Path, counts: Mapping[str, int], seed: int) -> None:
    """Write ``counts[site]`` phantoms of each site; ``generate`` with the numbers free."""
    tree = folder / TREE
    tree.mkdir(parents=True)
    (folder / NOTICE_NAME).write_text(README, encoding="utf-8")
    subjects = list(_subjects(counts, seed))
    with open(tree / "participants.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["FOLDER_NAME", "SITE_NAME", "HEIGHT", "WEIGHT"])
        for name, site, rng in tqdm(
            subjects, "Generating synthetic IXI phantoms", disable=len(subjects) < PROGRESS_FROM
        ):
            writer.writerow([name, site, *_height_and_weight(rng)])
            image, mask = phantom(STYLES[site], rng)
            _write(tree / name / "T1" / f"{name}_image.nii.gz", image)
            _write(tree / name / "label" / f"{name}_label.nii.gz", mask)


def _subjects(
    counts: Mapping[str, int], seed: int
) -> Iterator[tuple[str, str, np.random.Generator]]:
    """Name, site and own random stream of each subject, sorted by patient number."""
    total = sum(counts.values())
    rng = np.random.default_rng(seed)
    span = LAST_PATIENT - FIRST_PATIENT + 1
    patients = np.sort(rng.choice(span, total, replace=False)) + FIRST_PATIENT
    sites = rng.permutation(np.repeat(SITES, [counts[site] for site in SITES]))
    scans = np.sort(rng.choice(np.arange(500, 5000), total, replace=False))
    streams = np.random.SeedSequence(seed).spawn(total)
    for patient, site, scan, stream in zip(patients, sites, scans, streams, strict=True):
        name = f"IXI{patient:03d}-{site}-{scan:04d}"
        yield name, str(site), np.random.default_rng(stream)


def _height_and_weight(rng: np.random.Generator) -> tuple[int, int]:
    """Centimetres and kilograms of a made-up adult."""
    height = rng.normal(170.0, 9.0)
    return round(height), round(rng.normal(24.0, 3.0) * (height / 100) ** 2)


def _write(path: Path, volume: NDArray[np.int16] | NDArray[np.uint8]) -> None:
    """A NIfTI file with the affine of IXI Tiny, marked synthetic in its header."""
    path.parent.mkdir(parents=True)
    image = nib.Nifti1Image(volume, disk_affine())
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"SYNTHETIC brain phantom (fedprivacy)"
    nib.save(image, path)
