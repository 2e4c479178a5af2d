"""Who is told about a round while it happens: progress bars, tuning that prunes, audits.

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
    from fedprivacy.federation.strategy import Exchange, RoundOutcome

    Listener = Callable[[RoundOutcome], None]
    Observer = Callable[[Exchange], None]

TOKEN = "listener"
_listeners: dict[str, Listener] = {}
_observers: dict[str, Observer] = {}
_tokens = itertools.count(1)


@contextmanager
def listening(listener: Listener | None, observer: Observer | None = None) -> Iterator[str]:
    """Register a listener for the duration of a run; yields the token to pass on.

    Args:
        listener: told about every finished round.
        observer: shown what the server sees in every round.
    """
    token = f"listener-{next(_tokens)}"
    if listener is not None:
        _listeners[token] = listener
    if observer is not None:
        _observers[token] = observer
    try:
        yield token
    finally:
        _listeners.pop(token, None)
        _observers.pop(token, None)


def find_listener(context: Context) -> Listener | None:
    """The listener of this run, if there is one in this process."""
    return _listeners.get(str(context.run_config.get(TOKEN, "")))


def find_observer(context: Context) -> Observer | None:
    """The observer of this run, if there is one in this process."""
    return _observers.get(str(context.run_config.get(TOKEN, "")))
