"""Fixtures for the whole suite: composed configurations, and small cells on real records."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from functools import cache

import absl.logging
import pytest

from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.loading import to_cell_config
from fedprivacy.config.schema import CellConfig

# absl, which dp-accounting imports, keeps the stream that was sys.stderr when it was imported and
# closes it when Hydra configures logging. Here that stream would be pytest's capture.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

# Shells start background jobs with Ctrl-C ignored; tests of interruption need Python's own handler.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONG = ("test_notebooks", "test_command", "test_tune_command", "test_sweeps", "test_postgresql")
"""Files that take a minute or more, the longest first: none should begin when a worker is alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; the order within a file, and of the others, stays."""
    names = list(LONG)
    items.sort(key=lambda i: names.index(i.path.stem) if i.path.stem in names else len(names))


TINY = {
    "algorithm": "none",
    "dataset": "wisconsin",
    "privacy": "seeded",
    "tracking.enabled": "false",
    "federation.rounds": "3",
    "federation.local_epochs": "1",
    "engine.timeout_s": "120",
}


@pytest.fixture(scope="session")
def compose() -> Callable[..., CellConfig]:
    """``compose(*overrides)``: the configuration that these overrides compose."""

    @cache
    def composed(*overrides: str) -> CellConfig:
        with hydra_ready():
            return to_cell_config(compose_cell(overrides))

    return composed


@pytest.fixture(scope="session")
def tiny(compose: Callable[..., CellConfig]) -> Callable[..., CellConfig]:
    """``tiny(*overrides)``: three rounds of one epoch on Wisconsin, seeded, without protection."""

    def composed(*overrides: str) -> CellConfig:
        chosen = {**TINY, **dict(item.split("=", 1) for item in overrides)}
        return compose(*(f"{key}={value}" for key, value in chosen.items()))

    return composed
