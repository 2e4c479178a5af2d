"""The schema as a place on Hydra's search path."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ValidationError

from fedprivacy.config import schema
from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.schema_source import SchemaSource
from fedprivacy.config.serialization import GROUPS


@pytest.fixture
def source() -> SchemaSource:
    return SchemaSource("fedprivacy", "schema://")


@pytest.mark.parametrize("name", sorted(GROUPS["algorithm"]))
def test_an_algorithm_has_its_types_fields_and_refuses_others(
    source: SchemaSource, name: str
) -> None:
    node = source.load_config(f"algorithm/base_{name}").config
    assert set(node) == {field.name for field in fields(GROUPS["algorithm"][name])}
    with pytest.raises(ConfigAttributeError):
        node.no_such_key = 1


def test_what_is_merged_into_a_node_is_not_kept(source: SchemaSource) -> None:
    first = source.load_config("base_cell").config
    first.seed = 41
    assert source.load_config("base_cell.yaml").config.seed == schema.CellConfig.seed != 41
    with pytest.raises(ValidationError):
        first.seed = "many"


def test_groups_and_types_are_told_apart(source: SchemaSource) -> None:
    assert source.is_group("model")
    assert not source.is_config("model")
    assert source.is_config("model/base_mlp")
    assert not source.is_group("model/base_mlp")
    assert not source.is_group("mod")
    assert not source.is_config("base_mlp")
    assert source.list("model", ObjectType.CONFIG) == [
        "base_density_cnn",
        "base_mlp",
        "base_unet3d",
    ]
    assert source.list("model", ObjectType.GROUP) == []
    assert source.list("", ObjectType.CONFIG) == ["base_cell"]
    assert {"algorithm", "schedule"} < set(source.list("", ObjectType.GROUP))
    assert "base_cell" in source.list("", None)
    assert "model" in source.list("", None)


def test_a_type_that_is_not_there_is_named(source: SchemaSource) -> None:
    with pytest.raises(ConfigLoadError, match="model/base_resnet"):
        source.load_config("model/base_resnet")


def test_hydras_store_holds_none_of_them() -> None:
    # It is copied whole by every composition.
    with hydra_ready():
        composed = compose_cell(["seed=3"])
        assert GlobalHydra.instance().is_initialized()
    assert not {"algorithm", "base_cell.yaml"} & set(ConfigStore.instance().repo)
    assert OmegaConf.get_type(composed.schedule).__name__ == "ScheduleConf"
