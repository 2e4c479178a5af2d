"""Values that types allow and sense does not: each is refused by its key."""

from __future__ import annotations

import pytest

from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.loading import to_cell_config
from fedprivacy.config.validation import in_range, validate
from fedprivacy.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["algorithm.noise_multiplier=-1"], "algorithm.noise_multiplier"),
        (["algorithm.noise_multiplier=nan"], "algorithm.noise_multiplier"),
        (["algorithm.max_grad_norm=0"], "algorithm.max_grad_norm"),
        (["algorithm.sampling_rate=0"], "algorithm.sampling_rate"),
        (["algorithm.sampling_rate=1.5"], "algorithm.sampling_rate"),
        (["algorithm.divisor=0"], "algorithm.divisor"),
        (["algorithm.grad_engine=magic"], "algorithm.grad_engine"),
        (["algorithm=svt", "algorithm.gamma=0"], "algorithm.gamma"),
        (["algorithm=svt", "algorithm.fraction=2"], "algorithm.fraction"),
        (["algorithm=svt", "algorithm.epsilon=0"], "algorithm.epsilon"),
        (["algorithm=gaussian", "algorithm.percentile=101"], "algorithm.percentile"),
        (["algorithm=gaussian", "algorithm.sigma0=-0.1"], "algorithm.sigma0"),
        (["algorithm.noise_multiplier=1e-5"], "algorithm.noise_multiplier"),
        (["algorithm.noise_multiplier=1e-300"], "algorithm.noise_multiplier"),
        (
            ["algorithm=gaussian_clipped", "algorithm.noise_multiplier=1e-4"],
            "algorithm.noise_multiplier",
        ),
        (
            ["algorithm=local_source", "algorithm.noise_multiplier=1e-5"],
            "algorithm.noise_multiplier",
        ),
        (
            ["algorithm=stacked", "algorithm.mechanisms=[{name: dpsgd, noise_multiplier: 1e-5}]"],
            "algorithm.noise_multiplier",
        ),
        (["schedule.decay=0.2", "federation.rounds=8"], "schedule.decay"),
        (["algorithm=central_gaussian", "algorithm.n_sites=5"], "algorithm.n_sites"),
        (["schedule=every_nth", "schedule.n=0"], "schedule.n"),
        (["schedule=every_nth", "schedule.offset=10"], "schedule.offset"),
        (["schedule.decay=0"], "schedule.decay"),
        (["federation.rounds=0"], "federation.rounds"),
        (["federation.lr=-1"], "federation.lr"),
        (["federation.optimizer=lion"], "federation.optimizer"),
        (["federation.optimizer=adam", "federation.momentum=0.9"], "federation.momentum"),
        (["federation.weighting=fair"], "federation.weighting"),
        (["privacy.delta=0"], "privacy.delta"),
        (["privacy.delta=0.5"], "privacy.delta"),
        (["privacy.view=everything"], "privacy.view"),
        (["privacy.randomness=sometimes"], "privacy.randomness"),
        (["dataset.source=imagined"], "dataset.source"),
        (["dataset.size=huge"], "dataset.size"),
        (["dataset.partition=random"], "dataset.partition"),
        (["dataset.test_fraction=1"], "dataset.test_fraction"),
        (["device=tpu"], "device"),
        (["seed=-1"], "seed"),
        (["engine.timeout_s=0"], "engine.timeout_s"),
        (["engine=processes", "engine.workers=-1"], "engine.workers"),
        (["engine=stacked", "engine.precision=fp8"], "engine.precision"),
        (["engine.precision=bf16"], "engine.precision"),
        (["sweep.workers=0"], "sweep.workers"),
        (["collapse.fraction=1.5"], "collapse.fraction"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_out_of_range(overrides: list[str], key: str) -> None:
    with hydra_ready(), pytest.raises(ConfigError) as caught:
        validate(to_cell_config(compose_cell(overrides)))
    assert caught.value.key == key
    assert caught.value.fix


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm.noise_multiplier=0"],
        ["algorithm.noise_multiplier=1e-3"],
        ["algorithm=none", "schedule.decay=0.2", "federation.rounds=8"],
        ["algorithm=svt", "schedule.decay=0.2", "federation.rounds=8"],
        ["algorithm=central_gaussian", "algorithm.n_sites=3"],
        ["algorithm=central_gaussian", "algorithm.n_sites=5", "dataset.n_sites=5"],
    ],
    ids=" ".join,
)
def test_in_range(overrides: list[str]) -> None:
    with hydra_ready():
        validate(to_cell_config(compose_cell(overrides)))


def test_message_names_everything() -> None:
    with pytest.raises(ConfigError) as caught:
        in_range("algorithm.sampling_rate", 1.5, above=0, most=1)
    text = str(caught.value)
    assert "algorithm.sampling_rate=1.5" in text
    assert "above 0" in text
    assert "at most 1" in text


def test_bounds_are_inclusive_where_they_say_so() -> None:
    in_range("k", 1.0, above=0, most=1)
    in_range("k", 0.0, least=0)
    in_range("k", None, above=0)
    with pytest.raises(ConfigError):
        in_range("k", 0.0, above=0)
