"""Who is told about a round while it happens: progress bars, and tuning that prunes.

Flower's run configuration carries scalars only, so a listener is left here under a token and
found again by the ServerApp, which runs in the same process on every simulation engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flwr.app import Context

if TYPE_CHECKING:
    from fedprivacy.federation.strategy import RoundOutcome

TOKEN = "listener"
_listeners: dict[str, Callable[[RoundOutcome], None]] = {}
_tokens = itertools.count(1)


@contextmanager
def listening(listener: Callable[[RoundOutcome], None] | None) -> Iterator[str]:
    """Register a listener for the duration of a run; yields the token to pass on."""
    token = f"listener-{next(_tokens)}"
    if listener is not None:
        _listeners[token] = listener
    try:
        yield token
    finally:
        _listeners.pop(token, None)


def find_listener(context: Context) -> Callable[[RoundOutcome], None] | None:
    """The listener of this run, if there is one in this process."""
    return _listeners.get(str(context.run_config.get(TOKEN, "")))
