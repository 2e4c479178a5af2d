"""Registers the schema, the resolvers and the sweeps folder with Hydra."""

from __future__ import annotations

from dataclasses import MISSING as MISSING_TYPE
from dataclasses import field, fields, is_dataclass, make_dataclass
from functools import cache
from inspect import get_annotations
from typing import Any, get_type_hints

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from fedprivacy.config import schema
from fedprivacy.config.serialization import GROUPS
from fedprivacy.config.sweeps_source import SweepsConfigSource, SweepsSearchPath


@cache
def mutable(cls: type) -> type:
    """A dataclass with the fields of a frozen one, that Hydra may merge into.

    OmegaConf makes nodes of frozen dataclasses read-only, at every depth, which composition must
    not be; values become frozen again when the composed configuration is turned into objects.
    """
    hints = get_type_hints(cls)
    own = [field for field in fields(cls) if field.name in get_annotations(cls)]
    specification = [
        (
            field.name,
            mutable(hints[field.name]) if is_dataclass(hints[field.name]) else hints[field.name],
            _default(field),
        )
        for field in own
    ]
    bases = tuple(mutable(base) for base in cls.__bases__ if is_dataclass(base))
    return make_dataclass(cls.__name__, specification, bases=bases)


def _default(described: Any) -> Any:
    if described.default is not MISSING_TYPE:
        return described.default
    made = described.default_factory
    if isinstance(made, type) and is_dataclass(made):
        made = mutable(made)
    return field(default_factory=made)


@cache
def register() -> None:
    """Register schema, search path and resolvers with Hydra, once per process."""
    store = ConfigStore.instance()
    store.store(name="base_cell", node=mutable(schema.CellConfig), provider="fedprivacy")
    for group, members in GROUPS.items():
        for name, cls in members.items():
            store.store(f"base_{name}", mutable(cls), group=group, provider="fedprivacy")
    for group, cls in {
        "schedule": schema.ScheduleConf,
        "federation": schema.FederationConf,
        "engine": schema.EngineConf,
        "privacy": schema.PrivacyConf,
        "audit": schema.AuditConf,
        "tracking": schema.TrackingConf,
        "tuning": schema.TuningConf,
    }.items():
        store.store(f"base_{group}", mutable(cls), group=group, provider="fedprivacy")
    SourcesRegistry.instance().register(SweepsConfigSource)
    Plugins.instance().register(SweepsSearchPath)
    _register_resolvers()


def _register_resolvers() -> None:
    from fedprivacy.config.identity import cell_id
    from fedprivacy.config.loading import to_cell_config

    def resolve_cell_id(*, _root_: DictConfig) -> str:
        return cell_id(to_cell_config(_root_))

    OmegaConf.register_new_resolver("cell_id", resolve_cell_id, replace=True)
