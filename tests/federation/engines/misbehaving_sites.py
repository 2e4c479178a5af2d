"""ClientApps that worker processes import: sites that fail, hang, exit or are killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedprivacy.federation import client_app


def _site_one(misbehave: Callable[[], None]) -> ClientApp:
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 1:
            misbehave()
        return client_app.app(message, context)

    app.train()(handle)
    app.evaluate()(handle)
    return app


def _raise() -> None:
    raise RuntimeError("volume 7 is torn")


raises = _site_one(_raise)
exits = _site_one(lambda: os._exit(9))
killed = _site_one(lambda: os.kill(os.getpid(), signal.SIGKILL))
hangs = _site_one(lambda: time.sleep(600))
slow = _site_one(lambda: time.sleep(0.4))
