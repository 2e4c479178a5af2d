"""Which datasets there are, each imported only when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from fedprivacy.errors import ConfigError

if TYPE_CHECKING:  # base imports torch: seconds that only a dataset's user should wait
    from fedprivacy.data.base import Dataset

Generator = Callable[[Path, str, int], None]

# A dataset is one module with DATASET (a Dataset) and verify(root, source) -> problems.
_MODULES = {
    "wisconsin": "fedprivacy.data.wisconsin",
    "higgs": "fedprivacy.data.higgs",
    "ixi_tiny": "fedprivacy.data.ixi",
    "breast_density": "fedprivacy.data.breast_density",
}
# A stand-in is one module with generate(folder, size, seed). Wisconsin needs none: it is real.
_GENERATORS = {
    "higgs": "fedprivacy.data.higgs_generator",
    "ixi_tiny": "fedprivacy.data.ixi_generator",
    "breast_density": "fedprivacy.data.breast_generator",
}


def dataset_names() -> tuple[str, ...]:
    """Names of all datasets, as in ``conf/dataset``."""
    return tuple(_MODULES)


def get_dataset(name: str) -> Dataset:
    """The dataset called ``name``.

    Raises:
        ConfigError: there is no such dataset.
    """
    dataset: Dataset = _module(name).DATASET
    return dataset


def get_generator(name: str) -> Generator:
    """``generate(folder, size, seed)`` of dataset ``name``: fills a folder with made-up records.

    Raises:
        ConfigError: there is no such dataset, or it has no synthetic version.
    """
    if name not in _GENERATORS:
        allowed = f"one of {', '.join(_GENERATORS)} (wisconsin has real records only)"
        raise ConfigError("dataset", name, allowed, "dataset=higgs")
    generator: Generator = importlib.import_module(_GENERATORS[name]).generate
    return generator


def verify_dataset(name: str, root: Path, source: str) -> list[str]:
    """Problems found in the files of dataset ``name`` under ``root``; empty when sound.

    Args:
        name: the dataset.
        root: ``dataset.root``.
        source: synthetic or real.

    Raises:
        ConfigError: there is no such dataset.
        DataError: there are no files to check.
    """
    problems: list[str] = _module(name).verify(root, source)
    return problems


def _module(name: str) -> ModuleType:
    if name not in _MODULES:
        allowed = f"one of {', '.join(_MODULES)}"
        raise ConfigError("dataset", name, allowed, "dataset=wisconsin")
    return importlib.import_module(_MODULES[name])
