"""Registers the schema with Hydra and tells where configuration files are found."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from fedprivacy.config import schema
from fedprivacy.config.serialization import GROUPS


def resources_root() -> Path:
    """The folder that holds ``conf/`` and ``sweeps/``: the wheel's own, or the checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "_resources"
    return shipped if (shipped / "conf").is_dir() else package.parent


def conf_dir() -> str:
    """Absolute path of the primary configuration folder."""
    return str(resources_root() / "conf")


class SweepsSearchPath(SearchPathPlugin):
    """Makes ``+sweeps=NAME`` find the shipped sweeps and those of the current directory."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders that hold a folder ``sweeps``."""
        search_path.append("fedprivacy", f"file://{resources_root()}")
        if (here := Path.cwd()) != resources_root() and (here / "sweeps").is_dir():
            search_path.append("fedprivacy-cwd", f"file://{here}")


def unlocked(cls: type) -> DictConfig:
    """A frozen dataclass as a typed node that Hydra may still merge into.

    OmegaConf makes nodes of frozen dataclasses read-only, which composition must not be; the
    values become frozen again when the composed configuration is turned into objects.
    """
    node = OmegaConf.structured(cls)
    _unlock(node)
    return node  # type: ignore[no-any-return]


def _unlock(node: DictConfig) -> None:
    OmegaConf.set_readonly(node, None)
    if node._is_missing() or node._is_none():
        return
    for key in node:
        child: Any = node._get_node(key)
        if isinstance(child, DictConfig):
            _unlock(child)


@cache
def register() -> None:
    """Register schema, search path and resolvers with Hydra, once per process."""
    store = ConfigStore.instance()
    store.store(name="base_cell", node=unlocked(schema.CellConfig), provider="fedprivacy")
    for group, members in GROUPS.items():
        for name, cls in members.items():
            store.store(f"base_{name}", unlocked(cls), group=group, provider="fedprivacy")
    for group, cls in {
        "schedule": schema.ScheduleConf,
        "federation": schema.FederationConf,
        "engine": schema.EngineConf,
        "privacy": schema.PrivacyConf,
        "tracking": schema.TrackingConf,
    }.items():
        store.store(f"base_{group}", unlocked(cls), group=group, provider="fedprivacy")
    Plugins.instance().register(SweepsSearchPath)
    _register_resolvers()


def _register_resolvers() -> None:
    from fedprivacy.config.identity import cell_id
    from fedprivacy.config.loading import to_cell_config

    def resolve_cell_id(*, _root_: DictConfig) -> str:
        return cell_id(to_cell_config(_root_))

    OmegaConf.register_new_resolver("cell_id", resolve_cell_id, replace=True)
