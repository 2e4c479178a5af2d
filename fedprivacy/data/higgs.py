"""HIGGS (UCI 280): signal against background in simulated proton collisions, 28 features.

Source: P. Baldi, P. Sadowski, D. Whiteson, "Searching for exotic particles in high-energy physics
with deep learning", Nature Communications 5 (2014) 4308; UCI repository, doi:10.24432/C5V312,
CC BY 4.0. Not medical: it is the article's large table without patients.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedprivacy.config.schema import DatasetConf, HiggsConf
from fedprivacy.data.base import FederatedData, SiteData
from fedprivacy.data.files import generated_once, refuse_synthetic
from fedprivacy.data.higgs_generator import GENERATOR_VERSION, SIZES, generate
from fedprivacy.data.higgs_split import TEST_CONVENTIONS, held_out_range, rows_of_sites
from fedprivacy.data.higgs_table import CSV_NAME, N_COLUMNS, Rows, Table, converted
from fedprivacy.data.higgs_verify import verify
from fedprivacy.data.partitions import PARTITION_KINDS
from fedprivacy.errors import ConfigError, DataError

NAME = "higgs"
GENERATOR_SEED = 0
GATHER_ROWS = 65_536

# With dataset.standardize, a feature x becomes (x - CENTRES) / SPREADS. The owners divided positive
# features by their mean and did not centre them, and small networks then learn the masses slowly.
# Round figures near the real columns' standard deviations, fixed here: no record is read.
# fmt: off
SPREADS = np.array((
    0.6, 1, 1, 0.6, 1,
    0.5, 1, 1, 1.0, 0.5, 1, 1, 1.0, 0.5, 1, 1, 1.2, 0.5, 1, 1, 1.4,
    0.7, 0.4, 0.2, 0.4, 0.5, 0.4, 0.3,
), dtype=np.float32)
CENTRES = np.array((
    1, 0, 0, 1, 0,
    1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1,
    1, 1, 1, 1, 1, 1, 1,
), dtype=np.float32)
# fmt: on

__all__ = ["DATASET", "Higgs", "verify"]


class Higgs:
    """The dataset ``higgs``; see ``fedprivacy.data.base.Dataset``.

    The table comes without sites: ``dataset.partition`` makes them. Real and synthetic records
    are read from the same format by the same code. With ``source=real``, ``size=demo`` is the
    file's first 12,000 rows.
    """

    name = NAME

    def prepare(self, conf: DatasetConf) -> None:
        """Generate the csv or check that it is there, and make its float32 copy.

        The first time for the real file this reads 2.8 GB and takes minutes.

        Raises:
            ConfigError: a value that cannot be used.
            DataError: the real file is missing or damaged.
        """
        higgs = _checked(conf)
        held_out_range(_table(higgs), higgs)

    def fingerprint(self, conf: DatasetConf) -> str:
        """Hex digest of the rows as float32, whatever compression they came from, and scaling."""
        higgs = _checked(conf)
        return _fingerprint(_table(higgs), higgs)

    def load(self, conf: DatasetConf) -> FederatedData:
        """Features ``(n, 28)`` float32 and labels ``(n,)`` int64 by site.

        Only the sites' own tensors are held in memory (some 150 bytes a row, 1.7 GB for the whole
        real file); the table stays on disk.

        Raises:
            ConfigError: a value that cannot be used, or too few rows for the test convention.
            DataError: the real file is missing or damaged.
        """
        higgs = _checked(conf)
        table = _table(higgs)
        rows = table.rows()
        labels = np.asarray(rows[:, 0]).astype(np.int64)
        sites = tuple(
            _site(f"site-{number}", rows, labels, *parts, higgs.standardize)
            for number, parts in enumerate(rows_of_sites(table, labels, higgs), start=1)
        )
        return FederatedData(
            name=NAME,
            task="binary",
            n_classes=2,
            input_shape=(N_COLUMNS - 1,),
            metric=higgs.metric,
            sites=sites,
            synthetic=higgs.source == "synthetic",
            fingerprint=_fingerprint(table, higgs),
            assumptions=_assumptions(higgs),
        )


DATASET = Higgs()


def event_names(rows: NDArray[np.int64]) -> NDArray[np.str_]:
    """Eight digits for each row number; every event is a patient of its own.

    Built digit by digit: formatting ten million Python strings takes most of a minute.
    """
    digits = np.empty((len(rows), 8), dtype=np.uint32)
    for place in range(8):
        digits[:, place] = rows // 10 ** (7 - place) % 10 + ord("0")
    names: NDArray[np.str_] = digits.view("U8")[:, 0]
    return names


def _checked(conf: DatasetConf) -> HiggsConf:
    """The configuration, once its values can be used."""
    if not isinstance(conf, HiggsConf):
        raise TypeError(f"higgs needs a HiggsConf, got {type(conf).__name__}")
    choices = {
        "source": ("synthetic", "real"),
        "size": tuple(SIZES),
        "partition": PARTITION_KINDS,
        "test_convention": TEST_CONVENTIONS,
    }
    for key, allowed in choices.items():
        value = getattr(conf, key)
        if value not in allowed:
            words, fix = f"one of {', '.join(allowed)}", f"dataset.{key}={allowed[0]}"
            raise ConfigError(f"dataset.{key}", value, words, fix)
    if conf.max_rows is not None and conf.max_rows < 1:
        allowed_rows = "a whole number of at least 1, or null for all rows"
        raise ConfigError("dataset.max_rows", conf.max_rows, allowed_rows, "dataset.max_rows=null")
    return conf


def _table(conf: HiggsConf) -> Table:
    """The float32 copy of the rows that ``conf`` asks for; makes what is missing."""
    max_rows = conf.max_rows
    if conf.source == "synthetic":
        folder = Path(conf.root) / "synthetic" / NAME / conf.size
        stamp = {
            "dataset": NAME,
            "synthetic": True,
            "version": GENERATOR_VERSION,
            "size": conf.size,
            "seed": GENERATOR_SEED,
        }
        generated_once(folder, stamp, partial(generate, size=conf.size, seed=GENERATOR_SEED))
        return converted(folder / CSV_NAME, max_rows)
    csv = Path(conf.root) / "real" / NAME / CSV_NAME
    if not csv.is_file():
        raise DataError(
            f"no real HIGGS records: looked for {csv.resolve()}. Run `fedprivacy data download "
            "higgs` (2.8 GB, CC BY 4.0), or put the file there; dataset.source=synthetic runs on "
            "toy events instead"
        )
    refuse_synthetic(csv.parent, deep=False)  # the float32 copies below have stamps of their own
    if conf.size == "demo":
        max_rows = min(SIZES["demo"], max_rows or SIZES["demo"])
    return converted(csv, max_rows)


def _site(
    name: str,
    rows: Rows,
    labels: NDArray[np.int64],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    standardize: bool,
) -> SiteData:
    """One site's tensors, copied out of the memory map."""
    return SiteData(
        name=name,
        train_x=_features(rows, train, standardize),
        train_y=torch.from_numpy(labels[train]),
        test_x=_features(rows, test, standardize),
        test_y=torch.from_numpy(labels[test]),
        train_patients=event_names(train),
        test_patients=event_names(test),
    )


