from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict, fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fedprivacy.config.schema import AlgorithmConf, DpsgdConf, GaussianConf, NoneConf, SvtConf
from fedprivacy.errors import ConfigError
from fedprivacy.mechanisms.dpsgd import DpSgd
from fedprivacy.mechanisms.registry import MECHANISMS, build_mechanism

CONF = Path(__file__).parents[2] / "conf" / "algorithm"
SCHEMAS = {"none": NoneConf, "dpsgd": DpsgdConf, "svt": SvtConf, "gaussian": GaussianConf}


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
