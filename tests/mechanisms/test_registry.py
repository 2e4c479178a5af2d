from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict, fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.loading import to_cell_config
from fedprivacy.config.schema import (
    AlgorithmConf,
    DpsgdConf,
    GaussianClippedConf,
    GaussianConf,
    NoneConf,
    PercentileConf,
    SvtConf,
    SvtExactConf,
    SvtFlare28Conf,
)
from fedprivacy.config.serialization import dumps, loads
from fedprivacy.config.validation import validate
from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms.dpsgd import DpSgd
from fedprivacy.mechanisms.registry import MECHANISMS, build_mechanism

CONF = Path(__file__).parents[2] / "conf" / "algorithm"
SCHEMAS = {
    "none": NoneConf,
    "dpsgd": DpsgdConf,
    "svt": SvtConf,
    "svt_flare28": SvtFlare28Conf,
    "svt_exact": SvtExactConf,
    "gaussian": GaussianConf,
    "gaussian_clipped": GaussianClippedConf,
    "percentile": PercentileConf,
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_mechanisms_are_built_by_name_and_are_values(name: str) -> None:
    mechanism = build_mechanism(SCHEMAS[name](), declared_records=100)
    assert mechanism.name == name
    assert mechanism == build_mechanism(SCHEMAS[name](), declared_records=100)
    assert hash(mechanism) is not None
    field = fields(mechanism)[0].name if fields(mechanism) else "name"
    with pytest.raises(FrozenInstanceError):
        setattr(mechanism, field, 1)


def test_divisor_comes_from_declared_constants() -> None:
    mechanism = build_mechanism(DpsgdConf(sampling_rate=0.05), declared_records=120)
    assert isinstance(mechanism, DpSgd)
    assert mechanism.divisor == pytest.approx(6.0)


def test_unknown_mechanism_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"algorithm='magic'.*none, dpsgd"):
        build_mechanism(AlgorithmConf(name="magic"), 1)


@pytest.mark.parametrize("name", SCHEMAS)
def test_configuration_files_hold_exactly_the_fields_of_the_schema(name: str) -> None:
    raw = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert raw.pop("defaults") == [f"base_{name}", "_self_"]
    assert set(raw) == set(asdict(SCHEMAS[name]()))
    assert raw["name"] == name
    if name != "dpsgd":
        assert raw == asdict(SCHEMAS[name]())


def test_every_shipped_file_names_a_mechanism() -> None:
    assert {path.stem for path in CONF.glob("*.yaml")} >= set(SCHEMAS)
    assert set(MECHANISMS) >= set(SCHEMAS)


@pytest.mark.parametrize("name", ["svt_flare28", "svt_exact", "gaussian_clipped", "percentile"])
def test_update_filters_travel_to_sites_unchanged(name: str) -> None:
    with hydra_ready():
        config = to_cell_config(compose_cell([f"algorithm={name}", "dataset=wisconsin"]))
    validate(config)
    assert config.algorithm == SCHEMAS[name]()
    assert loads(dumps(config)) == config


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("svt_flare28", "gamma", "0"),
        ("svt_flare28", "epsilon_threshold", "0.2"),
        ("svt_exact", "selection_share", "1"),
        ("svt_exact", "noise", "uniform"),
        ("gaussian_clipped", "clip", "0"),
        ("percentile", "percentile", "101"),
    ],
)
def test_update_filters_out_of_range_are_refused_before_anything_runs(
    name: str, key: str, value: str
) -> None:
    with hydra_ready():
        overrides = [f"algorithm={name}", "dataset=wisconsin", f"algorithm.{key}={value}"]
        config = to_cell_config(compose_cell(overrides))
    with pytest.raises(ConfigError) as caught:
        validate(config)
    assert caught.value.key == f"algorithm.{key}"
    assert caught.value.fix
