"""Keeping Flower's side effects to itself: loggers and the environment are left as found."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_flower(level: int = logging.WARNING) -> Iterator[None]:
    """Silence Flower below ``level`` and stop its second handler from repeating every line."""
    logger = logging.getLogger("flwr")
    saved = logger.level, logger.propagate, list(logger.handlers)
    logger.setLevel(level)
    logger.handlers = []
    logger.propagate = True
    try:
        yield
    finally:
        logger.setLevel(saved[0])
        logger.propagate = saved[1]
        logger.handlers = saved[2]


@contextmanager
def process_state_kept() -> Iterator[None]:
    """Put back what Flower's simulation runtime changes: environment, path, loggers."""
    environment, path = dict(os.environ), list(sys.path)
    loggers = [logging.getLogger(name) for name in (None, "ray", "flwr", "flwr-telemetry")]
    logging_state = [(log, log.level, log.propagate, list(log.handlers)) for log in loggers]
    try:
        yield
    finally:
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        sys.path[:] = path
        for log, level, propagate, existing in logging_state:
            log.setLevel(level)
            log.propagate = propagate
            log.handlers = existing
