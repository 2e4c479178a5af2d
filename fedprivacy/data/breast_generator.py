"""Synthetic mammograms with a density grade, written in the owners' two formats.

A patient has one latent density z ~ N(0, 1), shared by the four standard views. The grade A-D is
a reader's: an ordinal cut of z plus the reader's own error, one reading per patient, so that even
a perfect measurement of the image agrees with it only to a linear weighted kappa of about 0.7,
as two human readers would. Images are half ellipses with a thickness falloff in which 1/f^3 noise
(the power spectrum of mammographic background, Burgess 1999) is thresholded at the percent
density that belongs to z. Nothing here is derived from a real person.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from fedprivacy.data.files import write_notice
from fedprivacy.errors import ConfigError

VERSION = 1
SEED = 20220918
READER_SD = 0.45
CLASS_MIX = (0.12, 0.40, 0.41, 0.07)
VIEWS = (("LEFT", "CC"), ("LEFT", "MLO"), ("RIGHT", "CC"), ("RIGHT", "MLO"))
RSNA_COLUMNS = (
    *("site_id", "patient_id", "image_id", "laterality", "view", "age", "cancer", "biopsy"),
    *("invasive", "BIRADS", "implant", "density", "machine_id", "difficult_negative_case"),
)
_UNREAD = -1


@dataclass(frozen=True)
class Scale:
    """How much is made: pixels per side, and patients per site in each of the owner's lists."""

    side: int
    train: int
    test1: int
    test2: int

    @property
    def images(self) -> int:
        """Images of all sites together."""
        return len(STYLES) * len(VIEWS) * (self.train + self.test1 + self.test2)


@dataclass(frozen=True)
class Style:
    """How a site's machines render tissue; blur is in units of the image side."""

    machine_id: int
    gamma: float
    gain: float
    noise_sd: float
    blur: float


@dataclass(frozen=True)
class Patient:
    """One woman: where she is seen, her latent density and the reader's grade (0..3)."""

    number: int
    site: int
    part: str
    latent: float
    label: int


# The lists have the proportions of the challenge (about 603 / 86 / 345 images of a site); the
# sides are smaller than its 224 pixels to save disk, which the loader does not mind.
SIZES = {"demo": Scale(64, 70, 10, 40), "full": Scale(128, 150, 21, 86)}
STYLES = (
    Style(machine_id=49, gamma=1.0, gain=1.0, noise_sd=0.010, blur=0.0),
    Style(machine_id=48, gamma=0.85, gain=0.92, noise_sd=0.020, blur=0.008),
    Style(machine_id=29, gamma=1.2, gain=1.05, noise_sd=0.030, blur=0.004),
)

NOTICE = "patient: made-up breasts drawn by fedprivacy."


def generate(folder: Path, size: str, seed: int) -> None:
    """Write the ACR-NVIDIA-NCI challenge layout: datalists and float32 ``(side, side, 3)`` npy.

    As in the owner's preprocessing the array is the transposed image, grey copied to three
    channels, in [0, 1].

    Args:
        folder: an existing folder, filled.
        size: ``demo`` or ``full``.
        seed: the only source of randomness.

    Raises:
        ConfigError: unknown size.
    """
    scale = scale_of(size)
    write_notice(folder, NOTICE)
    images = folder / "preprocessed"
    images.mkdir()
    lists: list[dict[str, list[dict[str, Any]]]] = [
        {"train": [], "test1": [], "test2": []} for _ in STYLES
    ]
    for patient in patients(size, seed):
        kind = "Training" if patient.part == "train" else "Test"
        for (side, view), pixels in zip(VIEWS, render(patient, scale.side, seed), strict=True):
            name = f"Synthetic-{kind}_P_{patient.number:05d}_{side}_{view}.npy"
            grey = (pixels.T / np.float32(255)).astype(np.float32)
            np.save(images / name, np.repeat(grey[:, :, None], 3, axis=2))
            item = {"patient_id": f"P_{patient.number:05d}", "image": name, "label": patient.label}
            lists[patient.site][patient.part].append(item)
    for number, content in enumerate(lists, start=1):
        path = folder / f"dataset_site-{number}.json"
        path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")


