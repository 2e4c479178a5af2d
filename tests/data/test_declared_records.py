"""The declared number of records follows the size, so that DP-SGD divides by what suits it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.identity import cell_id, meaning
from fedprivacy.config.loading import to_cell_config
from fedprivacy.config.schema import CellConfig
from fedprivacy.config.serialization import dumps, loads
from fedprivacy.data.cache import dataset_key
from fedprivacy.data.registry import get_dataset
from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms.dpsgd import DpSgd
from fedprivacy.mechanisms.registry import build_mechanism
from fedprivacy.sweep.plan import make_plan

DEMO = {"wisconsin": 150, "higgs": 3200, "ixi_tiny": 13, "breast_density": 280}
FULL = {"wisconsin": 150, "higgs": 29_000, "ixi_tiny": 150, "breast_density": 600}


def config_of(*overrides: str) -> CellConfig:
    with hydra_ready():
        return to_cell_config(compose_cell(overrides))


def divisor_of(config: CellConfig) -> float:
    mechanism = build_mechanism(config.algorithm, config.dataset.declared_records)
    assert isinstance(mechanism, DpSgd)
    return mechanism.divisor


@pytest.mark.parametrize("dataset", DEMO)
@pytest.mark.parametrize(("size", "declared"), [("demo", DEMO), ("full", FULL)])
def test_the_size_alone_sets_the_divisor(dataset: str, size: str, declared: dict[str, int]) -> None:
    config = config_of(f"dataset={dataset}", f"dataset.size={size}", "algorithm=dpsgd")
    assert config.dataset.declared_records == declared[dataset]
    rate = config.dataset.training.sampling_rate
    assert divisor_of(config) == pytest.approx(rate * declared[dataset])


def test_the_demonstration_divides_as_declared() -> None:
    rates = {"wisconsin": 0.2, "higgs": 0.05, "ixi_tiny": 0.2, "breast_density": 0.1}
    cells = make_plan(["+sweeps=demo", "algorithm=dpsgd"]).cells
    found = {cell.config.dataset.name: divisor_of(cell.config) for cell in cells}
    assert found == pytest.approx({name: rates[name] * DEMO[name] for name in DEMO})


def test_a_number_of_ones_own_still_holds() -> None:
    config = config_of("dataset=ixi_tiny", "dataset.size=demo", "dataset.declared_records=200")
    assert config.dataset.declared_records == 200


def test_an_unknown_size_is_named() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.size='huge'.*demo, full"):
        config_of("dataset.size=huge")


def test_the_table_bears_no_meaning_of_its_own(tmp_path: Path) -> None:
    words = ["algorithm=dpsgd", f"dataset.root={tmp_path}"]
    plain = config_of(*words)
    other = config_of(*words, "dataset.declared_by_size.demo=7")
    assert plain.dataset.declared_by_size != other.dataset.declared_by_size
    assert cell_id(other) == cell_id(plain)
    assert dataset_key(other.dataset) == dataset_key(plain.dataset)
    assert "declared_by_size" not in meaning(other)["dataset"]
    used = config_of(*words, "dataset.declared_by_size.full=7")
    assert cell_id(used) != cell_id(plain)


def test_it_survives_the_way_to_the_sites_and_back() -> None:
    config = config_of("dataset=higgs", "dataset.size=demo")
    assert loads(dumps(config)) == config


@pytest.mark.parametrize("dataset", ["ixi_tiny", "breast_density"])
def test_real_files_of_one_size_have_no_demo_constant(dataset: str, tmp_path: Path) -> None:
    words = [f"dataset={dataset}", "dataset.source=real", "dataset.size=demo"]
    conf = config_of(*words, f"dataset.root={tmp_path}").dataset
    with pytest.raises(ConfigError, match=r"dataset\.size='demo'.*full where.*one size"):
        get_dataset(dataset).prepare(conf)
