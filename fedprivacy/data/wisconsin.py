"""Breast cancer Wisconsin (diagnostic): 569 real records that ship with scikit-learn.

Source: W. N. Street, W. H. Wolberg, O. L. Mangasarian, "Nuclear feature extraction for breast
tumor diagnosis", IS&T/SPIE 1905 (1993) 861-870; UCI repository, doi:10.24432/C5DW2B, CC BY 4.0.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer

from fedprivacy.config.schema import DatasetConf
from fedprivacy.data.base import FederatedData, SiteData
from fedprivacy.data.partitions import PARTITION_KINDS, partition_rows
from fedprivacy.data.splits import cap_records, split_patients
from fedprivacy.errors import ConfigError

N_RECORDS, N_FEATURES = 569, 30
N_MALIGNANT, N_BENIGN = 212, 357
# Below this a site's held-out score would rest on one or two records.
MIN_SITE_ROWS = 10

# Smallest and largest value of each feature, as printed in the "Summary Statistics" table of the
# dataset's description (scikit-learn user guide, "Breast cancer Wisconsin (diagnostic) dataset"),
# in the order of its columns: ten means, ten standard errors, ten "worst" values of radius,
# texture, perimeter, area, smoothness, compactness, concavity, concave points, symmetry and
# fractal dimension. Typed in, not computed: scaling then reads no record.
# fmt: off
PUBLISHED_MIN = (
    6.981, 9.71, 43.79, 143.5, 0.053, 0.019, 0.0, 0.0, 0.106, 0.05,
    0.112, 0.36, 0.757, 6.802, 0.002, 0.002, 0.0, 0.0, 0.008, 0.001,
    7.93, 12.02, 50.41, 185.2, 0.071, 0.027, 0.0, 0.0, 0.156, 0.055,
)
PUBLISHED_MAX = (
    28.11, 39.28, 188.5, 2501.0, 0.163, 0.345, 0.427, 0.201, 0.304, 0.097,
    2.873, 4.885, 21.98, 542.2, 0.031, 0.135, 0.396, 0.053, 0.079, 0.03,
    36.04, 49.54, 251.2, 4254.0, 0.223, 1.058, 1.252, 0.291, 0.664, 0.208,
)
# fmt: on

ASSUMPTIONS = (
    "features are scaled by the minimum and maximum that the dataset's own description prints; "
    "that table is taken as public",
    "one record is one patient: scikit-learn's copy carries no patient identifier",
    "which record belongs to which site, and which is held out, is fixed by the seed and public",
)


class Wisconsin:
    """The dataset ``wisconsin``: 30 features of cell nuclei, 0 malignant and 1 benign.

    Records are real, so ``source`` is always ``real``; ``size`` demo and full are the same
    records. They come without sites: ``dataset.partition`` makes them.
    """

    name = "wisconsin"

    def prepare(self, conf: DatasetConf) -> None:
        """Check the configuration; there are no files to make or to find.

        Raises:
            ConfigError: a synthetic source, or sites that these data do not have.
        """
        if conf.source != "real":
            raise ConfigError(
                "dataset.source",
                conf.source,
                "wisconsin is real patient data that ships with scikit-learn, so only real",
                "dataset.source=real",
            )
        if conf.partition not in PARTITION_KINDS:
            raise ConfigError(
                "dataset.partition",
                conf.partition,
                f"wisconsin has no sites of its own; one of {', '.join(PARTITION_KINDS)}",
                "dataset.partition=uniform",
            )

    def fingerprint(self, conf: DatasetConf) -> str:
        """Hex digest of the scaled records and their labels."""
        features, labels = read_records()
        return hashlib.sha256(features.tobytes() + labels.tobytes()).hexdigest()

    def load(self, conf: DatasetConf) -> FederatedData:
        """Divide the records over ``conf.n_sites`` sites and hold out patients at each.

        Raises:
            ConfigError: as ``prepare``, or a partition that leaves a site below 10 records.
        """
        self.prepare(conf)
        features, labels = read_records()
        parts = partition_rows(
            len(labels),
            labels,
            conf.partition,
            conf.n_sites,
            conf.dirichlet_alpha,
            conf.split_seed,
            min_rows=MIN_SITE_ROWS,
        )
        sites = tuple(
            _site(f"site-{number}", features[rows], labels[rows], _patients(rows), conf)
            for number, rows in enumerate(parts, start=1)
        )
        return FederatedData(
            name=self.name,
            task="binary",
            n_classes=2,
            input_shape=(N_FEATURES,),
            metric=conf.metric,
            sites=sites,
            synthetic=False,
            fingerprint=self.fingerprint(conf),
            assumptions=ASSUMPTIONS,
        )


def read_records() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All records: ``(569, 30)`` float32 features in about [-1, 1], ``(569,)`` int64 labels."""
    raw, labels = load_breast_cancer(return_X_y=True)
    low, high = np.array(PUBLISHED_MIN), np.array(PUBLISHED_MAX)
    scaled = 2.0 * (raw - low) / (high - low) - 1.0
    return np.ascontiguousarray(scaled, dtype=np.float32), labels.astype(np.int64)


def verify(root: Path, source: str) -> list[str]:
    """Problems of the installed copy (``root`` is not used); empty when it is sound."""
    if source != "real":
        return [f"source {source!r}: wisconsin has real records only"]
    raw, labels = load_breast_cancer(return_X_y=True)
    if raw.shape != (N_RECORDS, N_FEATURES):
        return [f"expected {N_RECORDS} records of {N_FEATURES} features, found {raw.shape}"]
    problems = []
    counts = (int((labels == 0).sum()), int((labels == 1).sum()))
    if counts != (N_MALIGNANT, N_BENIGN):
        problems.append(
            f"expected {N_MALIGNANT} malignant and {N_BENIGN} benign records, found {counts}"
        )
    for what, found, published in (
        ("minimum", raw.min(axis=0), np.array(PUBLISHED_MIN)),
        ("maximum", raw.max(axis=0), np.array(PUBLISHED_MAX)),
    ):
        # The published table is rounded to three decimals.
        for column in np.flatnonzero(np.abs(found - published) > 5.1e-4):
            problems.append(
                f"feature {column}: {what} {found[column]}, published {published[column]}"
            )
    return problems


def _patients(rows: NDArray[np.int64]) -> NDArray[np.str_]:
    """A name for each record's patient: its row."""
    return np.array([f"row-{row:03d}" for row in rows], dtype=np.str_)


def _site(
    name: str,
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    patients: NDArray[np.str_],
    conf: DatasetConf,
) -> SiteData:
    """One site's records, divided into training and held-out patients."""
    kept = cap_records(patients, conf.max_records_per_patient)
    features, labels, patients = features[kept], labels[kept], patients[kept]
    held_out = split_patients(patients, conf.test_fraction, conf.split_seed)
    return SiteData(
        name=name,
        train_x=torch.from_numpy(features[~held_out]),
        train_y=torch.from_numpy(labels[~held_out]),
        test_x=torch.from_numpy(features[held_out]),
        test_y=torch.from_numpy(labels[held_out]),
        train_patients=patients[~held_out],
        test_patients=patients[held_out],
    )


DATASET = Wisconsin()