def generate_rsna(folder: Path, size: str, seed: int) -> None:
    """Write the RSNA 2022 layout: ``train.csv`` and 8-bit ``<patient_id>_<image_id>.png``.

    The same patients and pixels as ``generate``. As in the real table, ``site_id`` 2 has images
    without a density, so that ``machine_id`` is the only usable federation key; here these are
    one extra patient for every ten.

    Args, Raises: as ``generate``.
    """
    scale = scale_of(size)
    write_notice(folder, NOTICE)
    images = folder / "images"
    images.mkdir()
    graded = list(patients(size, seed))
    unread = [
        Patient(len(graded) + k + 1, k % len(STYLES), "train", 0.0, _UNREAD)
        for k in range(len(graded) // 10)
    ]
    with open(folder / "train.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, RSNA_COLUMNS, lineterminator="\n")
        writer.writeheader()
        for patient in (*graded, *unread):
            views = zip(VIEWS, render(patient, scale.side, seed), strict=True)
            for image_id, ((side, view), pixels) in enumerate(views, start=patient.number * 10):
                writer.writerow(_rsna_row(patient, image_id, side[0], view))
                Image.fromarray(pixels).save(images / f"{patient.number}_{image_id}.png")


def scale_of(size: str) -> Scale:
    """The scale named ``size``; ConfigError if there is none."""
    if size not in SIZES:
        raise ConfigError("dataset.size", size, " or ".join(SIZES), "dataset.size=demo")
    return SIZES[size]


def patients(size: str, seed: int) -> Iterator[Patient]:
    """All patients in the order of their numbers, each from her own random stream."""
    scale = scale_of(size)
    parts = ["train"] * scale.train + ["test1"] * scale.test1 + ["test2"] * scale.test2
    number = 0
    for part in parts:
        for site in range(len(STYLES)):
            number += 1
            latent, error = np.random.default_rng([seed, number, 0]).standard_normal(2)
            read = (latent + READER_SD * error) / math.sqrt(1.0 + READER_SD**2)
            yield Patient(number, site, part, float(latent), grade(float(read)))


def grade(standard_score: float) -> int:
    """Grade 0..3 of a standard normal density score: an ordinal cut with the mix CLASS_MIX."""
    share = 0.5 * (1.0 + math.erf(standard_score / math.sqrt(2.0)))
    return int(np.searchsorted(np.cumsum(CLASS_MIX[:-1]), share, side="right"))


def render(patient: Patient, side: int, seed: int) -> NDArray[np.uint8]:
    """The patient's images, ``(4, side, side)`` uint8, upright, in the order of VIEWS."""
    rng = np.random.default_rng([seed, patient.number, 1])
    height, depth = rng.uniform(0.78, 0.94), rng.uniform(1.15, 1.6)
    fat, dense = rng.uniform(0.27, 0.33), rng.uniform(0.70, 0.80)
    fields = power_law_noise(rng, len(VIEWS), side)
    views = []
    for (laterality, view), field in zip(VIEWS, fields, strict=True):
        shape = _BreastShape.draw(rng, side, height, depth, oblique=view == "MLO")
        logit = -1.1 + 1.1 * patient.latent + 0.15 * rng.standard_normal()
        share = 1.0 / (1.0 + math.exp(-logit))
        tissue = _tissue(field, shape, share, fat, dense)
        image = _acquire(tissue, STYLES[patient.site], rng)
        views.append(image if laterality == "LEFT" else image[:, ::-1])
    return np.round(255.0 * np.stack(views)).astype(np.uint8)


def power_law_noise(rng: np.random.Generator, n: int, side: int) -> NDArray[np.float64]:
    """``(n, side, side)`` Gaussian fields of unit variance with power spectrum 1/f^3."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = np.inf  # no constant part
    spectrum = np.fft.rfft2(rng.standard_normal((n, side, side))) * frequency**-1.5
    fields = np.fft.irfft2(spectrum, s=(side, side))
    return np.asarray(fields / fields.std(axis=(1, 2), keepdims=True), dtype=np.float64)


@dataclass(frozen=True)
class _BreastShape:
    """Geometry of one left view: chest wall at column 0, nipple to the right.

    ``radius2`` is the squared elliptic radius (1 at the skin), ``centre2`` the squared distance
    from where glandular tissue gathers, ``muscle`` the pectoral wedge (empty for CC).
    """

    radius2: NDArray[np.float64]
    centre2: NDArray[np.float64]
    muscle: NDArray[np.bool_]

    @staticmethod
    def draw(
        rng: np.random.Generator, side: int, height: float, depth: float, oblique: bool
    ) -> _BreastShape:
        y, x = np.mgrid[-1.0 : 1.0 : side * 1j, 0.0 : 1.7 : side * 1j]
        shift = rng.uniform(0.02, 0.12) if oblique else rng.uniform(-0.05, 0.05)
        y_unit, x_unit = (y - shift) / height, x / depth
        muscle = np.zeros((side, side), dtype=np.bool_)
        if oblique:
            muscle = x / rng.uniform(0.45, 0.75) + (y + 1.0) / rng.uniform(0.9, 1.4) < 1.0
        return _BreastShape(x_unit**2 + y_unit**2, (x_unit - 0.45) ** 2 + y_unit**2, muscle)


def _tissue(
    field: NDArray[np.float64], shape: _BreastShape, share: float, fat: float, dense: float
) -> NDArray[np.float64]:
    """Attenuation: ``share`` of the breast is dense, chosen by the field and central position."""
    inside = shape.radius2 < 1.0
    score = field - 1.5 * shape.centre2
    threshold = np.quantile(score[inside], 1.0 - share)
    glandular = 1.0 / (1.0 + np.exp(np.clip((threshold - score) / 0.25, -40.0, 40.0)))
    thickness = np.where(inside, 1.0 - np.minimum(shape.radius2, 1.0), 0.0) ** 0.3
    tissue = thickness * (fat + (dense - fat) * glandular)
    return np.where(shape.muscle & (shape.radius2 < 1.1), np.maximum(tissue, 0.8), tissue)


def _acquire(
    tissue: NDArray[np.float64], style: Style, rng: np.random.Generator
) -> NDArray[np.float64]:
    """What a site's machine makes of it, in [0, 1]; the background stays black."""
    image = ndimage.gaussian_filter(tissue, style.blur * len(tissue)) if style.blur else tissue
    image = style.gain * image**style.gamma
    noisy = image + style.noise_sd * rng.standard_normal(image.shape) * (tissue > 0)
    return np.clip(noisy, 0.0, 1.0)


def _rsna_row(patient: Patient, image_id: int, laterality: str, view: str) -> dict[str, Any]:
    """One line of train.csv; what the stand-in does not model is empty or 0."""
    read = patient.label != _UNREAD
    return dict.fromkeys(RSNA_COLUMNS, 0) | {
        "site_id": 1 if read else 2,
        "patient_id": patient.number,
        "image_id": image_id,
        "laterality": laterality,
        "view": view,
        "age": "",
        "BIRADS": "",
        "density": "ABCD"[patient.label] if read else "",
        "machine_id": STYLES[patient.site].machine_id,
        "difficult_negative_case": "False",
    }
