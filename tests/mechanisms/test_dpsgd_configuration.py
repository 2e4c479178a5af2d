"""DP-SGD's options from what is typed to what the sites get."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedprivacy.assumptions import assumptions
from fedprivacy.cell import run_cell
from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.identity import cell_id
from fedprivacy.config.loading import to_cell_config
from fedprivacy.config.schema import CellConfig
from fedprivacy.config.serialization import dumps, loads
from fedprivacy.config.validation import validate
from fedprivacy.data.cache import load_data
from fedprivacy.errors import ConfigError
from fedprivacy.federation.site import CellRuntime
from fedprivacy.training.task import OptimizerSpec


def config_of(*overrides: str) -> CellConfig:
    with hydra_ready():
        return to_cell_config(compose_cell(("federation.rounds=3", *overrides)))


def test_a_target_alone_is_enough() -> None:
    config = config_of("algorithm.target_epsilon=3")
    validate(config)
    assert config.algorithm.noise_multiplier > config_of().algorithm.noise_multiplier == 2.0
    assert config_of("algorithm.target_epsilon=3") == config
    assert loads(dumps(config)) == config
    validate(loads(dumps(config)))


def test_a_target_and_a_noise_are_one_too_many() -> None:
    with pytest.raises(ConfigError, match="one or the other"):
        config_of("algorithm.target_epsilon=3", "algorithm.noise_multiplier=2")


def test_the_default_noise_is_the_noise_of_the_dataset() -> None:
    assert cell_id(config_of()) == cell_id(config_of("algorithm.noise_multiplier=2"))
    changed = config_of("dataset.training.noise_multiplier=3")
    assert changed.algorithm.noise_multiplier == 3


@pytest.mark.parametrize("override", ["algorithm.physical_batch=4", "federation.lr_decay=1"])
def test_what_bears_no_meaning(override: str) -> None:
    assert cell_id(config_of(override)) == cell_id(config_of())


@pytest.mark.parametrize(
    "override",
    [
        "algorithm.target_epsilon=3",
        "algorithm.clipping=adaptive",
        "algorithm.sampling=shuffle",
        "algorithm.ema=0.9",
        "algorithm.augmentations=4",
        "federation.lr_decay=0.9",
    ],
)
def test_what_bears_meaning(override: str) -> None:
    assert cell_id(config_of(override)) != cell_id(config_of())


def test_the_learning_rate_decays_from_round_to_round(tiny) -> None:
    config = tiny("federation.lr_decay=0.5", "federation.lr=0.08", "federation.momentum=0.9")
    runtime = CellRuntime(config)
    weights = runtime.initial_weights
    rates = [runtime.task(0, number, weights).optimizer for number in (1, 2, 3)]
    assert rates == [OptimizerSpec("sgd", lr, 0.9) for lr in (0.08, 0.04, 0.02)]


def test_without_decay_the_learning_rate_is_the_very_number(tiny) -> None:
    runtime = CellRuntime(tiny("federation.lr=0.1"))
    assert runtime.task(0, 3, runtime.initial_weights).optimizer.lr == 0.1


@pytest.mark.parametrize("value", ["0", "1.5", "-1"])
def test_a_decay_out_of_range_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"federation\.lr_decay"):
        validate(config_of(f"federation.lr_decay={value}"))


def said(*overrides: str) -> str:
    config = config_of(*overrides)
    return " ".join(assumptions(config, load_data(config.dataset)))


def test_the_sampling_that_is_said_is_the_one_that_is_done() -> None:
    assert "Poisson sampling" in said()
    shuffled = said("algorithm.sampling=shuffle")
    assert "Poisson" not in shuffled
    assert "without amplification" in shuffled


def test_a_target_is_said_with_what_it_covers() -> None:
    assert "calibrated" not in said()
    words = said("algorithm.target_epsilon=3", "schedule=first_round")
    assert "at most epsilon 3" in words
    assert "infinite" in words


@pytest.mark.parametrize(
    "overrides",
    [
        ("algorithm.clipping=normalized", "algorithm.ema=0.9"),
        ("algorithm.clipping=automatic", "federation.lr_decay=0.9"),
        ("algorithm.clipping=per_layer", "algorithm.augmentations=2"),
        ("algorithm.clipping=adaptive", "algorithm.target_epsilon=6"),
        ("algorithm.sampling=shuffle", "algorithm.physical_batch=8"),
    ],
    ids=lambda pair: " ".join(pair),
)
def test_cells_run_with_every_option(tiny, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    result = run_cell(tiny("algorithm=dpsgd", *overrides), tmp_path)
    assert result.status in ("ok", "collapsed"), result.reason
    assert result.privacy["epsilon"] > 0
    assert torch.isfinite(torch.tensor(result.score.value))
