"""Which rows of HIGGS are held out by which convention, and how both sides divide over sites."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedprivacy.config.schema import HiggsConf
from fedprivacy.data.higgs_table import Table
from fedprivacy.data.partitions import partition_rows
from fedprivacy.errors import ConfigError

TEST_CONVENTIONS = ("fraction", "baldi", "nvflare")
BALDI_TEST = BALDI_VALIDATION = 500_000
NVFLARE_TEST = 1_000_000
# Below this a site's training or held-out records carry no score worth printing.
MIN_SITE_ROWS = 10

Indices = NDArray[np.int64]


def held_out_range(table: Table, conf: HiggsConf) -> tuple[range, range]:
    """Training rows and held-out rows by ``dataset.test_convention``.

    ``baldi``: the last 500,000 rows are held out; the 500,000 before them, the authors'
    validation set, are left out of training, so that of the real 11 million rows the first 10
    million train. ``nvflare``: the first 1,000,000 are held out, the rest trains. ``fraction``:
    the last ``dataset.test_fraction`` of the rows are held out, for subsets. Rows of the table are
    in random order.

    Raises:
        ConfigError: fewer rows than the convention needs, or rows cut off where it tests.
    """
    n = table.n_rows
    if conf.test_convention == "fraction":
        held_out = int(n * conf.test_fraction) if 0.0 < conf.test_fraction < 1.0 else 0
        if not 0 < held_out < n:
            raise ConfigError(
                "dataset.test_fraction",
                conf.test_fraction,
                f"a number between 0 and 1 that leaves both sides some of the {n} rows",
                "dataset.test_fraction=0.2",
            )
        return range(n - held_out), range(n - held_out, n)
    baldi = conf.test_convention == "baldi"
    needed = BALDI_TEST + BALDI_VALIDATION if baldi else NVFLARE_TEST
    if n <= needed:
        raise _unusable(conf, f"it sets {needed:,} rows aside, and there are {n:,}")
    if baldi and not table.complete:
        raise _unusable(conf, f"its test set is the end of the file, and only {n:,} rows are read")
    if baldi:
        return range(n - needed), range(n - BALDI_TEST, n)
    return range(needed, n), range(needed)


def rows_of_sites(
    table: Table, labels: NDArray[np.int64], conf: HiggsConf
) -> list[tuple[Indices, Indices]]:
    """Training and held-out rows of each site.

    Quantity kinds divide the two sides one by one, so that a site's share of each is exact. The
    Dirichlet kind divides them together, so that a site is tested on its own mixture of labels.

    Raises:
        ConfigError: as ``held_out_range``, or a site is left with too few rows.
    """
    train, test = held_out_range(table, conf)
    if conf.partition != "dirichlet":
        sides = [_divide(np.arange(side.start, side.stop), None, conf) for side in (train, test)]
        return list(zip(*sides, strict=True))
    rows = np.concatenate([np.arange(side.start, side.stop) for side in (train, test)])
    sites = []
    for part in _divide(rows, labels[rows], conf):
        held_out = (part >= test.start) & (part < test.stop)
        sites.append((part[~held_out], part[held_out]))
    smallest = min(len(side) for site in sites for side in site)
    if smallest < MIN_SITE_ROWS:
        raise ConfigError(
            "dataset.dirichlet_alpha",
            conf.dirichlet_alpha,
            f"one of {conf.n_sites} sites has {smallest} training or held-out rows, and it "
            f"needs {MIN_SITE_ROWS}",
            "a larger dataset.dirichlet_alpha, fewer dataset.n_sites, or another "
            "dataset.split_seed",
        )
    return sites


def _divide(rows: Indices, labels: NDArray[np.int64] | None, conf: HiggsConf) -> list[Indices]:
    parts = partition_rows(
        len(rows),
        labels,
        conf.partition,
        conf.n_sites,
        conf.dirichlet_alpha,
        conf.split_seed,
        min_rows=MIN_SITE_ROWS,
    )
    return [np.sort(rows[part]) for part in parts]


def _unusable(conf: HiggsConf, why: str) -> ConfigError:
    given = f"{conf.test_convention} with dataset.source={conf.source}, size={conf.size}"
    allowed = f"{given} and max_rows={conf.max_rows} cannot be: {why}"
    fix = "dataset.test_convention=fraction"
    return ConfigError("dataset.test_convention", conf.test_convention, allowed, fix)
