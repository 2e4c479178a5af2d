"""Every configuration file composes, every wrong one is refused with its key and a way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedprivacy.config.composition import compose_cell, hydra_ready, parse
from fedprivacy.config.loading import to_cell_config
from fedprivacy.config.resources import resources_root
from fedprivacy.config.serialization import GROUPS, dumps, loads
from fedprivacy.config.validation import validate
from fedprivacy.errors import ConfigError
from fedprivacy.tuning.study import _NAME

CONF = resources_root() / "conf"
GROUP_FILES = sorted(
    path.relative_to(CONF) for path in CONF.glob("*/*.yaml") if path.parent.name != "experiment"
)
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def composed(*overrides: str):
    with hydra_ready():
        return to_cell_config(compose_cell(overrides))


@pytest.mark.parametrize("path", GROUP_FILES, ids=str)
def test_every_choice_composes_and_is_valid(path: Path) -> None:
    config = composed(f"{path.parent}={path.stem}")
    if path.parent.name != "model":  # a network need not fit the default dataset
        validate(config)
    if str(path.parent) in GROUPS:
        assert getattr(config, str(path.parent)).name == path.stem


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_is_valid(name: str) -> None:
    validate(composed(f"+experiment={name}"))


def test_every_schema_member_has_a_file() -> None:
    for group, members in GROUPS.items():
        assert {path.stem for path in (CONF / group).glob("*.yaml")} == set(members)


def test_configuration_survives_the_journey_to_a_site() -> None:
    config = composed("algorithm=svt", "schedule=every_nth", "dataset=ixi_tiny")
    assert loads(dumps(config)) == config


def test_every_key_of_every_file_is_a_field_of_the_schema() -> None:
    with pytest.raises(ConfigError, match=r"algorithm\.noise_multipier"):
        composed("algorithm.noise_multipier=2")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["algorithm=dpsdg"], ["algorithm", "dpsdg", "dpsgd", "svt", "gaussian", "none"]),
        (["schedule=sometimes"], ["schedule", "sometimes", "every_round", "last_round"]),
        (["seed=abc"], ["seed", "abc"]),
        (["algorithm.sampling_rate=high"], ["algorithm.sampling_rate", "high"]),
        (["no_such_key=1"], ["no_such_key"]),
        (["algorithm.noise_multiplier=2="], ["algorithm.noise_multiplier"]),
    ],
)
def test_what_hydra_refuses_is_explained(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        composed(*overrides)
    for word in words:
        assert word in str(caught.value)
    assert "Fix:" in str(caught.value)


def test_a_target_epsilon_settles_the_noise_and_excludes_another() -> None:
    base = ["federation.rounds=2", "privacy=seeded"]
    usual = composed(*base)
    assert usual.algorithm.noise_multiplier == usual.dataset.training.noise_multiplier
    calibrated = composed(*base, "algorithm.target_epsilon=5")
    assert calibrated.algorithm.noise_multiplier not in (None, usual.algorithm.noise_multiplier)
    tighter = composed(*base, "algorithm.target_epsilon=2")
    assert tighter.algorithm.noise_multiplier > calibrated.algorithm.noise_multiplier
    with pytest.raises(ConfigError, match="one or the other"):
        composed(*base, "algorithm.target_epsilon=5", "algorithm.noise_multiplier=1")


@pytest.mark.parametrize(
    "name",
    ["plain", "a,b", "a=b", "o'neill", "[x]", "höhe", "sp ace", 'dq"x', "back\\slash", "end\\",
     "$x", "a{b}", "tab'\\'q"],
)  # fmt: skip
def test_a_folder_of_the_user_s_own_may_have_any_name(tmp_path: Path, name: str) -> None:
    group = tmp_path / name / "study"
    group.mkdir(parents=True)
    (group / "recommended.yaml").write_text("# @package _global_\nseed: 7\n")
    folders = [str(tmp_path / name)]
    with hydra_ready(folders):
        assert compose_cell(["+study=recommended"], folders).seed == 7


@pytest.mark.parametrize("name", ["epsilon_0.5", "a.b", "a-b", "_a", "A1", "run-2026.1"])
def test_a_study_s_name_can_be_typed(name: str) -> None:
    assert _NAME.fullmatch(name)
    [found] = parse([f"+{name}=recommended"])
    assert found.key_or_group == name
