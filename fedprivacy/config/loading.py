"""From Hydra's composed configuration to a frozen, validated ``CellConfig``."""

from __future__ import annotations

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedprivacy.config.schema import CellConfig
from fedprivacy.config.serialization import from_plain
from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms.settling import settle

_NOT_OURS = frozenset({"hydra"})
_UNKNOWN_SIZE = re.compile(r"'dataset\.declared_by_size\.([^']*)' not found")


def to_plain_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain values, without Hydra's own node.

    Raises:
        ConfigError: a mandatory value is missing or an interpolation cannot be resolved.
    """
    plain: dict[str, Any] = {}
    for key in cfg:
        if key in _NOT_OURS:
            continue
        try:
            node = cfg._get_node(key)
            if OmegaConf.is_config(node):
                plain[str(key)] = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
            else:
                plain[str(key)] = cfg[key]
        except OmegaConfBaseException as error:
            if size := _UNKNOWN_SIZE.search(str(error)):
                raise ConfigError(
                    "dataset.size", size[1], "one of demo, full", "dataset.size=full"
                ) from error
            full = getattr(error, "full_key", None) or str(key)
            raise ConfigError(
                str(full), "???", "a value", f"set {full}=... ({str(error).splitlines()[0]})"
            ) from error
    return plain


def to_cell_config(cfg: DictConfig) -> CellConfig:
    """The typed, frozen configuration of a cell, its noise settled (see ``mechanisms.settling``).

    Ranges are checked by ``validate``.
    """
    return settle(from_plain(to_plain_config(cfg)))
