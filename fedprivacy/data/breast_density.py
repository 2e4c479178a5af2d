"""Breast density A-D from mammograms: the ACR-NVIDIA-NCI challenge's files, or RSNA 2022's.

Real files: the challenge's example data (derived from CBIS-DDSM, CC BY 3.0) download without a
login; the RSNA images need one. Reference points on the challenge's own, larger data: linear
weighted kappa 0.653 for the winner (Schmidt et al., Medical Image Analysis 2024, arXiv 2405.14900).
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedprivacy.config.schema import BreastDensityConf, DatasetConf
from fedprivacy.data.base import FederatedData, SiteData
from fedprivacy.data.breast_generator import SEED, SIZES, VERSION, generate, generate_rsna
from fedprivacy.data.breast_images import (
    PIXEL_CENTRE,
    PIXEL_SCALE,
    TRANSFORM_VERSION,
    content_digest,
    load_images,
)
from fedprivacy.data.breast_layouts import (
    LAYOUTS,
    N_CLASSES,
    ImageTable,
    index_files,
    read_table,
)
from fedprivacy.data.breast_sites import assign_sites
from fedprivacy.data.breast_verify import NAME, size_folder, verify
from fedprivacy.data.files import generated_once, refuse_synthetic
from fedprivacy.data.partitions import PARTITION_KINDS
from fedprivacy.data.splits import cap_records, split_patients
from fedprivacy.errors import ConfigError, DataError

SMALLEST_IMAGE = 8
_PATTERNS = {"datalist": "*.npy", "rsna": "*.png"}
__all__ = ["DATASET", "BreastDensity", "verify"]


class BreastDensity:
    """The dataset ``breast_density``; see ``fedprivacy.data.base.Dataset``."""

    name = NAME

    def prepare(self, conf: DatasetConf) -> None:
        """Generate the stand-in if it is missing, or check that the real files are there.

        Raises:
            ConfigError: a value that cannot be used.
            DataError: real files are missing or incomplete.
        """
        breast = _checked(conf)
        folder = _folder(breast)
        if breast.source == "synthetic":
            side = SIZES[breast.size].side
            stamp = {
                "dataset": NAME,
                "synthetic": True,
                "version": VERSION,
                "size": breast.size,
                "seed": SEED,
                "layout": breast.layout,
                "image": f"{side} x {side} (the challenge: 224 x 224), to save disk",
            }
            make = generate if breast.layout == "datalist" else generate_rsna
            generated_once(folder, stamp, partial(make, size=breast.size, seed=SEED))
            return
        try:
            index_files(folder, breast.layout)
        except DataError as error:
            raise DataError(f"no real breast density files: {error}. {_HELP}") from None
        missing = [path for path in _table(breast).paths if not path.is_file()]
        if missing:
            raise DataError(
                f"{len(missing)} images that the index names are missing, the first "
                f"{missing[0]}. {_HELP}"
            )

    def fingerprint(self, conf: DatasetConf) -> str:
        """Hex digest of the files and of everything that decides what ``load`` makes of them."""
        breast = _checked(conf)
        meaning = {
            "files": _files_digest(breast),
            "transform": [TRANSFORM_VERSION, breast.image_size],
            "partition": [breast.partition, breast.n_sites, breast.dirichlet_alpha],
            "split": [breast.split_seed, breast.test_fraction],
            "max_records_per_patient": breast.max_records_per_patient,
        }
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()

    def load(self, conf: DatasetConf) -> FederatedData:
        """Images and grades by site.

        Returns:
            images ``(n, 1, image_size, image_size)`` float32 and grades ``(n,)`` int64, 0 to 3
            for A to D.

        Raises:
            ConfigError: a value that cannot be used.
            DataError: missing, damaged or inconsistent files, or a patient in two places.
        """
        breast = _checked(conf)
        table = _table(breast)
        names, site_of = assign_sites(table, breast)
        images = load_images(table.paths, breast.image_size, _cache(breast), _files_digest(breast))
        kept = np.zeros(len(table.paths), dtype=np.bool_)
        kept[cap_records(table.patients, breast.max_records_per_patient)] = True
        sites = [
            _site(name, table, images, np.flatnonzero(kept & (site_of == number)), breast)
            for number, name in enumerate(names)
        ]
        return FederatedData(
            name=NAME,
            task="multiclass",
            n_classes=N_CLASSES,
            input_shape=(1, breast.image_size, breast.image_size),
            metric=breast.metric,
            sites=tuple(sites),
            synthetic=breast.source == "synthetic",
            fingerprint=self.fingerprint(conf),
            assumptions=_assumptions(breast, table),
        )


DATASET = BreastDensity()

_HELP = (
    "Run `fedprivacy data download breast_density` for the challenge's example data "
    "(dataset.layout=datalist), or put RSNA's train.csv and png images there "
    "(dataset.layout=rsna; Kaggle asks for a login); dataset.source=synthetic runs on a stand-in "
    "instead"
)


def _checked(conf: DatasetConf) -> BreastDensityConf:
    """The configuration, once its values can be used."""
    if not isinstance(conf, BreastDensityConf):
        raise TypeError(f"breast_density needs a BreastDensityConf, got {type(conf).__name__}")
    rules: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("source", ("synthetic", "real")),
        ("size", tuple(SIZES)),
        ("layout", LAYOUTS),
        ("partition", ("natural", *PARTITION_KINDS)),
    )
    for key, allowed in rules:
        if (value := getattr(conf, key)) not in allowed:
            words = f"one of {', '.join(allowed)}"
            raise ConfigError(f"dataset.{key}", value, words, f"dataset.{key}={allowed[0]}")
    if conf.source == "real" and conf.size != "full":
        words = "full where dataset.source=real: the owner's files come in one size"
        raise ConfigError("dataset.size", conf.size, words, "dataset.size=full")
    if conf.image_size < SMALLEST_IMAGE:
        allowed_size = f"at least {SMALLEST_IMAGE} pixels"
        fix = "dataset.image_size=64"
        raise ConfigError("dataset.image_size", conf.image_size, allowed_size, fix)
    return conf


def _folder(conf: BreastDensityConf) -> Path:
    """Where the files of this source (and size, and layout) belong."""
    if conf.source == "real":
        return Path(conf.root) / "real" / NAME
    return Path(conf.root) / "synthetic" / NAME / size_folder(conf.size, conf.layout)


def _table(conf: BreastDensityConf) -> ImageTable:
    """The index of the files, which must not be generated ones where real ones are asked for."""
    folder = _folder(conf)
    if conf.source == "real":
        refuse_synthetic(folder)
    return read_table(folder, conf.layout)


def _cache(conf: BreastDensityConf) -> Path:
    return Path(conf.root) / "cache" / NAME


def _files_digest(conf: BreastDensityConf) -> str:
    """Digest of the index and of every image, by content."""
    folder = _folder(conf)
    digest = hashlib.sha256()
    for path in index_files(folder, conf.layout):
        digest.update(path.name.encode() + b"\x00" + path.read_bytes())
    digest.update(content_digest(folder, _PATTERNS[conf.layout], _cache(conf)).encode())
    return digest.hexdigest()


def _site(
    name: str,
    table: ImageTable,
    images: torch.Tensor,
    rows: NDArray[np.int64],
    conf: BreastDensityConf,
) -> SiteData:
    """One site's tensors, copied out of the whole; held out as the owner says, or by hash."""
    if table.held_out is not None:
        held_out = table.held_out[rows]
    else:
        held_out = split_patients(table.patients[rows], conf.test_fraction, conf.split_seed)
    train, test = rows[~held_out], rows[held_out]
    if not (len(train) and len(test)):
        raise DataError(
            f"site {name} has {len(train)} training and {len(test)} held-out images: both sides "
            "need one; change dataset.n_sites, dataset.partition, dataset.split_seed or "
            "dataset.test_fraction"
        )
    labels = torch.from_numpy(table.labels)
    return SiteData(
        name=name,
        train_x=images[train],
        train_y=labels[train],
        test_x=images[test],
        test_y=labels[test],
        train_patients=table.patients[train],
        test_patients=table.patients[test],
    )


def _assumptions(conf: BreastDensityConf, table: ImageTable) -> tuple[str, ...]:
    """What is taken as public about these data."""
    split = "by a seeded hash of the patient" if table.held_out is None else "by the owner's lists"
    machines = conf.layout == "rsna" and conf.partition == "natural"
    return (
        f"pixels in [0, 1] are shifted by {PIXEL_CENTRE} and divided by {PIXEL_SCALE}, constants "
        "that were not measured on the records",
        f"which patients are held out is public: it is decided {split}",
        *(("which machines have the most images is public",) if machines else ()),
    )
