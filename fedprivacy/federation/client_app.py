"""The Flower ClientApp: a site's side of the federation."""

from __future__ import annotations

import math
import secrets
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from fedprivacy.federation.messages import (
    CELL,
    evaluate_reply,
    read_instruction,
    train_reply,
    trouble_reply,
)
from fedprivacy.federation.site import CellRuntime, LocalCollapse, open_runtime
from fedprivacy.threads import use_threads

Handler = Callable[[Message, CellRuntime, int, Context], Message]

_SITE, _SECRET = "site", "secret"

app = ClientApp()


def guarded(handler: Handler) -> Callable[[Message, Context], Message]:
    """Wrap a handler so that nothing but a sound reply or a report of trouble leaves the site.

    An exception becomes a reply that carries its type, message and traceback, on every engine
    alike.
    """

    def handle(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        site = f"partition {partition}"
        try:
            runtime = open_runtime(str(context.run_config[CELL]))
            site = runtime.nodes[partition].name
            use_threads(runtime.config.engine.torch_threads)
            return handler(message, runtime, partition, context)
        except Exception as error:
            report = {
                "status": "failed",
                "site": site,
                "type": type(error).__name__,
                "message": str(error),
                "traceback": traceback.format_exc(),
            }
            return trouble_reply(message, partition=partition, report=report)

    return handle


def kept_secret(context: Context) -> int:
    """256 bits that a site draws once and keeps in its own state, whichever process serves it.

    Noise on records is drawn once: new noise in each round would be as many releases.
    """
    if _SITE not in context.state:
        context.state[_SITE] = ConfigRecord({_SECRET: secrets.token_hex(32)})
    return int(str(context.state[_SITE][_SECRET]), 16)


def train_site(message: Message, runtime: CellRuntime, partition: int, context: Context) -> Message:
    """Train from the global weights; send the protected update and its event.

    Collapsed training sends the news of it and no array.
    """
    weights, round_number, clip = read_instruction(message)
    secret = kept_secret(context) if runtime.source is not None else 0
    done = runtime.train(partition, round_number, weights, clip=clip, secret=secret)
    events = [event.to_json() for event in done.events]
    report: dict[str, Any] = {"site": done.events[0].site, "events": events}
    if isinstance(done, LocalCollapse):
        report |= {"status": "collapsed", "reason": done.reason}
        return trouble_reply(message, partition=partition, report=report)
    report |= {"status": "ok", "steps": done.steps}
    if done.signal is not None:
        report["signal"] = done.signal
    if runtime.config.privacy.diagnostics:
        # All may depend on the records: a filter's noise follows the size of the raw update.
        diagnostics = {"loss": done.loss, "noise_norm": done.noise_norm}
        if done.what_if_mu is not None:
            diagnostics["what_if_mu"] = done.what_if_mu
        report |= {name: value for name, value in diagnostics.items() if math.isfinite(value)}
    return train_reply(
        message,
        partition=partition,
        update=done.update,
        num_examples=done.num_examples,
        report=report,
    )


def evaluate_site(
    message: Message, runtime: CellRuntime, partition: int, context: Context
) -> Message:
    """Score the weights on held-out records; send the evidence.

    Weights whose predictions are not finite send the news of it and no array.
    """
    weights, _, _ = read_instruction(message)
    rows, labels, parts = runtime.evaluate(partition, weights)
    if not np.isfinite(rows).all():
        site = runtime.nodes[partition].name
        report = {"status": "collapsed", "site": site, "reason": "predictions became non-finite"}
        return trouble_reply(message, partition=partition, report=report)
    return evaluate_reply(message, partition=partition, evidence=rows, labels=labels, parts=parts)


app.train()(guarded(train_site))
app.evaluate()(guarded(evaluate_site))
