"""Files of the shipped configuration, parsed once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.global_hydra import GlobalHydra
from hydra.plugins.config_source import ConfigLoadError
from omegaconf import OmegaConf

from fedprivacy.config.composition import hydra_ready
from fedprivacy.config.resources import conf_dir
from fedprivacy.config.shipped_source import ShippedSource

SHIPPED = sorted(
    str(file.relative_to(conf_dir()).with_suffix("")) for file in Path(conf_dir()).rglob("*.yaml")
)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_file_reads_as_hydra_reads_it_the_first_time_and_after(name: str) -> None:
    expected = FileConfigSource("main", conf_dir()).load_config(name)
    source = ShippedSource("main", f"shipped://{conf_dir()}")
    for _ in range(2):
        found = source.load_config(name)
        assert found.header == expected.header
        assert found.config == expected.config
        assert OmegaConf.to_yaml(found.config) == OmegaConf.to_yaml(expected.config)


def test_what_is_merged_into_a_node_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("a: {b: [1, 2]}\n")
    source = ShippedSource("main", f"shipped://{tmp_path}")
    for _ in range(3):
        node = source.load_config("one").config
        assert node.a.b == [1, 2]
        node.a.b.append(3)
        node.c = 4
        assert "c" not in source.load_config("one").config


def test_a_file_written_anew_is_parsed_anew(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text("# @package _global_\na: 1\n")
    source = ShippedSource("main", f"shipped://{tmp_path}")
    assert source.load_config("one").header == {"package": "_global_"}
    written = file.stat().st_mtime_ns
    file.write_text("# @package another\na: 2\n")
    os.utime(file, ns=(written, written + 1))
    again = source.load_config("one")
    assert (again.config.a, again.header) == (2, {"package": "another"})
    file.unlink()
    with pytest.raises(ConfigLoadError, match=r"one\.yaml"):
        source.load_config("one")


def test_the_main_folder_is_read_this_way() -> None:
    with hydra_ready():
        loader = GlobalHydra.instance().config_loader()
        (main,) = [source for source in loader.get_sources() if source.provider == "main"]
    assert isinstance(main, ShippedSource)
    assert main.path == conf_dir()
