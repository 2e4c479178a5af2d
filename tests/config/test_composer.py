"""Cells of a study are what Hydra itself would compose."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from fedprivacy.config.composer import Composer, Value, group_names
from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.loading import to_cell_config
from fedprivacy.errors import ConfigError

COMPOSER = Composer(("dataset=higgs", "dataset.size=demo", "federation.rounds=3"))


@pytest.mark.parametrize(
    "settings",
    [
        {"federation.lr": 0.25},
        {"dataset.training.lr": 0.5},  # federation.lr follows it
        {"schedule": "every_nth", "schedule.n": 3, "schedule.decay": 0.9},
        {"algorithm": "gaussian_clipped", "algorithm.clip": 0.5},
        {"model.hidden": "[32,32]", "algorithm.clipping": "automatic"},
        {"algorithm.divisor": None, "privacy.diagnostics": False},
    ],
    ids=lambda settings: " ".join(settings),
)
def test_it_equals_a_whole_composition(settings: dict[str, Value]) -> None:
    found = COMPOSER.compose(settings)
    with hydra_ready():
        whole = to_cell_config(compose_cell(found.overrides))
    assert to_cell_config(found.node) == whole


def test_unknown_keys_and_values_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"algorithm\.nothing"):
        COMPOSER.compose({"algorithm.nothing": 1})
    with pytest.raises(ConfigError, match=r"federation\.rounds"):
        COMPOSER.compose({"federation.rounds": "many"})


@pytest.mark.parametrize(
    "words",
    [
        ["seed=3", "algorithm.clip=0.5"],
        ["dataset=wisconsin", "model.hidden=[4]"],
        ["+sweeps=demo", "federation.lr=0.25"],
        ["hydra.sweep.dir=elsewhere", "seed=1"],
    ],
    ids=" ".join,
)
def test_words_equal_a_whole_composition(words: list[str]) -> None:
    # Not valid by itself: only of the mechanism that every cell chooses is there a clip.
    fixed = ("algorithm.clip=2",)
    with hydra_ready():
        whole = compose_cell([*fixed, "algorithm=gaussian_clipped", *words])
        composer = Composer(fixed, groups=group_names(whole))
        found = composer.compose_words(["algorithm=gaussian_clipped", *words])
    plain = OmegaConf.to_container(whole)
    plain.pop("hydra")
    assert OmegaConf.to_container(found.node) == plain
    assert _sweep_dir(found.hydra) == _sweep_dir(whole)


def _sweep_dir(composed: DictConfig) -> str:
    return str(OmegaConf.to_container(composed)["hydra"]["sweep"]["dir"])


def test_what_hydra_leaves_is_left(tmp_path: Path) -> None:
    COMPOSER.compose({"schedule": "every_nth", "schedule.n": 3}).write(tmp_path)
    typed = [*COMPOSER.overrides, "schedule=every_nth", "schedule.n=3"]
    assert OmegaConf.load(tmp_path / ".hydra/overrides.yaml") == typed
    assert OmegaConf.load(tmp_path / ".hydra/hydra.yaml").hydra.overrides.task == typed
    assert OmegaConf.load(tmp_path / ".hydra/config.yaml").schedule.n == 3