def _features(rows: Rows, chosen: NDArray[np.int64], standardize: bool) -> torch.Tensor:
    """Features ``(len(chosen), 28)``, gathered in pieces so that no second copy exists."""
    out = np.empty((len(chosen), N_COLUMNS - 1), dtype=np.float32)
    for start in range(0, len(chosen), GATHER_ROWS):
        piece = slice(start, start + GATHER_ROWS)
        features = rows[chosen[piece]][:, 1:]
        out[piece] = (features - CENTRES) / SPREADS if standardize else features
    return torch.from_numpy(out)


def _fingerprint(table: Table, conf: HiggsConf) -> str:
    digest = hashlib.sha256(table.sha256.encode())
    if conf.standardize:
        digest.update(CENTRES.tobytes() + SPREADS.tobytes())
    return digest.hexdigest()


def _assumptions(conf: HiggsConf) -> tuple[str, ...]:
    scaling = (
        "features are used as their owners normalised them, by means and standard deviations of "
        "their simulated sample; these constants are taken as public"
        if conf.source == "real"
        else "features are scaled by constants fixed in the generator, which read no record"
    )
    if conf.standardize:
        scaling += "; they are then centred and scaled by fixed constants"
    return (
        scaling,
        "one record is one patient: events are independent",
        "which record belongs to which site, and which is held out, is fixed by "
        "dataset.test_convention, dataset.partition and dataset.split_seed and taken as public",
    )
