"""Every dataset keeps the contract; a new one gets its class here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from contracts.dataset import DatasetContract

from fedprivacy.config.schema import CellConfig, DatasetConf
from fedprivacy.data.registry import dataset_names


def of(name: str, *overrides: str) -> type:
    """The contract of one dataset, with its records in a folder of their own."""

    class OfOne(DatasetContract):
        @pytest.fixture(scope="class")
        @classmethod
        def conf(
            cls,
            compose: Callable[..., CellConfig],
            tmp_path_factory: pytest.TempPathFactory,
        ) -> DatasetConf:
            root = f"dataset.root={tmp_path_factory.mktemp(name)}"
            chosen = (f"dataset={name}", "dataset.size=demo", root, *overrides)
            return compose(*chosen).dataset

    return OfOne


TestWisconsin = of("wisconsin")
TestHiggs = of("higgs", "dataset.max_rows=1500")
TestIxiTiny = of("ixi_tiny", "dataset.shape=[12,16,12]")
TestBreastDensity = of("breast_density", "dataset.image_size=16")


def test_every_dataset_is_here() -> None:
    tested = {name.removeprefix("Test").lower() for name in globals() if name.startswith("Test")}
    assert {name.replace("_", "") for name in dataset_names()} == tested
