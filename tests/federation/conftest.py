"""Federations with sites that misbehave, and what they leave."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import pytest
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedprivacy.federation.client_app import evaluate_site, guarded, train_site
from fedprivacy.federation.engines.local_grid import task_identity
from fedprivacy.federation.run import FederationOutcome
from fedprivacy.federation.site import close_runtime

Handler = Callable[[Message, Context], Message]


@pytest.fixture(autouse=True)
def fresh_runtime() -> Iterator[None]:
    """No test sees the runtime of another."""
    close_runtime()
    yield
    close_runtime()


@pytest.fixture
def identity() -> Iterator[None]:
    """What Flower asks for before it makes a message."""
    with task_identity(1):
        yield


@pytest.fixture(scope="session")
def sites() -> Callable[..., ClientApp]:
    """``sites(train=..., evaluate=...)``: the package's sites with handlers replaced."""

    def made(train: Handler | None = None, evaluate: Handler | None = None) -> ClientApp:
        app = ClientApp()
        app.train()(train or guarded(train_site))
        app.evaluate()(evaluate or guarded(evaluate_site))
        return app

    return made


@pytest.fixture(scope="session")
def digest() -> Callable[[FederationOutcome], str]:
    """Hash of a run's final weights, all sites' in their order."""

    def hashed(outcome: FederationOutcome) -> str:
        whole = torch.cat(list(outcome.weights.values()))
        return hashlib.sha256(whole.numpy().tobytes()).hexdigest()

    return hashed
