"""fedprivacy's sites, in processes that make the records which they have not been given."""

from __future__ import annotations

import functools
import os

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from work import COLUMNS, records

from fedprivacy.config.serialization import loads
from fedprivacy.data import cache
from fedprivacy.data.base import FederatedData, SiteData
from fedprivacy.federation import client_app
from fedprivacy.federation.messages import CELL

app = ClientApp()


def data(sites: int, rows: int) -> FederatedData:
    """The same records; a few of the last ones stand for the held-out ones, which nobody scores."""

    def site(index: int) -> SiteData:
        x, y = records(index + 1, rows)
        names = np.array([f"{index}-{row}" for row in range(rows)])
        return SiteData(f"site-{index}", x, y.long(), x[-16:], y[-16:].long(), names, names[-16:])

    return FederatedData(
        name="peers", task="binary", n_classes=2, input_shape=(COLUMNS,), metric="accuracy",
        sites=tuple(site(index) for index in range(sites)), synthetic=True, fingerprint="peers",
    )  # fmt: skip


@functools.cache
def install(cell: str) -> None:
    """Put the records where the package looks for those of the cell, once a process."""
    conf = loads(cell).dataset
    cache._loaded[cache.dataset_key(conf)] = data(conf.n_sites, int(os.environ["PEER_ROWS"]))


@app.train()
def train(message: Message, context: Context) -> Message:
    """The package's own."""
    install(str(context.run_config[CELL]))
    return client_app.app(message, context)
