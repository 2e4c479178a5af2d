"""Loaded datasets, kept by the process so that a sweep reads each only once."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import asdict

from fedprivacy.config.schema import DatasetConf
from fedprivacy.data.base import FederatedData
from fedprivacy.data.registry import get_dataset
from fedprivacy.data.shares import keep_share

CAPACITY = 4
_loaded: OrderedDict[str, FederatedData] = OrderedDict()
_sizes: dict[str, tuple[int, ...]] = {}


def dataset_key(conf: DatasetConf) -> str:
    """A text that is equal for equal records: the configuration without training defaults."""
    plain = asdict(conf)
    for key in ("training", "declared_by_size", "declared_records", "feature_bounds"):
        plain.pop(key)
    return json.dumps(plain, sort_keys=True)


def site_sizes(conf: DatasetConf) -> tuple[int, ...]:
    """Training records of each site.

    Reads the dataset once and forgets the records: a process that only plans need not hold them.

    Raises:
        ConfigError: the records cannot be divided as asked.
    """
    key = dataset_key(conf)
    if key not in _sizes:
        held = key in _loaded
        _sizes[key] = tuple(len(site.train_x) for site in load_data(conf).sites)
        if not held:
            _loaded.pop(key, None)
    return _sizes[key]


def load_data(conf: DatasetConf) -> FederatedData:
    """The dataset, from memory if this process has read it before."""
    key = dataset_key(conf)
    if key not in _loaded:
        dataset = get_dataset(conf.name)
        dataset.prepare(conf)
        _loaded[key] = keep_share(dataset.load(conf), conf.train_share, conf.split_seed)
        while len(_loaded) > CAPACITY:
            _loaded.popitem(last=False)
    _loaded.move_to_end(key)
    return _loaded[key]
