"""Generated records that were copied to where real ones belong are refused, not shown as real."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from fedprivacy.config.schema import BreastDensityConf, DatasetConf, HiggsConf, IxiConf
from fedprivacy.data import breast_generator, higgs_generator, ixi_generator
from fedprivacy.data.files import NOTICE_NAME, STAMP_NAME, refuse_synthetic, synthetic_marks
from fedprivacy.data.registry import get_dataset, verify_dataset
from fedprivacy.errors import DataError

CONFS: dict[str, DatasetConf] = {
    "higgs": HiggsConf(partition="uniform", metric="auc"),
    "ixi_tiny": IxiConf(shape=[8, 8, 8], metric="dice"),
    "breast_density": BreastDensityConf(image_size=8, metric="kappa"),
    "rsna": BreastDensityConf(image_size=8, metric="kappa", layout="rsna"),
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generators that take no time."""
    scale = breast_generator.Scale(side=16, train=4, test1=1, test2=2)
    monkeypatch.setitem(breast_generator.SIZES, "demo", scale)
    monkeypatch.setitem(higgs_generator.SIZES, "demo", 60)
    # The dictionary itself: other modules, perhaps imported only later, hold on to it.
    sizes = cast(dict[str, Any], ixi_generator.SIZES)
    monkeypatch.setitem(sizes, "demo", {"Guys": 2, "HH": 2, "IOP": 2})


def generated(name: str, root: Path) -> DatasetConf:
    """The stand-in of ``CONFS[name]`` below ``root``."""
    conf = replace(CONFS[name], root=str(root), source="synthetic", size="demo")
    get_dataset(conf.name).prepare(conf)
    return replace(conf, source="real", size="full")


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", CONFS)
@pytest.mark.parametrize("mark", [STAMP_NAME, NOTICE_NAME])
def test_a_copied_stand_in_is_refused(name: str, mark: str, tmp_path: Path) -> None:
    real = generated(name, tmp_path)
    (made,) = (path for path in (tmp_path / "synthetic" / real.name).iterdir() if path.is_dir())
    assert {path.name for path in synthetic_marks(made, deep=False)} == {STAMP_NAME, NOTICE_NAME}
    folder = tmp_path / "real" / real.name
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("float32*"))
    (folder / (NOTICE_NAME if mark == STAMP_NAME else STAMP_NAME)).unlink()
    dataset = get_dataset(real.name)
    for call in (dataset.prepare, dataset.load):
        with pytest.raises(DataError, match=rf"{mark} says .* synthetic.*dataset\.source=synth"):
            call(real)
    assert mark in verify_dataset(real.name, tmp_path, "real")[0]
    (folder / mark).unlink()
    dataset.prepare(real)  # the mark was the reason


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", ["ixi_tiny", "breast_density"])
def test_a_stand_in_in_a_folder_below_is_refused(name: str, tmp_path: Path) -> None:
    real = generated(name, tmp_path)
    shutil.copytree(
        tmp_path / "synthetic" / name / "demo", tmp_path / "real" / name / "copied" / "demo"
    )
    with pytest.raises(DataError, match="synthetic"):
        get_dataset(name).prepare(real)


def test_marks_are_sought_as_deep_as_asked(tmp_path: Path) -> None:
    assert synthetic_marks(tmp_path / "nowhere") == []
    (tmp_path / "float32").mkdir()
    (tmp_path / "float32" / STAMP_NAME).write_text("{}")
    refuse_synthetic(tmp_path, deep=False)
    assert synthetic_marks(tmp_path) == [tmp_path / "float32" / STAMP_NAME]
    with pytest.raises(DataError, match="float32"):
        refuse_synthetic(tmp_path)
