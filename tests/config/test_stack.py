"""Stacks as configured: short forms are completed, and what is wrong is named."""

from __future__ import annotations

from typing import Any

import pytest

from fedprivacy.config.identity import cell_id
from fedprivacy.config.schema import DpsgdConf, GaussianClippedConf, LocalSourceConf, StackedConf
from fedprivacy.config.serialization import dumps, loads
from fedprivacy.config.stack import completed, parts
from fedprivacy.config.validation import validate
from fedprivacy.errors import ConfigError


def stacked(tiny: Any, mechanisms: str) -> Any:
    return tiny("algorithm=stacked", f"algorithm.mechanisms={mechanisms}")


def test_names_take_the_datasets_and_the_algorithms_defaults(tiny) -> None:
    config = stacked(tiny, "[local_source,dpsgd,{name: gaussian_clipped, clip: 0.5}]")
    source, dpsgd, clipped = parts(config.algorithm)
    training = config.dataset.training
    assert source == LocalSourceConf(bounds=list(config.dataset.feature_bounds))
    assert dpsgd == DpsgdConf(
        noise_multiplier=training.noise_multiplier,
        sampling_rate=training.sampling_rate,
        max_grad_norm=training.max_grad_norm,
    )
    assert clipped == GaussianClippedConf(clip=0.5)


def test_a_completed_stack_stays_as_it_is_and_survives_the_journey(tiny) -> None:
    config = stacked(tiny, "[dpsgd,gaussian_clipped]")
    assert completed(config.algorithm, config.dataset) == config.algorithm
    assert loads(dumps(config)) == config
    validate(config)


def test_short_and_long_forms_are_one_cell(tiny) -> None:
    short = stacked(tiny, "[dpsgd,gaussian_clipped]")
    long = stacked(
        tiny, "[{name: dpsgd, noise_multiplier: 2.0},{name: gaussian_clipped, clip: 1.0}]"
    )
    other = stacked(tiny, "[dpsgd,{name: gaussian_clipped, clip: 2.0}]")
    assert cell_id(short) == cell_id(long) != cell_id(other)


@pytest.mark.parametrize(
    ("mechanisms", "words"),
    [
        ([], "at least two"),
        (["dpsgd"], "at least two"),
        (["dpsgd", "magic"], "algorithms among"),
        ([{"clip": 1.0}, "dpsgd"], "the name of an algorithm"),
        (["dpsgd", {"name": "gaussian_clipped", "clap": 1.0}], "keys of gaussian_clipped"),
        ([{"name": "dpsgd", "target_epsilon": 3.0}, "gaussian_clipped"], "null in a stack"),
        (["dpsgd", {"name": "gaussian_clipped", "clip": -1.0}], "finite and > 0"),
        (["dpsgd", "stacked"], "do not nest"),
    ],
)
def test_what_is_wrong_is_named(tiny, mechanisms: list[Any], words: str) -> None:
    from dataclasses import replace

    config = replace(tiny("algorithm=none"), algorithm=StackedConf(mechanisms=mechanisms))
    with pytest.raises(ConfigError, match=words):
        validate(config)
