"""Where ``base_NAME`` is looked up: the schema's types, as a place on Hydra's search path.

Hydra copies its own ``ConfigStore`` whole for every composition, whatever is used of it, which took
a twelfth of the time; of this source it copies a path.
"""

from __future__ import annotations

import copy
from dataclasses import MISSING as MISSING_TYPE
from dataclasses import field, fields, is_dataclass, make_dataclass
from functools import cache
from inspect import get_annotations
from typing import Any, get_type_hints

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from fedprivacy.config import schema
from fedprivacy.config.serialization import GROUPS, SINGLE

SCHEME = "schema"

_NO_GROUPS = {"collapse", "sweep"}  # parts of a cell that nothing is chosen for
_TYPES: dict[str, type] = {
    "base_cell": schema.CellConfig,
    **{f"{group}/base_{group}": cls for group, cls in SINGLE.items() if group not in _NO_GROUPS},
    **{
        f"{group}/base_{name}": cls
        for group, members in GROUPS.items()
        for name, cls in members.items()
    },
}


class SchemaSource(ConfigSource):
    """The schema's types by name: ``base_cell``, and ``GROUP/base_NAME`` in each group."""

    @staticmethod
    def scheme() -> str:
        """The prefix of its path."""
        return SCHEME

    def available(self) -> bool:
        """Always: it is part of the package."""
        return True

    def load_config(self, config_path: str) -> ConfigResult:
        """A fresh node of a type, which Hydra may merge into.

        Raises:
            ConfigLoadError: there is no such type.
        """
        if not self.is_config(config_path):
            raise ConfigLoadError(f"no type of the schema: {config_path}")
        node = copy.deepcopy(_node(_bare(config_path)))
        return ConfigResult(self.provider, f"{SCHEME}://", node, header={"package": None})

    def is_group(self, config_path: str) -> bool:
        """Whether types are kept below this name."""
        return any(name.startswith(_inside(config_path)) for name in _TYPES)

    def is_config(self, config_path: str) -> bool:
        """Whether this is a type's name."""
        return _bare(config_path) in _TYPES

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Groups and types right below this name, sorted."""
        prefix = _inside(config_path)
        below = [name.removeprefix(prefix) for name in _TYPES if name.startswith(prefix)]
        groups = {name.partition("/")[0] for name in below if "/" in name}
        types = {name for name in below if "/" not in name}
        wanted = {ObjectType.GROUP: groups, ObjectType.CONFIG: types}
        return sorted(groups | types if results_filter is None else wanted[results_filter])


class SchemaSearchPath(SearchPathPlugin):
    """Makes the schema's types known to every composition."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the schema."""
        search_path.append("fedprivacy", f"{SCHEME}://")


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
def _node(name: str) -> DictConfig:
    node = OmegaConf.structured(mutable(_TYPES[name]))
    assert isinstance(node, DictConfig)
    return node


def _bare(config_path: str) -> str:
    return config_path.removesuffix(".yaml")


def _inside(config_path: str) -> str:
    return f"{config_path.rstrip('/')}/" if config_path else ""
