"""Cells of a study are what Hydra itself would compose."""

from __future__ import annotations

import pytest

from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.loading import to_cell_config
from fedprivacy.errors import ConfigError
from fedprivacy.tuning.composing import Composer
from fedprivacy.tuning.space import Value

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
