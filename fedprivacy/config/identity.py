"""Which cell a configuration is: a hash of what bears meaning, not of paths, device or engine."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

from fedprivacy.config.schema import CellConfig, DatasetConf
from fedprivacy.config.serialization import dataset_from_plain, to_plain
from fedprivacy.result import SCHEMA

_MEANINGLESS = ("device", "engine", "tracking", "sweep", "tuning", "grids", "collapse")
# A split file's path says nothing: its content is in the fingerprint. declared_records decides the
# divisor alone, which ``meaning`` works out, and feature_bounds a key of the algorithm.
_DATASET_MEANINGLESS = (
    "root",
    "training",
    "declared_by_size",
    "declared_records",
    "feature_bounds",
    "split_file",
)
NEVER = "never"


def schedule_name(config: CellConfig) -> str:
    """The schedule of a cell as results name it: without protection there is none."""
    return NEVER if config.algorithm.name == "none" else config.schedule.name


def meaning(config: CellConfig) -> dict[str, Any]:
    """The part of a configuration that decides a cell's result.

    Without protection, the schedule and the privacy settings decide nothing, so that all cells
    of a grid share one twin. The engine, the per-sample-gradient engine and its physical batches
    change how a result is computed, not what it is; a precision below float32 does change it.
    """
    plain = to_plain(config)
    precision = plain["engine"]["precision"]
    for key in _MEANINGLESS:
        plain.pop(key)
    for key in _DATASET_MEANINGLESS:
        plain["dataset"].pop(key, None)
    if precision != "float32":
        plain["precision"] = precision
    if config.audit.name == "none":
        plain["audit"] = {}
    if config.algorithm.name == "none":
        plain.pop("schedule")
        # An audit's bound is at this delta, for this view.
        audited = ("delta", "view") if plain["audit"] else ()
        plain["privacy"] = {key: plain["privacy"][key] for key in audited}
    algorithm = plain["algorithm"]
    for part in (algorithm, *algorithm.get("mechanisms", ())):
        part.pop("grad_engine", None)
        if part["name"] != "dpsgd" and part.get("target_epsilon", 0) is None:
            part.pop("target_epsilon")
        part.pop("physical_batch", None)
        if part["name"] == "dpsgd" and part["divisor"] is None:
            part["divisor"] = part["sampling_rate"] * config.dataset.declared_records
    return plain


def cell_id(config: CellConfig) -> str:
    """Twelve hex digits that name the cell; needs the dataset's files (see ``prepare``)."""
    content = {
        "schema": SCHEMA,
        "config": meaning(config),
        "data": dataset_fingerprint(config.dataset),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def dataset_fingerprint(conf: DatasetConf) -> str:
    """Fingerprint of the dataset's records, generating synthetic ones that are missing."""
    return _fingerprint(json.dumps(to_plain(conf), sort_keys=True))


@lru_cache(maxsize=64)
def _fingerprint(conf_text: str) -> str:
    from fedprivacy.data.registry import get_dataset

    conf = dataset_from_plain(json.loads(conf_text))
    dataset = get_dataset(conf.name)
    dataset.prepare(conf)
    return dataset.fingerprint(conf)
