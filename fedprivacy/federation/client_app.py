"""The Flower ClientApp: a site's side of the federation."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedprivacy.errors import TrainingCollapsed
from fedprivacy.federation.messages import (
    ARRAYS,
    CELL,
    CONFIG,
    ROUND,
    decode_vector,
    evaluate_reply,
    train_reply,
    trouble_reply,
)
from fedprivacy.federation.site import CellRuntime, open_runtime

Handler = Callable[[Message, CellRuntime, int], Message]

app = ClientApp()


def guarded(handler: Handler) -> Callable[[Message, Context], Message]:
    """Wrap a handler so that nothing but a sound reply or a report of trouble leaves the site.

    An exception becomes a reply that carries its type, message and traceback, on every engine
    alike; collapsed training becomes a reply without any array.
    """

    def handle(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        site = f"partition {partition}"
        try:
            runtime = open_runtime(str(context.run_config[CELL]))
            site = runtime.nodes[partition].name
            _use_threads(runtime.config.engine.torch_threads)
            return handler(message, runtime, partition)
        except TrainingCollapsed as collapse:
            report: dict[str, Any] = {"status": "collapsed", "reason": collapse.reason}
        except Exception as error:
            report = {
                "status": "failed",
                "type": type(error).__name__,
                "message": str(error),
                "traceback": traceback.format_exc(),
            }
        return trouble_reply(message, partition=partition, report={**report, "site": site})

    return handle


def _use_threads(threads: int) -> None:
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def train_site(message: Message, runtime: CellRuntime, partition: int) -> Message:
    """Train from the global weights; send the protected update and its event."""
    weights = decode_vector(message.content[ARRAYS]["vector"])  # type: ignore[arg-type, index]
    round_number = int(message.content[CONFIG][ROUND])  # type: ignore[arg-type, call-overload]
    done = runtime.train(partition, round_number, weights)
    report = {
        "status": "ok",
        "site": done.event.site,
        "event": done.event.to_json(),
        "steps": done.steps,
        "noise_norm": done.noise_norm,
    }
    if runtime.config.privacy.diagnostics:
        report["loss"] = done.loss
    return train_reply(
        message,
        partition=partition,
        update=done.update,
        num_examples=done.num_examples,
        report=report,
    )


def evaluate_site(message: Message, runtime: CellRuntime, partition: int) -> Message:
    """Score the weights on held-out records; send the evidence."""
    weights = decode_vector(message.content[ARRAYS]["vector"])  # type: ignore[arg-type, index]
    rows, labels, parts = runtime.evaluate(partition, weights)
    return evaluate_reply(message, partition=partition, evidence=rows, labels=labels, parts=parts)


app.train()(guarded(train_site))
app.evaluate()(guarded(evaluate_site))
