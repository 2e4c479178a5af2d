"""Fed-IXI Tiny: T1 brain MRI with brain masks from three London hospitals.

Real files: CC BY-SA 3.0, Mendeley 7kd5wj7v7p or TorchIO's ``ixi_tiny.zip``; cite
brain-development.org and F. Perez-Garcia et al., TorchIO, 2021. Transforms follow FLamby
(J. Ogier du Terrail et al., NeurIPS 2022, Fed-IXI).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fedprivacy.config.schema import DatasetConf, IxiConf
from fedprivacy.data.base import FederatedData, SiteData
from fedprivacy.data.files import digest_tree, generated_once, refuse_synthetic
from fedprivacy.data.ixi_files import NAME, SITES, Subject, complete_subjects, read_split_file
from fedprivacy.data.ixi_generator import GENERATOR_VERSION, SIZES, generate
from fedprivacy.data.ixi_verify import verify
from fedprivacy.data.ixi_volumes import LABEL_RESIZES, Volumes, load_volumes
from fedprivacy.data.partitions import QUANTITY_KINDS, partition_rows
from fedprivacy.data.splits import cap_records, split_patients
from fedprivacy.errors import ConfigError, DataError

# Of the seeds 0 to 59, one that holds out 5, 3, 2 of the demo's 24, 16, 8 subjects at split_seed 0:
# the split is by hash, and a site of eight can otherwise lose most of its subjects to it.
GENERATOR_SEED = 46
SMALLEST_SIDE = 4
PATTERN = "*.nii.gz"
__all__ = ["DATASET", "IxiTiny", "verify"]


class IxiTiny:
    """The dataset ``ixi_tiny``; see ``fedprivacy.data.base.Dataset``."""

    name = NAME

    def prepare(self, conf: DatasetConf) -> None:
        """Generate the phantoms if they are missing, or check that the real files are there.

        Raises:
            ConfigError: a value that cannot be used.
            DataError: real files are missing or incomplete.
        """
        ixi = _checked(conf)
        folder = _folder(ixi)
        if ixi.source == "synthetic":
            stamp = {
                "dataset": NAME,
                "synthetic": True,
                "version": GENERATOR_VERSION,
                "size": ixi.size,
                "seed": GENERATOR_SEED,
            }
            generated_once(folder, stamp, partial(generate, size=ixi.size, seed=GENERATOR_SEED))
        elif not folder.is_dir():
            raise DataError(
                f"no real IXI Tiny files: looked in {folder.resolve()}. Run `fedprivacy data "
                "download ixi_tiny` (444 MB, CC BY-SA 3.0), or extract 7kd5wj7v7p-3.zip or "
                "ixi_tiny.zip there; dataset.source=synthetic runs on phantoms instead"
            )
        else:
            _subjects(ixi)

    def fingerprint(self, conf: DatasetConf) -> str:
        """Hex digest of the files and of everything that decides what ``load`` makes of them."""
        ixi = _checked(conf)
        return _fingerprint(ixi, digest_tree(_folder(ixi), PATTERN))

    def load(self, conf: DatasetConf) -> FederatedData:
        """Volumes and masks by site.

        Returns:
            images ``(n, 1, *shape)`` float32 and masks ``(n, *shape)`` int64, axes as on disk.

        Raises:
            ConfigError: a value that cannot be used.
            DataError: missing, damaged or inconsistent files.
        """
        ixi = _checked(conf)
        subjects = _subjects(ixi)
        files = digest_tree(_folder(ixi), PATTERN)
        patients = np.array([subject.patient for subject in subjects])
        kept = cap_records(patients, ixi.max_records_per_patient)
        subjects, patients = [subjects[row] for row in kept], patients[kept]
        volumes = load_volumes(
            subjects,
            cast(tuple[int, int, int], tuple(ixi.shape)),
            ixi.label_resize,
            Path(ixi.root) / "cache" / NAME,
            files,
        )
        listed = read_split_file(Path(ixi.split_file), subjects) if ixi.split_file else None
        sites = []
        for name, rows in _rows_of_sites(ixi, subjects):
            held_out = (
                split_patients(patients[rows], ixi.test_fraction, ixi.split_seed)
                if listed is None
                else listed[rows]
            )
            sites.append(_site(name, volumes, patients, rows[~held_out], rows[held_out]))
        return FederatedData(
            name=NAME,
            task="segmentation",
            n_classes=2,
            input_shape=(1, *ixi.shape),
            metric=ixi.metric,
            sites=tuple(sites),
            synthetic=ixi.source == "synthetic",
            fingerprint=_fingerprint(ixi, files),
            assumptions=_assumptions(ixi),
        )


DATASET = IxiTiny()


def _checked(conf: DatasetConf) -> IxiConf:
    """The configuration, once its values can be used."""
    if not isinstance(conf, IxiConf):
        raise TypeError(f"ixi_tiny needs an IxiConf, got {type(conf).__name__}")
    shape_ok = len(conf.shape) == 3 and min(conf.shape) >= SMALLEST_SIDE
    partitions = ("natural", *QUANTITY_KINDS)
    rules = (
        ("source", conf.source, conf.source in ("synthetic", "real"), "synthetic or real"),
        ("size", conf.size, conf.size in SIZES, f"one of {', '.join(SIZES)}"),
        (
            "size",
            conf.size,
            conf.source != "real" or conf.size == "full",
            "full where dataset.source=real: the owner's files come in one size",
        ),
        ("shape", list(conf.shape), shape_ok, f"three sides of at least {SMALLEST_SIDE} voxels"),
        (
            "label_resize",
            conf.label_resize,
            conf.label_resize in LABEL_RESIZES,
            f"one of {', '.join(LABEL_RESIZES)}",
        ),
        (
            "partition",
            conf.partition,
            conf.partition in partitions,
            f"one of {', '.join(partitions)} (brain masks have no class to divide by, so there "
            "is no dirichlet)",
        ),
    )
    defaults = IxiConf()
    for key, value, fine, allowed in rules:
        if not fine:
            fix = f"dataset.{key}={getattr(defaults, key)}".replace(" ", "")
            raise ConfigError(f"dataset.{key}", value, allowed, fix)
    return conf


def _folder(conf: IxiConf) -> Path:
    """Where the files of this source (and size) belong."""
    if conf.source == "real":
        return Path(conf.root) / "real" / NAME
    return Path(conf.root) / "synthetic" / NAME / conf.size


def _subjects(conf: IxiConf) -> list[Subject]:
    folder = _folder(conf)
    if conf.source == "real":
        refuse_synthetic(folder)
    return complete_subjects(folder)


def _rows_of_sites(
    conf: IxiConf, subjects: Sequence[Subject]
) -> list[tuple[str, NDArray[np.int64]]]:
    """Name and rows of each site."""
    if conf.partition != "natural":
        parts = partition_rows(
            len(subjects), None, conf.partition, conf.n_sites, conf.dirichlet_alpha, conf.split_seed
        )
        return [(f"site-{number}", rows) for number, rows in enumerate(parts, start=1)]
    sites = np.array([subject.site for subject in subjects])
    absent = [site for site in SITES if not (sites == site).any()]
    if absent:
        raise DataError(
            f"{_folder(conf)} holds no subject of {', '.join(absent)}: the natural partition "
            "needs all three hospitals; dataset.partition=uniform divides what is there"
        )
    return [(site, np.flatnonzero(sites == site).astype(np.int64)) for site in SITES]


def _site(
    name: str,
    volumes: Volumes,
    patients: NDArray[np.str_],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
) -> SiteData:
    """One site's tensors, copied out of the whole."""
    if not (len(train) and len(test)):
        raise DataError(
            f"site {name} has {len(train)} training and {len(test)} held-out subjects: both "
            "sides need one; change dataset.test_fraction, dataset.n_sites or dataset.split_seed"
        )
    return SiteData(
        name=name,
        train_x=volumes.images[train],
        train_y=volumes.masks[train],
        test_x=volumes.images[test],
        test_y=volumes.masks[test],
        train_patients=patients[train],
        test_patients=patients[test],
    )


def _fingerprint(conf: IxiConf, files: str) -> str:
    """Digest of the files' digest and of what decides what ``load`` makes of them."""
    meaning = {
        "files": files,
        "shape": list(conf.shape),
        "label_resize": conf.label_resize,
        "partition": [conf.partition, conf.n_sites],
        "split": [conf.split_seed, conf.test_fraction, _split_digest(conf)],
        "max_records_per_patient": conf.max_records_per_patient,
    }
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def _split_digest(conf: IxiConf) -> str | None:
    """Digest of the split file's content, so that its path does not matter."""
    if conf.split_file is None:
        return None
    try:
        return hashlib.sha256(Path(conf.split_file).read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"dataset.split_file={conf.split_file} cannot be read: {error}") from error


def _assumptions(conf: IxiConf) -> tuple[str, ...]:
    """What is taken as public about these data."""
    split = "by FLamby's split file" if conf.split_file else "by a seeded hash of the patient"
    return (
        "each volume is normalised by its own mean and standard deviation, so no statistic "
        "passes from one subject to another",
        f"which subjects are held out is public: it is decided {split}",
        f"masks are resized by label_resize={conf.label_resize}",
    )
