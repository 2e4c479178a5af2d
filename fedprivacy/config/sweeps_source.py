"""Where ``+sweeps=NAME`` is looked up: the folder ``sweeps`` of a place, and nothing beside it.

Putting that place itself on Hydra's search path would turn every folder in it (environments, data,
results) into configuration groups, which ``--help`` would walk through.
"""

from __future__ import annotations

from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.search_path_plugin import SearchPathPlugin

from fedprivacy.config.resources import resources_root

FOLDER = "sweeps"


class SweepsConfigSource(FileConfigSource):
    """Files of the one folder ``sweeps`` below a path; the rest of the path does not exist."""

    @staticmethod
    def scheme() -> str:
        """The prefix of such a path."""
        return FOLDER

    def is_group(self, config_path: str) -> bool:
        """Whether this is the folder, or the place that holds it."""
        return config_path in ("", FOLDER) and bool(super().is_group(FOLDER))

    def is_config(self, config_path: str) -> bool:
        """Whether this is a file of the folder."""
        return str(Path(config_path).parent) == FOLDER and bool(super().is_config(config_path))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Names in the folder; of the place, the folder alone."""
        if config_path == "":
            return [FOLDER] if results_filter in (None, ObjectType.GROUP) else []
        return list(super().list(config_path, results_filter))


class SweepsSearchPath(SearchPathPlugin):
    """Makes ``+sweeps=NAME`` find the shipped sweeps and those of the current directory."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the places that hold a folder ``sweeps``."""
        places = dict.fromkeys((resources_root(), Path.cwd()))
        for number, place in enumerate(places):
            if (place / FOLDER).is_dir():
                search_path.append(f"fedprivacy-sweeps-{number}", f"{FOLDER}://{place}")
