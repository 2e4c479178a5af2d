"""Registers the schema, the shipped and the users' configuration and the resolvers with Hydra."""

from __future__ import annotations

from functools import cache

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from fedprivacy.config.schema_source import SchemaSearchPath, SchemaSource
from fedprivacy.config.shipped_source import ShippedSearchPath, ShippedSource
from fedprivacy.config.sweeps_source import SweepsConfigSource, SweepsSearchPath


@cache
def register() -> None:
    """Register sources, search paths and resolvers with Hydra, once per process."""
    for source in (SchemaSource, ShippedSource, SweepsConfigSource):
        SourcesRegistry.instance().register(source)
    for search_path in (SchemaSearchPath, ShippedSearchPath, SweepsSearchPath):
        Plugins.instance().register(search_path)
    _register_resolvers()


def _register_resolvers() -> None:
    from fedprivacy.config.identity import cell_id
    from fedprivacy.config.loading import to_cell_config

    def resolve_cell_id(*, _root_: DictConfig) -> str:
        return cell_id(to_cell_config(_root_))

    OmegaConf.register_new_resolver("cell_id", resolve_cell_id, replace=True)
